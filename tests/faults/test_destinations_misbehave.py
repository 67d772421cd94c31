"""One study to many destinations, each misbehaving in its own way: nothing lost, nothing twice, and it can be seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, ExplicitVRLittleEndian, generate_uid

from acceptance.reports import resources
from allpacs.app import make_receiver, open_store
from allpacs.commands.show import study_json
from allpacs.domain.identity import comprehensive_uid
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import worker
from support.deliver_samples import http_server, scp
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

TAKES_3D = ((Comprehensive3DSRStorage, (ExplicitVRLittleEndian,)),)
COMPREHENSIVE_ONLY = ((ComprehensiveSRStorage, (ExplicitVRLittleEndian,)),)
FINAL = {"sent", "committed", "dead"}

#: What is stored where: destination to UID to times.
Held = dict[str, Counter[str]]


class Pacs:
    """Answers the first C-STORE as told, later ones with success; remembers what it stored."""

    def __init__(self, stored: Counter[str], first: int | str) -> None:
        self._stored = stored
        self._first: int | str | None = first

    def __call__(self, event: Any) -> int:
        first, self._first = self._first, None
        if first == "abort":
            event.assoc.abort()
            return 0x0000
        status = 0x0000 if first is None else int(first)
        if status in (0x0000, 0xB000):
            self._stored[str(event.request.AffectedSOPInstanceUID)] += 1
        return status


def took(request: Any, body: bytes) -> None:
    """Answer as a server that has taken a transaction."""
    entries = [{"response": {"status": "200"}} for _ in json.loads(body)["entry"]]
    reply(request, 200, json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}))


def reply(request: Any, status: int, content: str, media_type: str = "application/fhir+json", **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", media_type)
    request.send_header("Content-Length", str(len(content.encode())))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(content.encode())


def always(status: int) -> Callable[[Any, bytes], None]:
    return lambda request, _body: reply(request, status, "{}")


def once(first: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
    """Answer the first request so, and take what comes later."""
    waiting = [first]
    return lambda request, body: (waiting.pop() if waiting else took)(request, body)


def half(request: Any, _body: bytes) -> None:
    entry = {"response": {"status": "201"}}
    reply(request, 200, json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": [entry]}))


def a_page(request: Any, _body: bytes) -> None:
    reply(request, 200, "<html>Please log in</html>", "text/html")


def commits_and_hangs_up(server: str) -> Callable[[Any, bytes], None]:
    """Hand the transaction on to a server; of the first the sender never hears, the second is answered."""
    lost = [True]

    def answer(request: Any, body: bytes) -> None:
        parts = urlsplit(server)
        connection = HTTPConnection(parts.hostname or "", parts.port)
        connection.request("POST", parts.path, body, {"Content-Type": "application/fhir+json"})
        told = connection.getresponse().read().decode()
        if lost:
            lost.pop()
            request.connection.close()
            return
        reply(request, 200, told)

    return answer


def destinations(stack: ExitStack, held: Held, ehr: str) -> Iterator[str]:
    """Start every destination; yield the part of the configuration that names it."""
    pacs = 'kind = "c_store"\nhost = "127.0.0.1"\ncalled_ae = "PACS"'
    for name, first, contexts, more in (
        ("full", 0xA700, TAKES_3D, ""),
        ("coercing", 0xB000, TAKES_3D, ""),
        ("refusing", 0xC001, TAKES_3D, ""),
        ("aborting", "abort", TAKES_3D, ""),
        ("older", 0x0000, COMPREHENSIVE_ONLY, ""),
        ("uncommitting", 0x0000, TAKES_3D, 'commitment = "when_offered"'),
        ("must_commit", 0x0000, TAKES_3D, 'commitment = "always"'),
    ):
        held[name] = Counter()
        port = stack.enter_context(scp(Pacs(held[name], first), contexts=contexts))
        yield f"[destinations.{name}]\n{pacs}\nport = {port}\n{more}\n"
    for name, answer in (
        *((f"fhir{status}", always(status)) for status in (412, 422)),
        ("fhir409", once(lambda request, _body: reply(request, 409, "{}"))),
        ("fhir429", once(lambda request, _body: reply(request, 429, "{}", Retry_After="1"))),
        ("fhir500", once(lambda request, _body: reply(request, 500, "{}"))),
        ("half", half),
        ("page", a_page),
        ("lost", commits_and_hangs_up(ehr)),
    ):
        url = stack.enter_context(http_server(answer))
        yield f'[destinations.{name}]\nkind = "fhir"\nbase_url = "{url}"\ntimeout_s = 5\n'


@contextmanager
def misbehaving(folder: Path, held: Held) -> Iterator[StubHospital]:
    with ExitStack() as stack:
        hospital = stack.enter_context(StubHospital(folder, quiet_s=0.0))
        parts = "".join(destinations(stack, held, hospital.ehr.base_url))
        with hospital.config.open("a", encoding="utf-8") as config:
            config.write(parts)
        yield hospital


def shown(store: Store, study_uid: str) -> dict[str, dict[str, Any]]:
    """Return what `allpacs show --json` tells of the deliveries."""
    row = store.studies.get(study_uid)
    return {} if row is None else {one["destination"]: one for one in study_json(store, row)["deliveries"]}


def test_each_ends_in_the_state_that_fits_and_says_why(tmp_path: Path) -> None:
    study_uid = generate_uid()
    held: Held = {}
    with misbehaving(tmp_path, held) as hospital:
        store = open_store(hospital.settings)
        drawn_study(tmp_path / "drawn", [1], study_uid=study_uid)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        hospital.send(tmp_path / "drawn")
        receiver.stop()
        with worker(hospital.config):
            wait_until(
                lambda: shown(store, study_uid) and {d["state"] for d in shown(store, study_uid).values()} <= FINAL,
                90,
                "every delivery at its end",
            )
        told = shown(store, study_uid)
        (sr,) = [one.uid for one in store.artefacts.get(study_uid, 1) if one.kind == "sr"]
        store.close()

    def ended(name: str, state: str, said: str, attempts: int) -> None:
        one = told[name]
        assert (one["state"], one["attempts"]) == (state, attempts), one
        assert said in (one["detail"] or ""), one

    ended("full", "sent", "0x0000", 2)
    ended("coercing", "sent", "0xB000", 1)
    ended("refusing", "dead", "0xC001", 1)
    ended("aborting", "sent", "0x0000", 2)
    ended("older", "sent", "0x0000", 1)
    ended("uncommitting", "sent", "0x0000", 1)
    ended("must_commit", "dead", "storage commitment not offered", 1)
    for status in (412, 422):
        ended(f"fhir{status}", "dead", str(status), 1)
    ended("fhir409", "sent", "200 OK", 2)
    ended("fhir429", "sent", "200 OK", 2)
    ended("fhir500", "sent", "200 OK", 2)
    ended("half", "dead", "the server answered 1 of", 1)
    ended("page", "dead", "but not FHIR", 1)
    ended("lost", "sent", "200", 2)
    # Nothing is held twice, nothing that was taken is missing.
    for name in ("full", "coercing", "uncommitting", "must_commit"):
        assert held[name] == {sr: 1}, name
    assert held["aborting"] == {sr: 1}
    assert held["older"] == {comprehensive_uid(sr): 1}
    assert held["refusing"] == {}
    # The EHR was sent the report by its own destination and twice by the one whose answer was lost: it holds one.
    assert len(resources(tmp_path / "ehr", "DiagnosticReport")) == 1
