"""A worker that is stopped in the midst of a study, and one that comes back with another bundle."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from allpacs.app import make_receiver, open_store
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits, slow_logits, stuck_logits, worker
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

ONE_BY_ONE = "[work]\nchunk_instances = 1\npoll_s = 0.05\n"


def _received(hospital: StubHospital, folder: Path, cells: int) -> Store:
    store = open_store(hospital.settings)
    receiver = make_receiver(hospital.settings, store)
    receiver.start()
    drawn_study(folder, range(cells))
    hospital.send(folder / "dicom")
    receiver.stop()
    return store


def _labelled(store: Store) -> int:
    (row,) = store.studies.latest()
    return len(store.findings.get(row.study_uid, 1, stage="classify"))


def test_sigterm_ends_the_worker_soon_and_the_next_one_goes_on(tmp_path: Path, database_url: str | None) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, database_url=database_url, extra=ONE_BY_ONE) as hospital:
        store = _received(hospital, tmp_path / "drawn", 16)
        with worker(hospital.config, predict=slow_logits) as first:
            wait_until(lambda: _labelled(store) >= 3, 60, "three cells labelled")
            asked = time.monotonic()
            first.terminate()
            first.join(30)
            assert time.monotonic() - asked < 12
            assert first.exitcode == 0
        done = _labelled(store)
        assert 3 <= done < 16
        with worker(hospital.config, predict=brightness_logits):
            wait_until(lambda: store.studies.latest()[0].state == RevisionState.DELIVERED, 60, "delivered")
        assert len(hospital.reports) == 1
        assert store.revisions.get(store.studies.latest()[0].study_uid, 1).attempts == 1
        store.close()


def test_a_study_that_another_bundle_began_is_read_again_from_its_start(tmp_path: Path) -> None:
    swapped = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, swapped)
    with StubHospital(tmp_path, quiet_s=0.0, extra=f'{ONE_BY_ONE}[model]\nbundle = "{swapped}"\n') as hospital:
        store = _received(hospital, tmp_path / "drawn", 8)
        with worker(hospital.config, predict=stuck_logits) as first:
            wait_until(lambda: _labelled(store) >= 2, 60, "two cells labelled")
            first.kill()
            first.join(30)
        contract = json.loads((swapped / "bundle.json").read_text())
        contract["version"] += "-swapped"
        (swapped / "bundle.json").write_text(json.dumps(contract))
        with worker(hospital.config):
            wait_until(lambda: store.studies.latest()[0].state == RevisionState.DELIVERED, 60, "delivered")
        (row,) = store.studies.latest()
        revision = store.revisions.get(row.study_uid, 1)
        assert revision.attempts == 2
        (report,) = hospital.reports
        assert (contract["version"]).encode() in report.read_bytes()
        store.close()
