"""Patients with telling names go through everything, failures included: their names are nowhere but where they belong.

They belong into the spool, the work files and the results. Not into logs, metrics, traces, the index, the workflow
engine's state, the audit trail or an error's text.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import structlog
from pydicom import dcmread, dcmwrite

from allpacs.app import Worker, make_audit, open_store, start_monitor, start_tracing
from allpacs.store.records import RevisionState
from allpacs.telemetry import tracing
from allpacs.telemetry.logs import configure_logs
from conformance.support.network import free_port, wait_until
from faults.raw_sender import RawSender
from faults.test_hostile_senders import instance
from faults.worker_process import brightness_logits
from support.hospital import StubHospital, drawn_study
from support.otlp_receiver import TakenSpan, otlp_receiver

pytestmark = pytest.mark.process

#: In names, identifiers, descriptions; upper and lower case are looked for.
CANARIES = ("Canaryname", "Canarygiven", "CANARYID77", "CANARYACC")


def _leaks(content: bytes) -> list[str]:
    found = content.upper()
    return [one for one in CANARIES if one.upper().encode() in found or one.upper().encode("utf-16-le") in found]


def _study(folder: Path, seeds: list[int]) -> list[Path]:
    files = drawn_study(folder, seeds, patient_name="Canaryname^Canarygiven", patient_id="CANARYID77")
    for file in files:
        dataset = dcmread(file)
        dataset.AccessionNumber = "CANARYACC"
        dataset.StudyDescription = dataset.ImageComments = "of Canaryname"
        dcmwrite(file, dataset)
    return files


def _traced_as_they_went(spans: list[TakenSpan]) -> None:
    """Check that what receiver and worker told of each study is one trace, whole from association to delivery."""
    whole = 0
    for trace_id in {span.trace_id for span in spans}:
        own = {span.span_id: span for span in spans if span.trace_id == trace_id}
        assert {span.attributes["allpacs.study_uid"] for span in own.values()} == {
            next(iter(own.values())).attributes["allpacs.study_uid"]
        }
        edges = {(own[span.parent_id].name if span.parent_id else "", span.name) for span in own.values()}
        steps = {("read", step) for step in ("plan", "cells", "classify", "report", "release")}
        assert (
            steps | {("", "study"), ("study", "association"), ("association", "instance"), ("study", "read")} <= edges
        )
        assert {span.service for span in own.values()} == {"allpacs-receive", "allpacs-work"}
        assert ("cells", "decode") in edges
        assert ("study", "delivery") in edges
        assert ("delivery", "deliver") in edges
        states = {
            span.attributes["allpacs.destination"]: span.attributes["allpacs.state"]
            for span in own.values()
            if span.name == "delivery"
        }
        whole += set(states.values()) <= {"sent", "committed"}
    assert whole == 2, "the others were given up"


def test_names_stay_where_they_belong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    extra = f'[work]\npoll_s = 0.05\n[audit]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    with otlp_receiver() as collector, StubHospital(tmp_path, quiet_s=0.2, extra=extra) as hospital:
        text = hospital.config.read_text().replace("[retry]\n", "[retry]\nmax_attempts = 2\n")
        text += f'[tracing]\nendpoint = "{collector.url}"\n'
        hospital.config.write_text(text)
        with (tmp_path / "receive.log").open("wb") as log:
            receiver = subprocess.Popen(
                [sys.executable, "-m", "allpacs", "receive", "--config", str(hospital.config)], stdout=log, stderr=log
            )
        store = open_store(hospital.settings)
        handlers = list(logging.root.handlers)
        configure_logs("debug", "json")
        audit = make_audit(hospital.settings, "work")
        start_tracing(hospital.settings, "work")
        worker = Worker(hospital.settings, store, predict=brightness_logits, audit=audit)
        worker.start()
        monitor = start_monitor(hospital.settings, store, 0, healthy=worker.healthy, ready=worker.ready)
        assert monitor is not None
        try:
            hospital.wait_for_echo(60)
            _study(tmp_path / "good", [1, 2])
            assert all(one.status == 0 for one in hospital.send(tmp_path / "good" / "dicom"))
            wait_until(lambda: store.studies.latest(state=RevisionState.DELIVERED), 60, "delivered")
            # Refusals, with the name where a UID belongs, too; noise; and pixels that cannot be decoded.
            with RawSender(hospital.port) as sender:
                wrong = instance("1.2.3", 1)
                wrong.PatientName, wrong.PatientID = "Canaryname^Canarygiven", "CANARYID77"
                wrong.StudyInstanceUID = "CANARYID77"
                assert sender.store(wrong) not in (0x0000, None)
                wrong.StudyInstanceUID, wrong.SOPInstanceUID = "1.2.3", "1.2.3.5"
                wrong.BitsAllocated = 3
                assert sender.store(wrong) == 0x0000
                sender.release()
            wait_until(lambda: len(store.studies.latest(state=RevisionState.DELIVERED)) == 2, 60, "read all the same")
            # A PACS that is away, and an EHR too: dead letters.
            hospital.pacs.stop()
            _study(tmp_path / "away", [3])
            assert all(one.status == 0 for one in hospital.send(tmp_path / "away" / "dicom"))
            wait_until(lambda: store.studies.latest(state=RevisionState.ATTENTION), 60, "a dead letter")
            hospital.ehr.stop()
            _study(tmp_path / "broken", [4])
            assert all(one.status == 0 for one in hospital.send(tmp_path / "broken" / "dicom"))
            wait_until(lambda: len(store.studies.latest(state=RevisionState.ATTENTION)) == 2, 60, "both given up")
            metrics = httpx.get(f"http://127.0.0.1:{monitor.port}/metrics").content
            ready = httpx.get(f"http://127.0.0.1:{monitor.port}/readyz").content
        finally:
            monitor.stop()
            worker.stop()
            tracing.stop()
            receiver.terminate()
            receiver.wait(30)
            store.close()
            # What it configured writes to streams that end with this test.
            structlog.reset_defaults()
            logging.root.handlers[:] = handlers
            logging.getLogger("dbos").handlers.clear()
        shown = subprocess.run(
            [sys.executable, "-m", "allpacs", "studies", "--json", "--config", str(hospital.config)],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        folder = hospital.settings.store.folder
        printed = "".join(capfd.readouterr()).encode()
        looked_at = {
            "log of the receiver": (tmp_path / "receive.log").read_bytes(),
            "log of the worker": printed,
            "metrics": metrics + ready,
            "traces": b"".join(collector.payloads),
            "command line": shown,
            **{path.name: path.read_bytes() for path in folder.glob("*.sqlite*")},
            **{f"recent log {path.name}": path.read_bytes() for path in (folder / "logs").rglob("*.jsonl*")},
            **{f"audit {path.name}": path.read_bytes() for path in (folder / "audit").rglob("*.xml")},
        }
        assert b"instance_refused" in looked_at["log of the receiver"]
        assert b"delivery_given_up" in looked_at["log of the worker"]
        assert any(name.startswith("audit") for name in looked_at)
        _traced_as_they_went(collector.spans)
        assert any(b"instance_refused" in text for name, text in looked_at.items() if name.startswith("recent log"))
        # The search finds what is there: the spool has the names.
        assert any(_leaks(path.read_bytes()) for path in (folder / "spool").rglob("*.dcm"))
        assert {name: _leaks(content) for name, content in looked_at.items() if _leaks(content)} == {}
        # And all of it is for its owner only.
        open_to_others = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        assert open_to_others == []
    sizes = sum(map(len, looked_at.values()))
    record_property(
        "figure", f"{len(looked_at)} outputs of {sizes / 1e6:.1f} MB looked at, {len(CANARIES)} canaries, 0 found"
    )
