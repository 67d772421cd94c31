"""A result is delivered when the PACS has committed to it; what happens when it does not, or does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allpacs.app import Worker, make_receiver, open_store
from allpacs.store.records import DeliveryRow, DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import brightness_logits
from support.committing_pacs import (
    Answering,
    CommittingPacs,
    not_at_all,
    on_an_association_of_its_own,
    on_the_same_association,
)
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

QUICK = "[work]\nchunk_instances = 8\npoll_s = 0.05\n"


@contextmanager
def _plugin(
    tmp_path: Path, answering: list[Answering], *, settings: str = "", **pacs: object
) -> Iterator[tuple[Store, CommittingPacs]]:
    """Run receiver and worker with one study received, and a PACS that commits as told."""
    with StubHospital(tmp_path, quiet_s=0.0, extra=QUICK) as hospital:
        port = hospital.pacs.port
        hospital.pacs.stop()
        text = hospital.config.read_text().replace('called_ae = "PACS"\n', f'called_ae = "PACS"\n{settings}')
        hospital.config.write_text(text)
        store = open_store(hospital.settings)
        receiver = make_receiver(hospital.settings, store)
        receiver.start()
        with CommittingPacs(port, hospital.port, answering, **pacs) as committing:  # type: ignore[arg-type]
            drawn_study(tmp_path / "drawn", [1])
            assert all(one.status == 0 for one in hospital.send(tmp_path / "drawn" / "dicom"))
            worker = Worker(hospital.settings, store, predict=brightness_logits)
            worker.start()
            try:
                yield store, committing
            finally:
                worker.stop()
                receiver.stop()
        store.close()


def _pacs(store: Store) -> DeliveryRow:
    (study,) = store.studies.latest()
    return next(one for one in store.deliveries.of_study(study.study_uid) if one.destination == "pacs")


def _state(store: Store) -> str:
    return store.studies.latest()[0].state


def _delivered(store: Store) -> bool:
    return _state(store) == RevisionState.DELIVERED


@pytest.mark.parametrize("answering", [on_the_same_association, on_an_association_of_its_own])
def test_a_result_is_delivered_when_the_pacs_has_committed_to_it(tmp_path: Path, answering: Answering) -> None:
    with _plugin(tmp_path, [answering]) as (store, pacs):
        wait_until(lambda: _delivered(store), 30, "delivered")
        assert _pacs(store).state == DeliveryState.COMMITTED
        assert len(pacs.stored) == len(pacs.requests) == 1


def test_without_an_answer_it_is_sent_but_not_delivered_and_asked_again(tmp_path: Path) -> None:
    answers: list[Answering] = [not_at_all, on_an_association_of_its_own]
    with _plugin(tmp_path, answers, settings="commitment_within_s = 2.0\n") as (store, pacs):
        wait_until(lambda: pacs.requests, 30, "asked")
        wait_until(lambda: _pacs(store).state == DeliveryState.UNCOMMITTED, 30, "sent")
        assert _state(store) == RevisionState.REPORTED
        assert _pacs(store).sent_at is not None
        wait_until(lambda: _delivered(store), 30, "delivered")
        assert len(set(pacs.requests)) == 2
        assert len(pacs.stored) == 1  # asked again, not sent again
        assert _pacs(store).attempts == 2


def test_what_the_pacs_has_lost_is_sent_again(tmp_path: Path) -> None:
    with _plugin(tmp_path, [on_an_association_of_its_own], forgets=(1, 2)) as (store, pacs):
        wait_until(lambda: _delivered(store), 30, "delivered")
        assert len(pacs.stored) == 3
        assert len(set(pacs.stored)) == 1  # the same object each time
        assert _pacs(store).state == DeliveryState.COMMITTED


def test_a_pacs_that_grants_no_commitment_gets_results_all_the_same(tmp_path: Path) -> None:
    with _plugin(tmp_path, [not_at_all], grants=0x0110) as (store, _):
        wait_until(lambda: _delivered(store), 30, "delivered")
        assert _pacs(store).state == DeliveryState.SENT
        assert "storage commitment refused (0x0110)" in (_pacs(store).reason or "")
