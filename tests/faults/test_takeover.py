"""Two workers on one store, and one of them dies for good: the other ends what it was at."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from allpacs.app import Worker, make_receiver, open_store
from allpacs.settings import load_settings
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits, slow_logits, stuck_logits, worker
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

TAKEOVER_S = 3.0
WORK = f"[work]\nchunk_instances = 1\npoll_s = 0.05\ntakeover_after_s = {TAKEOVER_S}\n"


def _named(hospital: StubHospital, name: str) -> Path:
    """Return the configuration of another worker on the same store."""
    config = hospital.folder / f"{name}.toml"
    config.write_text(hospital.config.read_text().replace(WORK, f'{WORK}executor_id = "{name}"\n'))
    return config


def _received(hospital: StubHospital, folder: Path) -> Store:
    store = open_store(hospital.settings)
    receiver = make_receiver(hospital.settings, store)
    receiver.start()
    drawn_study(folder, range(8))
    assert all(one.status == 0 for one in hospital.send(folder / "dicom"))
    receiver.stop()
    return store


def _labelled(store: Store) -> int:
    return len(store.findings.get(store.studies.latest()[0].study_uid, 1, stage="classify"))


def test_a_dead_workers_study_is_ended_by_another_from_its_checkpoints(
    tmp_path: Path, database_url: str | None, record_property: pytest.FixtureRequest
) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, database_url=database_url, extra=WORK) as hospital:
        store = _received(hospital, tmp_path / "drawn")
        study_uid = store.studies.latest()[0].study_uid
        with worker(_named(hospital, "one"), predict=stuck_logits) as first:
            wait_until(lambda: _labelled(store) >= 2, 60, "two cells labelled")
            with worker(_named(hospital, "two"), predict=brightness_logits):
                wait_until(lambda: len(store.workers.others("")) == 2, 30, "both beat")
                first.kill()
                first.join(30)
                died, done = time.monotonic(), _labelled(store)
                assert done < 8
                wait_until(lambda: store.audit.count("work_taken_over", study_uid), 60, "taken over")
                after_s = time.monotonic() - died
                wait_until(lambda: store.studies.latest()[0].state == RevisionState.DELIVERED, 60, "delivered")
        assert after_s >= TAKEOVER_S / 2
        record_property("taken_over_after_s", round(after_s, 1))  # type: ignore[operator]
        assert len(hospital.reports) == 1
        assert len(hospital.ehr.resources("DiagnosticReport")) == 1
        assert store.revisions.get(study_uid, 1).attempts == 1
        assert {one.state for one in store.deliveries.of_study(study_uid)} == {DeliveryState.SENT}
        assert set(store.workers.others("")) == {"two"}
        store.close()


def test_workers_share_the_studies_and_each_is_read_once(tmp_path: Path) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, extra=WORK) as hospital:
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        for number in range(6):
            drawn_study(tmp_path / str(number), [number])
            assert all(one.status == 0 for one in hospital.send(tmp_path / str(number) / "dicom"))
        receiver.stop()
        with (
            worker(_named(hospital, "one"), predict=slow_logits),
            worker(_named(hospital, "two"), predict=slow_logits),
        ):
            wait_until(
                lambda: {one.state for one in store.studies.latest()} == {RevisionState.DELIVERED}, 90, "all delivered"
            )
        assert len(hospital.reports) == 6
        assert {
            row.attempts for study in store.studies.latest() for row in store.revisions.of_study(study.study_uid)
        } == {1}
        store.close()


def test_a_worker_with_older_settings_leaves_a_new_destination_to_those_that_know_it(tmp_path: Path) -> None:
    """While workers are restarted one by one after a destination was added."""
    with StubHospital(tmp_path, quiet_s=0.0, extra=WORK) as hospital:
        newer = _named(hospital, "two")
        added = f'\n[destinations.added]\nkind = "folder"\nfolder = "{tmp_path / "added"}"\n'
        newer.write_text(newer.read_text() + added)
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        with worker(_named(hospital, "one"), predict=brightness_logits), worker(newer, predict=brightness_logits):
            wait_until(lambda: len(store.workers.others("")) == 2, 30, "both beat")
            for number in range(8):
                drawn_study(tmp_path / str(number), [number])
                assert all(one.status == 0 for one in hospital.send(tmp_path / str(number) / "dicom"))
            wait_until(
                lambda: [one.state for one in store.studies.latest()] == [RevisionState.DELIVERED] * 8, 90, "delivered"
            )
        receiver.stop()
        deliveries = [one for study in store.studies.latest() for one in store.deliveries.of_study(study.study_uid)]
        assert any(one.destination == "added" for one in deliveries)
        assert {(one.state, one.attempts) for one in deliveries} == {(DeliveryState.SENT, 1)}
        store.close()


def test_of_two_workers_by_one_name_the_earlier_ends(tmp_path: Path) -> None:
    with StubHospital(tmp_path, quiet_s=0.0, extra=WORK) as hospital:
        store = open_store(hospital.settings)
        ended: list[bool] = []
        settings = load_settings(hospital.config)

        def flow(**parts: object) -> object:
            from allpacs.flow import Flow

            return Flow(**(parts | {"on_engine_lost": lambda: ended.append(True)}))  # type: ignore[arg-type]

        first = Worker(settings, store, predict=brightness_logits, flow_type=flow)  # type: ignore[arg-type]
        first.start()
        store.workers.register("worker-1", "another process")
        wait_until(lambda: ended, 30, "the earlier one's end")
        first.stop()
        assert store.workers.others("") != {}  # the other's row stays
        store.close()
