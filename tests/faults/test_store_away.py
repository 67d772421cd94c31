"""A store that cannot be written for a while, and an engine that loses its memory: work waits and then goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from dbos import DBOS, error
from sqlalchemy.exc import OperationalError

from allpacs.app import Worker, make_receiver, open_store
from allpacs.deliver.c_store import CStoreDestination
from allpacs.domain.artefacts import Artefact, Receipt
from allpacs.domain.errors import StoreFault
from allpacs.flow import Flow
from allpacs.store.artefacts import Artefacts
from allpacs.store.deliveries import Deliveries
from allpacs.store.findings import Findings
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits, slow_logits, worker
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

QUICK = "[work]\nchunk_instances = 1\npoll_s = 0.05\n"
SMALL_DISK_MB = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give the store's folder as a file system of its own that is soon full."""
    folder = tmp_path / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _received(hospital: StubHospital, folder: Path, cells: int) -> Store:
    store = open_store(hospital.settings)
    receiver = make_receiver(hospital.settings, store)
    receiver.start()
    drawn_study(folder, range(cells))
    assert all(one.status == 0 for one in hospital.send(folder / "dicom"))
    receiver.stop()
    return store


def _delivered(store: Store) -> bool:
    return store.studies.latest()[0].state == RevisionState.DELIVERED


def _fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return ballast


def test_a_disk_that_fills_while_a_study_is_read_holds_it_up_and_nothing_else(small_disk: Path, tmp_path: Path) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 8)
        study_uid = store.studies.latest()[0].study_uid
        with worker(hospital.config, predict=slow_logits):
            wait_until(lambda: len(store.findings.get(study_uid, 1, stage="classify")) >= 1, 60, "the first cell")
            ballast = _fill(small_disk)
            time.sleep(3)
            assert not hospital.reports
            ballast.unlink()
        # The engine's own database may have been the one to find the disk full: its worker ends and is started again.
        with worker(hospital.config, predict=brightness_logits):
            wait_until(lambda: _delivered(store), 60, "delivered once there is space again")
        assert len(hospital.reports) == 1
        assert len(hospital.ehr.resources("DiagnosticReport")) == 1
        revision = store.revisions.get(study_uid, 1)
        assert (revision.attempts, revision.reason) == (1, None)
        store.close()


def test_a_spool_that_is_away_for_a_while_holds_studies_up_and_ends_none(tmp_path: Path) -> None:
    """As by a mount that is lost and comes back: nobody has to ask for the study again."""
    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 2)
        study_uid = store.studies.latest()[0].study_uid
        spool, away = store.spool.folder, store.spool.folder.with_name("away")
        spool.rename(away)
        spool.mkdir()  # the mount point, empty
        with worker(hospital.config, predict=brightness_logits):
            wait_until(lambda: store.studies.latest()[0].state in set(RevisionState), 60, "its revision")
            wait_until(
                lambda: (store.revisions.get(study_uid, 1).reason or "").startswith("waiting:"),
                60,
                "a study that waits",
            )
            assert store.studies.latest()[0].state != RevisionState.ATTENTION
            shutil.rmtree(spool)
            away.rename(spool)
            wait_until(lambda: _delivered(store), 60, "delivered once the spool is back")
        assert len(hospital.reports) == 1
        assert store.revisions.get(study_uid, 1).attempts == 1
        store.close()


@contextmanager
def _in_process(hospital: StubHospital, store: Store, **options: object) -> Iterator[None]:
    """Run a worker in this process, where its parts can be made to fail, while the block runs."""

    def flow(**parts: object) -> Flow:
        return Flow(**(parts | options))  # type: ignore[arg-type]

    part = Worker(hospital.settings, store, predict=brightness_logits, flow_type=flow)
    part.start()
    try:
        yield
    finally:
        part.stop()


