"""The reference pages are those of the code, and what they show as an example can be written into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from allpacs.settings import load_settings
from docs.reference import PAGES, Table, example, tables, toml


@pytest.mark.parametrize(("path", "page"), PAGES.items(), ids=[path.name for path in PAGES])
def test_the_pages_are_not_stale(path: Path, page: Callable[[], str]) -> None:
    assert path.read_text(encoding="utf-8") == page(), "run `python -m docs`"


def test_every_key_says_what_it_means_and_has_an_example() -> None:
    for table in tables():
        for key, field in table.leaves():
            assert field.description or key == "kind", f"{table.place} {key}"
            assert example(field) is not None, f"{'.'.join(table.place)}.{key}: give it examples=[…]"


def _text(one: Table) -> str:
    lines = [f"[{'.'.join(one.place)}]", *(f"{key} = {toml(example(field))}" for key, field in one.leaves())]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("kind", sorted(one.kind for one in tables() if one.kind is not None))
def test_a_file_of_all_examples_is_a_configuration(kind: str, tmp_path: Path) -> None:
    """Only `kind` differs: every destination stands at one place."""
    chosen: list[Table] = []
    destination: str | None = None
    for one in tables():
        destination = one.kind or destination  # a table within a destination follows it
        if one.place[0] != "destinations" or destination == kind:
            chosen.append(one)
    file = tmp_path / "all.toml"
    file.write_text("".join(map(_text, chosen)), encoding="utf-8")
    settings = load_settings(file)
    assert settings.destinations["NAME"].kind == kind
    assert settings.receive.sources["PACS"].commitment is not None
