"""Storage commitment on our port: what we vouch for to senders, and what peers vouch for to us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel

from allpacs.deliver.association import Peer as Address
from allpacs.deliver.commitment import report_commitment
from allpacs.dicom.commitment import Answer, Reference, action_information, event_information
from allpacs.dicom.network.requestor import hold_at_checkpoint
from allpacs.domain.errors import DeliveryUnavailable
from allpacs.receive.commitment import CommitmentService
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from receive_peer import MICROSCOPIC, TRANSFER_SYNTAXES, Peer, encoded, make_instance

Start = Callable[..., StorageScp]
Connect = Callable[..., Peer]

INSTANCE = "1.2.840.10008.1.20.1.1"
DEFLATED = "1.2.840.10008.1.2.1.99"


class Asking:
    """A sender that asks for commitment and hears the answer, on its association or at an address of its own."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Dataset]] = []
        self.heard = threading.Event()
        self.status = 0x0000
        self.handlers = [(evt.EVT_N_EVENT_REPORT, self._hear), (evt.EVT_PDU_SENT, self._sent)]

    def _hear(self, event: evt.Event) -> tuple[int, None]:
        self.answers.append((event.event_type, event.event_information))
        return self.status, None

    def _sent(self, _event: evt.Event) -> None:
        """Take it for heard once our own answer is on its way: released before, there would be no place for it."""
        if self.answers and self.status == 0x0000:
            self.heard.set()

    def ask(self, port: int, *references: Reference, wait_s: float = 0.0, **how: Any) -> int:
        ae = AE("PACS")
        ae.dimse_timeout = 10
        ae.add_requested_context(StorageCommitmentPushModel)
        association = ae.associate("127.0.0.1", port, ae_title="ALLPACS", evt_handlers=self.handlers)
        assert association.is_established
        hold_at_checkpoint(association)  # pynetdicom waits for its own without end
        data_set = how.get("data_set", action_information("1.2.9", references))
        status, _ = association.send_n_action(
            data_set, how.get("action", 1), StorageCommitmentPushModel, how.get("instance", INSTANCE)
        )
        if wait_s:
            self.heard.wait(wait_s)
        association.release()
        return int(status.Status)

    @contextmanager
    def listening(self) -> Iterator[int]:
        ae = AE("PACS")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)
        try:
            yield server.server_address[1]
        finally:
            ae.shutdown()


def kept(receiver_port: int, connect: Connect, *numbers: int) -> list[Reference]:
    peer = connect(receiver_port)
    for number in numbers:
        assert peer.send(make_instance(number)) == 0x0000
    peer.release()
    return [Reference(MICROSCOPIC, f"1.2.3.5.{number}") for number in numbers]


