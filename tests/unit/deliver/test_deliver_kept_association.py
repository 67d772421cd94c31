"""Results that follow one another share an association; a peer that ends it in between is no failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from pynetdicom.sop_class import StorageCommitmentPushModel

from allpacs.deliver.association import Peer
from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.commitment import NOT_SUPPORTED
from allpacs.deliver.kept_association import KeptAssociation
from allpacs.domain.artefacts import Asked
from allpacs.domain.errors import DeliveryUnavailable
from conformance.support.network import wait_until
from support.deliver_samples import sr_artefact


@contextmanager
def pacs(*, aborts_after: int = 1_000, refuses_commitment: bool = False) -> Iterator[tuple[int, dict[str, int]]]:
    """Run a Storage SCP; yield its port and what it counted. It aborts after so many objects of an association."""
    counted = {"associations": 0, "stored": 0, "released": 0, "asked": 0}
    of_one: dict[object, int] = {}

    def store(event: evt.Event) -> int:
        counted["stored"] += 1
        of_one[event.assoc] = of_one.get(event.assoc, 0) + 1
        if of_one[event.assoc] > aborts_after:
            counted["stored"] -= 1
            event.assoc.abort()
        return 0x0000

    def count(name: str) -> object:
        def add(_event: evt.Event) -> None:
            counted[name] += 1

        return add

    ae = AE(ae_title="PACS")
    for context in StoragePresentationContexts[:120]:
        ae.add_supported_context(context.abstract_syntax)
    for uid in ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"):
        ae.add_supported_context(uid)

    def refuse(_event: evt.Event) -> tuple[int, None]:
        counted["asked"] += 1
        return 0x0110, None  # processing failure (PS3.7 C.4)

    if refuses_commitment:
        ae.add_supported_context(StorageCommitmentPushModel)
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, store),
            (evt.EVT_N_ACTION, refuse),
            (evt.EVT_ACCEPTED, count("associations")),
            (evt.EVT_RELEASED, count("released")),
        ],
    )
    try:
        yield server.socket.getsockname()[1], counted
    finally:
        server.shutdown()


def test_deliveries_that_follow_one_another_share_an_association() -> None:
    with pacs() as (port, counted):
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5, commitment="never")
        for _ in range(5):
            assert destination.deliver([sr_artefact(generate_uid())]).detail == "0x0000"
        assert (counted["associations"], counted["stored"]) == (1, 5)
        wait_until(lambda: counted["released"] == 1, 20, "the idle association is released")
        destination.deliver([sr_artefact(generate_uid())])
        assert counted["associations"] == 2


def test_an_association_that_the_peer_ended_is_replaced_and_the_result_sent_again() -> None:
    with pacs(aborts_after=1) as (port, counted):
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5, commitment="never")
        for _ in range(3):
            assert destination.deliver([sr_artefact(generate_uid())]).detail == "0x0000"
        assert counted["stored"] == 3


def test_a_first_answer_that_does_not_come_is_still_a_failure() -> None:
    with pacs(aborts_after=0) as (port, _):
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5, commitment="never")
        with pytest.raises(DeliveryUnavailable):
            destination.deliver([sr_artefact(generate_uid())])


def test_a_second_user_gets_an_association_of_its_own() -> None:
    with pacs() as (port, counted):
        kept = KeptAssociation(Peer("127.0.0.1", port, "PACS", "ALLPACS", 5.0), idle_s=0.2)
        contexts = [("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.1.2.1")]
        with kept.lent(contexts) as (first, _), kept.lent(contexts) as (second, _):
            assert first is not second
        wait_until(lambda: counted["released"] == 2, 10, "both are released")
        with kept.lent(contexts) as (_, was_open):
            assert not was_open
        kept.close()


def test_a_peer_without_commitment_is_not_asked_again_at_once_and_one_that_refuses_is() -> None:
    with pacs() as (port, counted):
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5)
        results = [sr_artefact(generate_uid())]
        destination.deliver(results)
        for number in range(3):
            assert destination.request_commitment(results, f"1.2.{number}") == NOT_SUPPORTED
        assert counted["associations"] == 2, "one to send, and one to ask, once"
    with pacs(refuses_commitment=True) as (port, counted):
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5)
        for number in range(2):
            said = destination.request_commitment(results, f"1.2.{number}")
            assert (said.asked, said.reason) == (Asked.NOT_OFFERED, "storage commitment refused (0x0110)")
        assert counted["asked"] == 2, "a refusal of one request says nothing of the next"
