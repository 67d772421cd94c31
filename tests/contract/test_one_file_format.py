"""A report format is one file: found, written, sent, kept and shown, though nothing else names it."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

import allpacs.report
from allpacs.console import access
from allpacs.console.access import Person, Role
from allpacs.console.app import make_console
from allpacs.deliver.destinations.folder import FolderDestination
from allpacs.deliver.mllp import MllpDestination
from allpacs.deliver.retry import RetryPolicy
from allpacs.domain.artefacts import Artefact
from allpacs.domain.findings import StudyFindings
from allpacs.flow.delivery import DeliveryStep
from allpacs.report.format import Format, formats
from allpacs.report.inputs import FormatInputs
from allpacs.settings import load_settings
from allpacs.store.records import DeliveryState
from allpacs.store.store import Store
from allpacs.study.results import results
from conformance.support.report_samples import CONTEXT, study, usual_headers, usual_study
from support.console_samples import painted_study
from support.reading_steps import STUDY, read_study, reading_of, stored_study

#: In the order in which they are written.
SHIPPED = ["annotations", "key-images", "sr", "html", "pdf", "fhir", "hl7v2"]


def _find(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the modules of a folder found as if they lay in `allpacs.report`."""
    monkeypatch.setattr(allpacs.report, "__path__", [*allpacs.report.__path__, str(folder)])


@pytest.fixture
def before() -> dict[str, Artefact]:
    """The results without it."""
    return {one.kind: one for one in results(usual_study(), usual_headers(), CONTEXT)}


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, before: dict[str, Artefact]) -> Iterator[None]:
    """One more file in `allpacs.report`."""
    assert "cells-csv" not in before
    _find(monkeypatch, Path(__file__).with_name("one_file_format"))
    yield
    sys.modules.pop("allpacs.report.cells_csv", None)
    vars(allpacs.report).pop("cells_csv", None)


def test_the_formats_in_their_order() -> None:
    assert [one.kind for one in formats()] == SHIPPED
    places = {one.kind: place for place, one in enumerate(formats())}
    for one in formats():
        assert all(places[earlier] < places[one.kind] for earlier in (*one.after, *one.embeds))


@pytest.mark.usefixtures("added")
def test_it_is_a_result_and_the_others_stay_as_they_are(before: dict[str, Artefact]) -> None:
    made = {one.kind: one for one in results(usual_study(), usual_headers(), CONTEXT)}
    added = made.pop("cells-csv")
    assert (added.media_type, added.file_name) == ("text/csv; charset=utf-8", f"{added.uid}.csv")
    lines = list(csv.DictReader(added.content.decode().splitlines()))
    assert [line["cell"] for line in lines] == [str(cell.cell_number) for cell in usual_study().cells]
    assert {line["report"] for line in lines} == {made["sr"].uid}
    assert made == before, "the others stay as they are"
    empty: StudyFindings = study([])
    assert "cells-csv" not in {one.kind for one in results(empty, {}, CONTEXT)}, "not wanted without a cell"


@pytest.mark.usefixtures("added")
def test_from_a_study_to_the_folder_and_the_console(tmp_path: Path) -> None:
    store = stored_study(tmp_path, painted_study(tmp_path / "source", range(2), study_uid=STUDY))
    read_study(reading_of(store, tmp_path))
    kept = {one.kind: one for one in store.artefacts.get(STUDY, 1)}
    assert len(kept["cells-csv"].content.splitlines()) == 3, "a heading and a line for each of two cells"

    delivery = DeliveryStep(
        store=store,
        destinations={"share": FolderDestination(tmp_path / "share"), "ehr": MllpDestination("127.0.0.1", 1)},
        retry=RetryPolicy(),
        now=lambda: 1000.0,
        patiently=lambda function, *arguments: function(*arguments),
    )
    assert delivery.destinations_of(STUDY, 1) == ["ehr", "share"]
    store.deliveries.queue(STUDY, 1, ["share"], now=1000.0)
    assert delivery.attempt(STUDY, 1, "share", 1) == DeliveryState.SENT
    assert (tmp_path / "share" / kept["cells-csv"].file_name).read_bytes() == kept["cells-csv"].content

    page = f"/studies/{STUDY}/revisions/1"
    browser = _reader(store)
    assert re.findall(rf'href="{page}/artefacts/([^"]*)"', browser.get(page).text) == sorted(kept)
    shown = browser.get(f"{page}/artefacts/cells-csv")
    assert shown.content == kept["cells-csv"].content
    assert kept["cells-csv"].file_name in shown.headers["content-disposition"]
    store.close()


def _reader(store: Store) -> TestClient:
    """Return a browser of somebody who may look at studies."""
    settings = load_settings(store={"folder": store.spool.folder.parent}, receive={"port": 1})
    console = make_console(settings, store)

    def enter(request: Request) -> Response:
        access.sign_in(request, Person("ada", "Person^Ada", frozenset({Role.VIEWER})), store.sessions)
        return PlainTextResponse("")

    console.router.routes.insert(0, Route("/test-enter", enter))
    browser = TestClient(console, base_url="http://127.0.0.1:8142")
    browser.get("/test-enter")
    return browser


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ('"sr", "text/plain", ".txt", print', "two modules declare the report format sr: another and sr"),
        ('"more", "text/plain", ".txt", print, after=("nothing",)', "more is written after nothing, which no module"),
        ('"more", "text/plain", ".txt", print, embeds=("more",)', "more is written after itself: more after more"),
        ('"more-2", "text/plain", ".txt", print', "'more-2' is no kind of result"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(
    declared: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"from allpacs.report.format import Format\nFORMAT = Format({declared})\n"
    (tmp_path / "another.py").write_text(module, encoding="utf-8")
    _find(monkeypatch, tmp_path)
    try:
        with pytest.raises(ValueError, match=said):
            formats()
    finally:
        sys.modules.pop("allpacs.report.another", None)
        vars(allpacs.report).pop("another", None)


def test_each_content_is_held_only_as_long_as_a_later_format_embeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}

    def watched(one: Format) -> Format:
        def write(inputs: FormatInputs) -> object:
            seen[one.kind] = set(inputs.contents)
            return one.write(inputs)

        return replace(one, write=write)  # type: ignore[arg-type]

    monkeypatch.setattr("allpacs.study.results.formats", lambda: [watched(one) for one in formats()])
    made: list[Artefact] = list(results(usual_study(), usual_headers(), CONTEXT))
    assert seen == {"sr": set(), "html": set(), "fhir": {"html"}, "hl7v2": set()}
    assert [one.kind for one in made] == list(seen)


def test_the_headers_are_read_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Watched(dict):  # type: ignore[type-arg]
        def __getitem__(self, uid: str) -> object:
            read.append(uid)
            return super().__getitem__(uid)

        def get(self, uid: str, default: object = None) -> object:
            read.append(uid)
            return super().get(uid, default)

    headers = Watched(usual_headers())
    made = results(usual_study(), headers, replace(CONTEXT, annotations_above=1))
    next(made)
    before = len(read)
    rest = list(made)
    assert len(rest) >= 4
    assert len(read) == before, "no format reads a header"