def test_what_is_kept_is_committed_to_on_the_senders_association(
    receiver: Start, connect: Connect, store: Store
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    references = kept(scp.port, connect, 1, 2)
    sender = Asking()
    assert sender.ask(scp.port, *references, wait_s=10) == 0x0000
    ((event_type, told),) = sender.answers
    assert (event_type, told.TransactionUID) == (1, "1.2.9")
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == ["1.2.3.5.1", "1.2.3.5.2"]
    assert "FailedSOPSequence" not in told
    assert store.commitments.due(time.time() + 1e6) == []


def _all_told(store: Store) -> bool:
    """Wait until every sender was told; return whether they were."""
    deadline = time.monotonic() + 10
    while store.commitments.due(time.time() + 1e6) and time.monotonic() < deadline:
        time.sleep(0.05)
    return store.commitments.due(time.time() + 1e6) == []


def test_an_instance_that_comes_while_we_tell_is_not_taken_for_the_answer(
    receiver: Start, connect: Connect, store: Store
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    references = kept(scp.port, connect, 1)
    told, sent = threading.Event(), threading.Event()

    def hear(event: evt.Event) -> tuple[int, None]:
        told.set()
        sent.wait(10)
        return 0x0000, None

    peer = connect(scp.port, others=(str(StorageCommitmentPushModel),), handlers=[(evt.EVT_N_EVENT_REPORT, hear)])
    peer.association.send_n_action(action_information("1.2.9", references), 1, StorageCommitmentPushModel, INSTANCE)
    assert told.wait(10)
    answers = [peer.send(make_instance(number)) for number in (2, 3)]
    sent.set()
    assert answers == [0x0000, 0x0000]
    assert _all_told(store)
    assert peer.established


def test_requests_that_come_while_we_tell_are_served_and_not_taken_for_the_answer(
    receiver: Start, connect: Connect, store: Store
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    references = kept(scp.port, connect, 1)
    told, asked = threading.Event(), threading.Event()
    heard = []

    def hear(event: evt.Event) -> tuple[int, None]:
        heard.append(str(event.event_information.TransactionUID))
        told.set()
        asked.wait(10)
        return 0x0000, None

    peer = connect(scp.port, others=(str(StorageCommitmentPushModel),), handlers=[(evt.EVT_N_EVENT_REPORT, hear)])
    transactions = [f"1.2.9.{number}" for number in (1, 2, 3)]
    for transaction in transactions:
        status, _ = peer.association.send_n_action(
            action_information(transaction, references), 1, StorageCommitmentPushModel, INSTANCE
        )
        assert status.Status == 0x0000
        assert told.wait(10)
        assert peer.echo() == 0x0000
    asked.set()
    assert _all_told(store)
    assert sorted(heard) == transactions
    assert peer.established


def test_a_sender_that_releases_instead_of_taking_the_answer_is_released(
    receiver: Start, connect: Connect, store: Store
) -> None:
    service = CommitmentService(store.commitments)
    scp = receiver(commitments=service)
    references = kept(scp.port, connect, 1)
    told, released = threading.Event(), threading.Event()

    def hear(event: evt.Event) -> tuple[int, None]:
        told.set()
        released.wait(20)
        return 0x0000, None

    peer = connect(scp.port, others=(str(StorageCommitmentPushModel),), handlers=[(evt.EVT_N_EVENT_REPORT, hear)])
    peer.association.send_n_action(action_information("1.2.9", references), 1, StorageCommitmentPushModel, INSTANCE)
    assert told.wait(10)
    began = time.monotonic()
    peer.release()
    assert peer.association.is_released
    while any(teller.is_alive() for teller in service._tellers.values()):
        time.sleep(0.02)
    assert time.monotonic() - began < 10  # and not after the DIMSE time-out of 30 s
    released.set()


def test_what_is_not_kept_whole_under_that_class_is_not_committed_to(
    receiver: Start, connect: Connect, store: Store
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    one, cut, gone, other = kept(scp.port, connect, 1, 2, 3, 4)
    store.revisions.close_due(time.time() + 100)
    paths = {row.sop_instance_uid: row.path for row in store.revisions.instances("1.2.3", 1)}
    paths[cut.sop_instance_uid].write_bytes(b"cut")
    paths[gone.sop_instance_uid].unlink()
    other = Reference("1.2.840.10008.5.1.4.1.1.7", other.sop_instance_uid)
    unknown = Reference(MICROSCOPIC, "1.2.3.5.99")
    sender = Asking()
    sender.ask(scp.port, one, cut, gone, other, unknown, wait_s=10)
    ((event_type, told),) = sender.answers
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [one.sop_instance_uid]
    assert {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.FailedSOPSequence} == {
        cut.sop_instance_uid: 0x0112,
        gone.sop_instance_uid: 0x0112,
        other.sop_instance_uid: 0x0119,
        unknown.sop_instance_uid: 0x0112,
    }


def test_a_sender_with_an_address_is_told_there_and_told_again_until_it_takes_it(
    receiver: Start, connect: Connect, store: Store
) -> None:
    sender = Asking()
    with sender.listening() as port:
        address = Address("127.0.0.1", port, "PACS", "ALLPACS", 5.0)
        service = CommitmentService(
            store.commitments, report_back={"PACS": lambda answer: report_commitment(address, answer)}
        )
        scp = receiver(commitments=service)
        references = kept(scp.port, connect, 1)
        sender.status = 0x0110
        assert sender.ask(scp.port, *references) == 0x0000
        deadline = time.monotonic() + 10
        while not sender.answers:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sender.status = 0x0000
        assert sender.heard.wait(15)
    assert {event_type for event_type, _ in sender.answers} == {1}


def test_a_request_outlives_the_receiver(store: Store) -> None:
    store.commitments.schedule("PACS", "1.2.9", [(MICROSCOPIC, "1.2.3.5.1")], now=time.time(), due_at=0.0)
    told: list[Answer] = []
    service = CommitmentService(store.commitments, report_back={"PACS": told.append})
    service.start()
    deadline = time.monotonic() + 10
    while not told:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    service.stop()
    assert told[0].failed == {Reference(MICROSCOPIC, "1.2.3.5.1"): 0x0112}
    assert store.commitments.due(time.time() + 1e6) == []


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"action": 2}, 0x0123),
        ({"instance": "1.2.3"}, 0x0112),
        ({"data_set": action_information("1.2.9", [])}, 0x0115),
    ],
)
def test_a_request_that_is_none_gets_its_status(
    receiver: Start, store: Store, how: dict[str, Any], status: int
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    assert Asking().ask(scp.port, Reference(MICROSCOPIC, "1.2.3"), **how) == status
    assert store.commitments.due(time.time() + 1e6) == []


def _report(port: int, answer: Answer) -> int:
    """Report as a PACS does: on an association of its own, as SCP."""
    ae = AE("PACS")
    ae.dimse_timeout = 10
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = ae.associate("127.0.0.1", port, ae_title="ALLPACS", ext_neg=[role])
    assert association.is_established
    status, _ = association.send_n_event_report(
        event_information(answer), answer.event_type, StorageCommitmentPushModel, INSTANCE
    )
    association.release()
    return int(status.Status)


def test_the_answers_of_those_we_asked_are_noted(receiver: Start, store: Store) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    results = [Reference("1.2.840.10008.5.1.4.1.1.88.34", f"2.25.{number}") for number in (1, 2)]
    for transaction, destination in (("1.1", "all"), ("1.2", "failed"), ("1.3", "half")):
        store.commitments.ask(
            transaction, "1.2.3", 1, destination, 1, [one.sop_instance_uid for one in results], now=1.0
        )
    assert _report(scp.port, Answer("1.1", tuple(results))) == 0x0000
    assert _report(scp.port, Answer("1.2", (results[0],), {results[1]: 0x0112})) == 0x0000
    assert _report(scp.port, Answer("1.3", (results[0],))) == 0x0000
    assert _report(scp.port, Answer("1.4", tuple(results))) == 0x0115
    answers = {one.destination: one for one in store.commitments.answers()}
    assert answers["all"].committed
    assert answers["failed"].reason == "storage commitment failed for 1 objects (0x0112)"
    assert answers["half"].reason == "storage commitment says nothing of 1 objects"


def test_the_store_folder_is_named_in_no_answer(tmp_path: Path, receiver: Start, store: Store) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    sender = Asking()
    sender.ask(scp.port, Reference(MICROSCOPIC, "1.2.3.5.1"), wait_s=10)
    assert str(tmp_path) not in str(sender.answers)


def test_requests_are_taken_in_plain_little_endian_only(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    peer = connect(scp.port, others=(str(StorageCommitmentPushModel),))
    taken = {one for one in TRANSFER_SYNTAXES if peer.accepts(StorageCommitmentPushModel, one)}
    assert taken == {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}


def test_a_deflated_request_in_a_context_for_images_is_not_inflated(
    receiver: Start, connect: Connect, store: Store
) -> None:
    scp = receiver(commitments=CommitmentService(store.commitments))
    peer = connect(scp.port)
    (context,) = {
        one.context_id
        for one in peer.association.accepted_contexts
        if (one.abstract_syntax, one.transfer_syntax[0]) == (MICROSCOPIC, DEFLATED)
    }
    request = N_ACTION()
    request.MessageID = request.ActionTypeID = 1
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = StorageCommitmentPushModel, INSTANCE
    information = action_information("1.2.9", [Reference(MICROSCOPIC, "1.2.3")])
    request.ActionInformation = BytesIO(encoded(information, DEFLATED))
    assert peer.ask(request, context).Status == 0x0118
    assert store.commitments.due(time.time() + 1e6) == []


def _owe(store: Store, calling_ae: str, *transactions: str) -> None:
    for transaction in transactions:
        store.commitments.schedule(calling_ae, transaction, [(MICROSCOPIC, "1.2.3")], now=time.time(), due_at=0.0)


def test_a_sender_that_cannot_be_reached_holds_up_no_other_and_no_stop(store: Store) -> None:
    told: list[str] = []
    entered, let_go = threading.Event(), threading.Event()

    def away(answer: Answer) -> None:
        entered.set()
        let_go.wait(30)
        raise DeliveryUnavailable("no connection")

    service = CommitmentService(
        store.commitments, report_back={"AWAY": away, "PACS": lambda answer: told.append(answer.transaction_uid)}
    )
    _owe(store, "AWAY", "1.1", "1.2")
    service.start()
    assert entered.wait(10)
    _owe(store, "PACS", "1.3", "1.4")
    deadline = time.monotonic() + 10
    while len(told) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 10
    let_go.set()
    for teller in service._tellers.values():
        teller.join(10)
    left = {(owed.transaction_uid, owed.attempts) for owed in store.commitments.due(time.time() + 1e6)}
    assert left == {("1.1", 1), ("1.2", 0)}


def test_after_a_failure_a_sender_is_tried_once_a_turn(store: Store) -> None:
    tried: list[float] = []

    def refuse(answer: Answer) -> None:
        tried.append(time.monotonic())
        raise DeliveryUnavailable("no connection")

    service = CommitmentService(store.commitments, report_back={"AWAY": refuse})
    _owe(store, "AWAY", *[f"1.{number}" for number in range(20)])
    service.start()
    time.sleep(1.0)
    service.stop()
    assert 1 <= len(tried) <= 6  # five turns a second


def test_associations_are_remembered_only_while_they_are_needed(
    receiver: Start, connect: Connect, store: Store
) -> None:
    told = threading.Event()
    service = CommitmentService(store.commitments, report_back={"PACS": lambda _: told.set()})
    scp = receiver(commitments=service)
    sender = Asking()
    assert sender.ask(scp.port, Reference(MICROSCOPIC, "1.2.3")) == 0x0000
    assert not service._open  # its address is known
    assert told.wait(10)
    ended: Any = SimpleNamespace(is_established=False)
    service._open["OTHER", "1.2.9"] = ended  # another receiver on the same store has told it
    deadline = time.monotonic() + 10
    while service._open:
        assert time.monotonic() < deadline
        time.sleep(0.02)
