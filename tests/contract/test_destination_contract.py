"""Every kind in `allpacs/deliver/destinations` keeps what `allpacs.deliver.destination.Destination` promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.destination import Destination
from allpacs.deliver.destinations.folder import FolderDestination
from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.deliver.mllp import MllpDestination
from allpacs.deliver.stow_rs import StowRsDestination
from allpacs.demo.archive import Archive
from allpacs.demo.fhir_endpoint import FhirEndpoint
from allpacs.domain.artefacts import DICOM, EVERY_MEDIA_TYPE, FHIR_JSON, HL7_V2, Artefact
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from allpacs.settings import DESTINATIONS
from conformance.support.hl7_server import hl7_server
from conformance.support.network import free_port
from support.deliver_samples import (
    fhir_artefact,
    hl7_artefact,
    html_artefact,
    http_server,
    leaks,
    scp,
    sr_artefact,
    stow_server,
)


@dataclass(frozen=True)
class Running:
    """A destination whose peer runs, and what the peer holds."""

    destination: Destination
    held: Callable[[], dict[str, bytes]]


@dataclass(frozen=True)
class Case:
    """How the suite reaches one kind of destination."""

    running: Callable[[Path], object]
    unreachable: Callable[[Path], Destination]
    refusing: Callable[[], object]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def _archive(folder: Path) -> Iterator[Running]:
    with Archive(folder, "PACS") as archive:
        yield Running(CStoreDestination(archive.host, archive.port, "PACS", "ALLPACS"), lambda: _files(folder))


@contextmanager
def _refusing_archive() -> Iterator[Destination]:
    with scp(lambda _event: 0xC000) as port:
        yield CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS")


@contextmanager
def _fhir_endpoint(folder: Path) -> Iterator[Running]:
    with FhirEndpoint(folder) as endpoint:
        yield Running(FhirRestDestination(endpoint.base_url), lambda: _files(folder))


@contextmanager
def _refusing_fhir_endpoint() -> Iterator[Destination]:
    def refuse(request: object, body: bytes) -> None:
        request.send_response(422)  # type: ignore[attr-defined]
        request.end_headers()  # type: ignore[attr-defined]
        request.wfile.write(body)  # type: ignore[attr-defined]

    with http_server(refuse) as base_url:
        yield FhirRestDestination(base_url)


@contextmanager
def _stow_archive(folder: Path) -> Iterator[Running]:
    with stow_server(folder) as base_url:
        yield Running(StowRsDestination(base_url), lambda: _files(folder))


@contextmanager
def _refusing_stow_archive() -> Iterator[Destination]:
    with stow_server(Path("unused"), lambda _uid: 0xC000) as base_url:
        yield StowRsDestination(base_url)


@contextmanager
def _interface_engine(_folder: Path) -> Iterator[Running]:
    received: dict[str, bytes] = {}
    with hl7_server(received) as port:
        yield Running(MllpDestination("127.0.0.1", port), lambda: dict(received))


@contextmanager
def _refusing_interface_engine() -> Iterator[Destination]:
    with hl7_server({}, lambda message: str(message.create_ack("AR"))) as port:
        yield MllpDestination("127.0.0.1", port)


@contextmanager
def _folder(folder: Path) -> Iterator[Running]:
    yield Running(FolderDestination(folder), lambda: _files(folder))


@contextmanager
def _refusing_folder() -> Iterator[Destination]:
    class Refusing(FolderDestination):
        """A folder refuses nothing but a file name that leads out of it."""

        def deliver(self, artefacts):
            return super().deliver([replace(artefact, file_name="../out") for artefact in artefacts])

    yield Refusing(Path("unused"))


CASES: dict[str, Case] = {
    "c_store": Case(
        _archive,
        lambda _folder: CStoreDestination("127.0.0.1", free_port(), "PACS", "ALLPACS", timeout_s=5),
        _refusing_archive,
    ),
    "fhir": Case(
        _fhir_endpoint,
        lambda _folder: FhirRestDestination(f"http://127.0.0.1:{free_port()}", timeout_s=5),
        _refusing_fhir_endpoint,
    ),
    "stow_rs": Case(
        _stow_archive,
        lambda _folder: StowRsDestination(f"http://127.0.0.1:{free_port()}", timeout_s=5),
        _refusing_stow_archive,
    ),
    "mllp": Case(
        _interface_engine,
        lambda _folder: MllpDestination("127.0.0.1", free_port(), timeout_s=5),
        _refusing_interface_engine,
    ),
    "folder": Case(_folder, lambda folder: FolderDestination(folder / "not" / "mounted"), _refusing_folder),
}

ARTEFACTS: tuple[Artefact, ...] = (
    *(sr_artefact("first"), sr_artefact("second")),
    *(fhir_artefact(), html_artefact(), hl7_artefact()),
)


def _for(destination: Destination) -> list[Artefact]:
    return [artefact for artefact in ARTEFACTS if artefact.is_taken_by(destination.takes)]


each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def test_every_destination_is_asked():
    assert set(DESTINATIONS.kinds()) == set(CASES)


@each
def test_it_takes_some_kind_and_says_it_is_there(case, tmp_path):
    with case.running(tmp_path) as running:
        assert running.destination.takes
        assert running.destination.takes <= {DICOM, FHIR_JSON, HL7_V2, EVERY_MEDIA_TYPE}
        assert running.destination.check()
        assert running.held() == {}


@each
def test_delivered_once_it_is_there(case, tmp_path):
    with case.running(tmp_path) as running:
        receipt = running.destination.deliver(_for(running.destination))
        assert receipt.detail
        assert "\n" not in receipt.detail
        assert receipt.warning is None
        assert not leaks(receipt.detail)
        assert running.held()


@each
def test_delivered_twice_has_the_effect_of_once(case, tmp_path):
    with case.running(tmp_path) as running:
        artefacts = _for(running.destination)
        running.destination.deliver(artefacts)
        once = running.held()
        receipt = running.destination.deliver(artefacts)
        assert running.held() == once
        assert receipt.warning is None


@each
def test_delivered_by_parts_it_is_the_same_as_at_once(case, tmp_path):
    with case.running(tmp_path / "parts") as parts, case.running(tmp_path / "all") as whole:
        for artefact in _for(parts.destination):
            parts.destination.deliver([artefact])
        whole.destination.deliver(_for(whole.destination))
        assert len(parts.held()) == len(whole.held())


@each
def test_kinds_it_does_not_take_are_left_out(case, tmp_path):
    with case.running(tmp_path / "a") as every_kind, case.running(tmp_path / "b") as own_kinds:
        every_kind.destination.deliver(ARTEFACTS)
        own_kinds.destination.deliver(_for(own_kinds.destination))
        assert len(every_kind.held()) == len(own_kinds.held())
        own_kinds.destination.deliver([])


@each
def test_unreachable_is_unavailable(case, tmp_path):
    destination = case.unreachable(tmp_path)
    with pytest.raises(DeliveryUnavailable) as on_delivery:
        destination.deliver(_for(destination))
    with pytest.raises(DeliveryUnavailable) as on_check:
        destination.check()
    for caught in (on_delivery, on_check):
        assert caught.value.reason
        assert "\n" not in caught.value.reason
        assert not leaks(str(caught.value))


@each
def test_refused_is_rejected_without_patient_data(case):
    with case.refusing() as destination, pytest.raises(DeliveryRejected) as caught:
        destination.deliver(_for(destination))
    assert caught.value.reason
    assert not leaks(str(caught.value))