def test_results_out_of_reach_are_retried_and_their_outcome_is_written_down_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the fault outlasts the attempt: what was delivered is not delivered again."""
    get, set_state = Artefacts.get, Deliveries.set_state
    faults = {"get": 2, "set_state": 3}

    def unreadable(self: Artefacts, *arguments: object) -> object:
        faults["get"] -= 1
        if faults["get"] >= 0:
            raise StoreFault("Input/output error")
        return get(self, *arguments)  # type: ignore[arg-type]

    def unwritable(self: Deliveries, *arguments: object, **more: object) -> object:
        if DeliveryState.SENT in arguments:
            faults["set_state"] -= 1
            if faults["set_state"] >= 0:
                raise StoreFault("No space left on device")
        return set_state(self, *arguments, **more)  # type: ignore[arg-type]

    deliver = CStoreDestination.deliver
    sent: list[str] = []

    def counted(self: CStoreDestination, artefacts: Sequence[Artefact]) -> Receipt:
        sent.append("pacs")
        return deliver(self, artefacts)

    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 1)
        monkeypatch.setattr("allpacs.flow.flow._FIRST_WAIT_S", 0.05)
        monkeypatch.setattr(Artefacts, "get", unreadable)
        monkeypatch.setattr(Deliveries, "set_state", unwritable)
        monkeypatch.setattr(CStoreDestination, "deliver", counted)
        with _in_process(hospital, store):
            wait_until(lambda: _delivered(store), 30, "delivered")
        assert faults["get"] < 0
        assert faults["set_state"] < 0
        deliveries = store.deliveries.of_study(store.studies.latest()[0].study_uid)
        assert sum(one.attempts for one in deliveries) == len(deliveries) + 2  # two were put off by the first fault
        assert len(hospital.pacs.instances) == 1
        assert sent == ["pacs"]
        store.close()


def test_a_reading_whose_store_fails_waits_says_so_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Findings.put
    full = threading.Event()
    full.set()

    def unwritable(self: Findings, *arguments: object, **more: object) -> None:
        if full.is_set():
            raise StoreFault("No space left on device")
        put(self, *arguments, **more)  # type: ignore[arg-type]

    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 2)
        study_uid = store.studies.latest()[0].study_uid
        monkeypatch.setattr("allpacs.flow.flow._FIRST_WAIT_S", 0.05)
        monkeypatch.setattr(Findings, "put", unwritable)
        with _in_process(hospital, store):
            waiting = "waiting: No space left on device"
            wait_until(lambda: [one.reason for one in store.revisions.of_study(study_uid)] == [waiting], 30, waiting)
            full.clear()
            wait_until(lambda: _delivered(store), 30, "delivered by the same worker")
        revision = store.revisions.get(study_uid, 1)
        assert (revision.attempts, revision.reason) == (1, None)
        assert len(hospital.reports) == 1
        store.close()


def test_work_that_the_engine_has_forgotten_is_found_and_done(tmp_path: Path) -> None:
    """Its database is restored from an old copy, or deleted: the index alone knows what was under way."""
    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 2)
        study_uid = store.studies.latest()[0].study_uid
        ((_, revision),) = store.revisions.close_due(time.time() + 60)
        store.revisions.set_state(study_uid, revision, RevisionState.READING)
        with _in_process(hospital, store):
            wait_until(lambda: _delivered(store), 30, "the reading that was lost")
        assert store.revisions.get(study_uid, revision).attempts == 2

        # A delivery that was under way when the engine's database went.
        with sqlite3.connect(hospital.settings.store.folder / "index.sqlite") as index:
            index.execute("UPDATE deliveries SET state = 'sending', attempts = 5 WHERE destination = 'pacs'")
        for file in hospital.settings.store.folder.glob("workflow.sqlite*"):
            file.unlink()
        with _in_process(hospital, store):
            wait_until(lambda: {one.state for one in store.deliveries.of_study(study_uid)} == {DeliveryState.SENT}, 30)
        assert len(hospital.pacs.instances) == 1  # the same object again
        store.close()


def test_work_whose_workflow_failed_before_it_began_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade that calls workflows otherwise, or an engine that gave one up."""
    read, deliver = Flow._read_study, Flow._deliver_once
    failed: list[str] = []

    def failing_once(name: str, function: Callable[..., str]) -> Callable[..., str]:
        def run(self: Flow, *arguments: object) -> str:
            if name not in failed:
                failed.append(name)
                raise error.DBOSException("no longer fits")
            return function(self, *arguments)

        return run

    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 1)
        monkeypatch.setattr("allpacs.flow.housekeeping._SWEEP_S", 0.5)
        monkeypatch.setattr(Flow, "_read_study", failing_once("read", read))
        monkeypatch.setattr(Flow, "_deliver_once", failing_once("deliver", deliver))
        with _in_process(hospital, store):
            wait_until(lambda: _delivered(store), 30, "delivered")
        study_uid = store.studies.latest()[0].study_uid
        assert failed == ["read", "deliver"]
        assert store.revisions.get(study_uid, 1).attempts == 2
        assert sorted(one.attempts for one in store.deliveries.of_study(study_uid)) == [1, 2]
        assert len(hospital.reports) == 1
        store.close()


def test_the_dispatcher_outlives_the_engines_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue = DBOS.enqueue_workflow
    calls = []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) <= 2:
            raise OperationalError("INSERT", {}, Exception("disk I/O error"))
        return enqueue(*arguments)  # type: ignore[arg-type]

    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 1)
        monkeypatch.setattr(DBOS, "enqueue_workflow", failing)
        with _in_process(hospital, store):
            wait_until(lambda: _delivered(store), 30, "delivered")
        assert len(calls) > 2
        store.close()


def test_a_worker_whose_engine_cannot_write_ends_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_step = DBOS.run_step
    ended: list[bool] = []

    def failing(options: dict[str, object], *arguments: object) -> object:
        result = run_step(options, *arguments)  # type: ignore[arg-type]
        if options["name"] == "classify" and not ended:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        return result

    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        store = _received(hospital, tmp_path / "drawn", 1)
        monkeypatch.setattr(DBOS, "run_step", failing)
        with _in_process(hospital, store, on_engine_lost=lambda: ended.append(True)):
            wait_until(lambda: ended, 30, "the worker's end")
        assert store.studies.latest()[0].state == RevisionState.READING
        with _in_process(hospital, store):
            wait_until(lambda: _delivered(store), 30, "delivered")
        assert len(hospital.reports) == 1
        store.close()
