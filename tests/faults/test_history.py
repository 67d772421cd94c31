"""What need not be remembered any longer is deleted; what it brought about stays and is not done again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dbos import DBOS

from allpacs.app import Worker, make_receiver, open_store
from allpacs.store.records import RevisionState
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process


def test_old_events_and_ended_workflows_are_deleted_and_nothing_is_done_again(
    tmp_path: Path, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLPACS_STORE__RETAIN_AUDIT_DAYS", "30")
    with StubHospital(tmp_path, quiet_s=0.0, database_url=database_url, extra="[work]\npoll_s = 0.05\n") as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        drawn_study(tmp_path / "drawn", [1])
        worker = Worker(hospital.settings, store, predict=brightness_logits)
        worker.start()
        try:
            hospital.send(tmp_path / "drawn" / "dicom")
            wait_until(
                lambda: [one.state for one in store.studies.latest()] == [RevisionState.DELIVERED], 60, "delivered"
            )
            store.audit.record("asked", at=time.time())
            flow, upkeep = worker._flow, worker._flow._housekeeping
            upkeep.purge()
            assert len(DBOS.list_workflows()) == 3  # a reading and two deliveries
            assert store.audit.latest()[0].event == "asked"

            monkeypatch.setattr(upkeep, "_now", lambda: time.time() + 31 * 86_400)
            upkeep.purge()
            assert DBOS.list_workflows() == []
            assert store.audit.latest() == []
            upkeep.sweep()
            flow._dispatch()
            assert DBOS.list_workflows() == []
            assert store.studies.latest()[0].state == RevisionState.DELIVERED
            assert len(hospital.reports) == 1
        finally:
            worker.stop()
            receiver.stop()
            store.close()
