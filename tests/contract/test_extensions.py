"""What every extension declares: a name that is its file's, keys that are its own, and what its deliveries are."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest

from allpacs.audit.messages import AuditEvent
from allpacs.deliver.destination import Destination
from allpacs.domain.artefacts import DICOM
from allpacs.domain.extensions import CELL_FINDERS
from allpacs.settings import DESTINATIONS, ENGINES, DestinationSettings, EngineSettings, ModelSettings, load_settings

#: The keys that a destination of each kind must have.
REQUIRED = {
    "c_store": {"host": "pacs.example", "port": 104, "called_ae": "PACS"},
    "stow_rs": {"base_url": "https://archive.example"},
    "fhir": {"base_url": "https://fhir.example"},
    "mllp": {"host": "ris.example", "port": 2575},
    "folder": {"folder": "/srv/copies"},
}
each_destination = pytest.mark.parametrize("kind", DESTINATIONS.kinds())
each_engine = pytest.mark.parametrize("kind", ENGINES.kinds())


def _made(kind: str) -> Destination:
    settings = load_settings(destinations={"x": {"kind": kind, **REQUIRED[kind]}})
    destination: Destination = settings.destinations["x"].make("ALLPACS")
    return destination


def test_those_that_existing_files_name_are_there() -> None:
    assert set(DESTINATIONS.kinds()) >= {"c_store", "stow_rs", "fhir", "mllp", "folder"}
    assert set(ENGINES.kinds()) >= {"openvino", "tensorflow", "remote"}
    assert set(CELL_FINDERS.kinds()) >= {"whole_frame", "nucleus"}


@each_destination
def test_a_destination_declares_itself(kind: str) -> None:
    declared = DESTINATIONS.get(kind)
    assert issubclass(declared, DestinationSettings)
    assert not inspect.isabstract(declared)
    assert get_args(declared.model_fields["kind"].annotation) == (kind,), "the name of its file"
    assert inspect.getdoc(declared), "heads its keys in docs/configuration.md"


@each_destination
def test_a_delivery_is_in_the_audit_trail_as_what_it_is(kind: str) -> None:
    """DICOM objects that go to another archive are transferred (PS3.15 A.5.3.7); all else is exported (A.5.3.6)."""
    destination = _made(kind)
    expected = {
        "c_store": AuditEvent.INSTANCES_SENT,
        "stow_rs": AuditEvent.INSTANCES_SENT,
        "fhir": AuditEvent.EXPORTED,
        "mllp": AuditEvent.EXPORTED,
        "folder": AuditEvent.EXPORTED,
    }
    assert destination.audit_event is expected[kind]
    assert (destination.audit_event is AuditEvent.INSTANCES_SENT) == (destination.takes <= {DICOM})
    assert all("/" in media_type for media_type in destination.takes)


@each_engine
def test_an_engine_declares_itself(kind: str) -> None:
    declared = ENGINES.get(kind)
    assert issubclass(declared, EngineSettings)
    assert not inspect.isabstract(declared)
    assert all(key.startswith(f"{kind}_") for key in declared.model_fields), "its keys begin with its name"
    assert not declared.model_fields.keys() & ModelSettings.model_fields.keys()
    declared()  # every key has a default


def test_engines_that_are_chosen_by_themselves_have_an_order() -> None:
    def order(*, gpu: bool) -> list[str]:
        ranks = {kind: declared.automatic_rank(gpu=gpu) for kind, declared in ENGINES.all()}
        return sorted((kind for kind, rank in ranks.items() if rank is not None), key=lambda kind: ranks[kind] or 0)

    assert order(gpu=False) == ["openvino", "tensorflow"]
    assert order(gpu=True) == ["tensorflow"]


def test_no_key_of_model_is_taken_for_an_engines() -> None:
    assert not [key for key in ModelSettings.model_fields for kind in ENGINES.kinds() if key.startswith(f"{kind}_")]


def test_a_cell_finder_has_the_name_of_its_file() -> None:
    assert {kind: finder.name for kind, finder in CELL_FINDERS.all()} == {kind: kind for kind in CELL_FINDERS.kinds()}


def test_an_extension_is_not_named_anywhere_else() -> None:
    """A second file that knows kinds by name would have to be changed for a new one."""
    package = Path(__file__).parents[2] / "allpacs"
    elsewhere = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if file.parent.name not in {"destinations", "engines", "finders"}
        for kind in ("stow_rs", "mllp", "openvino", "whole_frame")
        if f'"{kind}"' in file.read_text("utf-8")
    }
    assert elsewhere == set()
