"""A destination that is away or refuses: the others are served, nothing is lost, results arrive in order."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from allpacs.app import make_receiver, open_store
from allpacs.demo.archive import Archive
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import worker
from support.hospital import AE_TITLE, StubHospital, drawn_study

pytestmark = pytest.mark.process


def _receive(hospital: StubHospital, store: Store, folder: Path) -> None:
    receiver = make_receiver(hospital.settings, store)
    receiver.start()
    hospital.send(folder)
    receiver.stop()


def _states(store: Store, study_uid: str) -> dict[tuple[int, str], DeliveryState]:
    return {(one.revision, one.destination): one.state for one in store.deliveries.of_study(study_uid)}


def test_a_pacs_that_is_away_holds_up_nothing_and_gets_its_reports_in_order(tmp_path: Path) -> None:
    study_uid = generate_uid()
    with StubHospital(tmp_path, quiet_s=0.0) as hospital:
        port = hospital.pacs.port
        hospital.pacs.stop()
        store = open_store(hospital.settings)
        with worker(hospital.config):
            for number in (1, 2):
                drawn_study(tmp_path / f"part{number}", [number], study_uid=study_uid)
                _receive(hospital, store, tmp_path / f"part{number}")
                wait_until(
                    lambda number=number: _states(store, study_uid).get((number, "ehr")) == DeliveryState.SENT,
                    60,
                    f"revision {number} at the EHR",
                )
            wait_until(lambda: _states(store, study_uid)[1, "pacs"] == DeliveryState.RETRYING, 30, "retrying")
            assert _states(store, study_uid)[2, "pacs"] == DeliveryState.QUEUED
            (waiting,) = [one for one in store.deliveries.of_study(study_uid) if one.state == DeliveryState.RETRYING]
            assert "127.0.0.1" in (waiting.reason or "")
            with Archive(tmp_path / "pacs again", "PACS", port) as back:
                wait_until(lambda: set(_states(store, study_uid).values()) == {DeliveryState.SENT}, 60, "all sent")
                reports = [dcmread(one.path) for one in back.instances]
        assert [report.InstanceNumber for report in reports] == [1, 2]
        assert store.studies.get(study_uid).state == RevisionState.DELIVERED
        store.close()


def test_a_pacs_that_refuses_leaves_a_dead_letter_until_somebody_resends(tmp_path: Path) -> None:
    study_uid = generate_uid()
    with StubHospital(tmp_path, quiet_s=0.0) as hospital:
        port = hospital.pacs.port
        hospital.pacs.stop()
        store = open_store(hospital.settings)
        drawn_study(tmp_path / "drawn", [3], study_uid=study_uid)
        # A peer under that address that takes images and nothing else: another allpacs.
        wrong = hospital.settings.model_copy(
            update={"receive": hospital.settings.receive.model_copy(update={"port": port, "ae_title": "PACS"})}
        )
        refusing = make_receiver(wrong, store)
        refusing.start()
        _receive(hospital, store, tmp_path / "drawn")
        with worker(hospital.config):
            wait_until(lambda: store.studies.get(study_uid).state == RevisionState.ATTENTION, 60, "attention")
            refusing.stop()
            gone = {(1, "pacs"): DeliveryState.DEAD, (1, "ehr"): DeliveryState.SENT}
            wait_until(lambda: _states(store, study_uid) == gone, 60, "the other one's delivery")
            reason = store.revisions.get(study_uid, 1).reason or ""
            assert reason.startswith("pacs: ")
            assert AE_TITLE not in reason.split(":")[0]
            with Archive(tmp_path / "pacs again", "PACS", port) as back:
                assert store.deliveries.revive(study_uid, now=time.time()) == [(1, "pacs")]
                wait_until(lambda: store.studies.get(study_uid).state == RevisionState.DELIVERED, 60, "delivered")
                assert len(back.instances) == 1
        store.close()


def test_a_delivery_that_was_given_up_and_asked_for_again_gets_all_its_attempts_anew(tmp_path: Path) -> None:
    study_uid = generate_uid()
    with StubHospital(tmp_path, quiet_s=0.0) as hospital:
        text = hospital.config.read_text(encoding="utf-8").replace("[retry]\n", "[retry]\nmax_attempts = 2\n")
        hospital.config.write_text(text, encoding="utf-8")
        hospital.pacs.stop()
        store = open_store(hospital.settings)
        drawn_study(tmp_path / "drawn", [4], study_uid=study_uid)
        _receive(hospital, store, tmp_path / "drawn")
        with worker(hospital.config):
            for attempts in (2, 4):
                wait_until(lambda: _states(store, study_uid).get((1, "pacs")) == DeliveryState.DEAD, 60, "given up")
                _, pacs = store.deliveries.of_study(study_uid)
                assert pacs.attempts == attempts
                assert (pacs.reason or "").startswith("given up after 2 attempts")
                store.deliveries.revive(study_uid, now=time.time())
        store.close()
