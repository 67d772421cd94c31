"""The reference pages: every key of the settings, every command with its options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from allpacs.cli import EXIT_CODES, app
from allpacs.domain.extensions import Extensions
from allpacs.settings import ENGINES, SHIPPED_BUNDLE, ModelSettings, Settings
from allpacs.settings.extensions import OneOf

_FOLDER = Path(__file__).parent
_MADE = "<!-- Made from the code by `python -m docs`: change it there. -->"
#: How a key's name ends, and what it is counted in.
_UNITS = {"_per_s": "1/s", "_s": "s", "_minutes": "min", "_mb": "MB", "_um": "µm", "_px": "px", "_days": "d"}
#: What stands in a key for a name of the site's own choice, by the key of its table.
_NAMES = {"sources": "PACS", "destinations": "NAME"}
_PATHS = {
    str(SHIPPED_BUNDLE): "the shipped bundle",
    str(user_data_path("allpacs")): "the user's data folder",
    str(user_cache_path("allpacs")): "the user's cache folder",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file: its place (with a name of the site's choice in capitals), and what it is read into."""

    place: tuple[str, ...]
    model: type[BaseModel]

    @property
    def kind(self) -> str | None:
        """What ``kind`` must be, where it tells one table from another at the same place."""
        field = self.model.model_fields.get("kind")
        return None if field is None else str(get_args(field.annotation)[0])

    def leaves(self) -> Iterator[tuple[str, FieldInfo]]:
        """Yield the keys that hold values, not tables."""
        for key, field in self.model.model_fields.items():
            if not list(_models(field.annotation)):
                yield key, field
        if self.model is ModelSettings:
            for _, engine in ENGINES.all():
                yield from engine.model_fields.items()


def tables(model: type[BaseModel] = Settings, place: tuple[str, ...] = ()) -> Iterator[Table]:
    """Yield every table that a configuration can have, each before those within it."""
    if place:
        yield Table(place, model)
    for key, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from tables(inner, (*place, key, *([_NAMES[key]] if key in _NAMES else [])))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    extensions = [one for one in get_args(annotation) if isinstance(one, Extensions)]
    if extensions:  # instead of what they have in common
        yield from (declared for one in extensions for _, declared in one.all())
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, dict):
        for argument in get_args(annotation):
            yield from _models(argument)


def example(field: FieldInfo) -> Any:
    """Return a value that the key may have, as it would stand in a file."""
    if field.examples:
        return field.examples[0]
    value = field.get_default(call_default_factory=True)
    return next(_literals(field.annotation), None) if value is PydanticUndefined else value


def configuration() -> str:
    """Return the page of every key."""
    lines = [
        _MADE,
        "",
        "# Configuration",
        "",
        "One TOML file, named with `--config`, then the environment, which has the last word: `ALLPACS_SECTION__KEY`,",
        "for example `ALLPACS_RECEIVE__PORT=104` or `ALLPACS_DESTINATIONS__EHR__BEARER_TOKEN=…`. An unknown key is an",
        "error, as is a value out of range; the message names the file or the variable. Passwords and tokens belong in",
        "the environment; they are masked wherever settings are printed.",
        "",
        "`PACS` and `NAME` in the headings stand for an AE title and for a name of your choice: of these tables there",
        "can be many.",
        "",
        "`allpacs init` writes a first file, `deploy/allpacs.toml` is a longer one to copy from, and",
        "`allpacs check-config` asks everything that a file names whether it is there.",
        "",
    ]
    for table in tables():
        heading = ".".join(table.place)
        lines += [f"## `[{heading}]`" + (f' with `kind = "{table.kind}"`' if table.kind else ""), ""]
        lines += [
            _first_line(table.model.__doc__),
            "",
            "| key | meaning | unit | default | example |",
            "|---|---|---|---|---|",
        ]
        for key, field in table.leaves():
            unit = next((unit for end, unit in _UNITS.items() if key.endswith(end)), "")
            cells = (f"`{key}`", _meaning(field), unit, _default(field), f"`{toml(example(field))}`")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Path):
        return json.dumps(str(value))
    return f"{value:_}" if isinstance(value, int) and value >= 1_000_000 else str(value)


def _meaning(field: FieldInfo) -> str:
    choices = [choice for one in field.metadata if isinstance(one, OneOf) for choice in one.choices]
    choices += _literals(field.annotation)
    text = field.description or ""
    return f"{text}; one of {', '.join(f'`{one}`' for one in choices)}" if len(choices) > 1 else text


def _literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif isinstance(annotation, OneOf):
        yield from annotation.choices
    else:
        for argument in get_args(annotation):
            yield from _literals(argument)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    return _PATHS.get(str(value), f"`{toml(value)}`")


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def commands() -> str:
    """Return the page of every command."""
    group = typer.main.get_command(app)
    lines = [_MADE, "", "# Commands", "", _paragraph(group.help), "", "| exit status | whose fault |", "|---|---|"]
    faults: dict[int, list[str]] = {0: ["done"], 2: ["the command line's"]}
    for kind, code in EXIT_CODES.items():
        faults.setdefault(code, []).append(_first_line(kind.__doc__))
    lines += [f"| {code} | {' '.join(faults[code])} |" for code in sorted(faults)] + [""]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        lines += [f"## `allpacs {name}`", "", _paragraph(command.help), "", *_parameters(command), ""]
    return "\n".join(lines)


def _parameters(command: Any) -> Iterator[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    if not shown:
        return
    yield "| argument | meaning | default |"
    yield "|---|---|---|"
    for one in shown:
        argument = one.param_type_name == "argument"
        named = (one.metavar or one.name.upper()) if argument else ", ".join((*one.opts, *one.secondary_opts))
        yield f"| `{named}` | {getattr(one, 'help', '') or ''} | {_given(one)} |".replace("\n", " ")


def _given(one: Any) -> str:
    if one.required:
        return "must be given"
    return "" if one.default is None or one.default in ((), False, "") else f"`{one.default}`"


def _paragraph(text: str | None) -> str:
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", (text or "").strip())


PAGES: dict[Path, Callable[[], str]] = {
    _FOLDER / "configuration.md": configuration,
    _FOLDER / "commands.md": commands,
}
