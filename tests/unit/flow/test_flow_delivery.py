"""What becomes of a delivery: attempt by attempt, over a real store, with destinations that do as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from allpacs.audit.messages import AuditEvent
from allpacs.audit.trail import NoTrail
from allpacs.deliver.retry import RetryPolicy
from allpacs.domain.artefacts import DICOM, Artefact, Asked, Commitment, Receipt
from allpacs.domain.errors import AllpacsError, DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import comprehensive_uid
from allpacs.domain.instance import InstanceIdentity
from allpacs.flow.delivery import DeliveryStep
from allpacs.store.records import DeliveryRow, DeliveryState, RevisionState
from allpacs.store.store import Store
from support.deliver_samples import sr_artefact

STUDY = "1.2.3"
RESULT = sr_artefact()


class Told:
    """A destination that answers as told, in turn, and remembers what it was sent."""

    commitment_within_s = 600.0
    audit_event = AuditEvent.INSTANCES_SENT

    def __init__(self, *said: Commitment | AllpacsError, on_delivery: AllpacsError | None = None) -> None:
        self._said = list(said)
        self.on_delivery = on_delivery
        self.sent = 0
        self.transactions: list[str] = []

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({DICOM})

    def deliver(self, _artefacts: Sequence[Artefact]) -> Receipt:
        if self.on_delivery is not None:
            raise self.on_delivery
        self.sent += 1
        return Receipt("0x0000")

    def request_commitment(self, _artefacts: Sequence[Artefact], transaction_uid: str) -> Commitment:
        self.transactions.append(transaction_uid)
        said = self._said.pop(0)
        if isinstance(said, AllpacsError):
            raise said
        return said

    def check(self) -> str:
        return "there"


class Heard(NoTrail):
    """An audit trail that remembers what was sent."""

    def __init__(self) -> None:
        self.events: list[tuple[AuditEvent, str | None]] = []

    def sent(self, destination: str, study_uid: str, event: AuditEvent, *, failure: str | None = None) -> None:
        assert (destination, study_uid) == ("pacs", STUDY)
        self.events.append((event, failure))


class Case:
    """One study with one result, to be delivered to one destination."""

    def __init__(self, folder: Path, destination: Told | None, max_attempts: int | None = None) -> None:
        self.store = Store.open(folder)
        self.now = 1000.0
        self.destination = destination
        self.audit = Heard()
        self.delivering = DeliveryStep(
            store=self.store,
            destinations={} if destination is None else {"pacs": destination},
            audit=self.audit,
            retry=RetryPolicy(first_s=2.0, cap_s=300.0, max_attempts=max_attempts),
            now=lambda: self.now,
            patiently=lambda function, *arguments: function(*arguments),
        )
        self.store.receiving.keep_instance(
            InstanceIdentity("1.2.3.5", "1.2.4", "1.2.840.10008.1.2.1", STUDY, "1.2.3.4"),
            b"meta", b"pixels", calling_ae="PACS", received_at=1.0, quiet_s=0.0, max_age_s=1.0,
        )  # fmt: skip
        self.store.revisions.close_due(2.0)
        self.store.revisions.set_state(STUDY, 1, RevisionState.READING)
        self.store.artefacts.put(STUDY, 1, RESULT)
        self.store.deliveries.queue(STUDY, 1, ["pacs"], now=2.0)
        self.store.revisions.settle(STUDY, 1, now=2.0)

    def attempt(self) -> str:
        (due,) = self.store.deliveries.due(self.now)
        return self.delivering.attempt(STUDY, 1, "pacs", due.attempts + 1)

    @property
    def row(self) -> DeliveryRow:
        return self.store.deliveries.of_revision(STUDY, 1)[0]

    @property
    def state(self) -> RevisionState:
        return self.store.revisions.get(STUDY, 1).state

    def hear(self, transaction_uid: str, failure: str | None = None) -> None:
        committed = [] if failure else [RESULT.uid]
        assert self.store.commitments.answered(transaction_uid, committed, failure)
        for answer in self.store.commitments.answers():
            self.delivering.take_answer(answer)


PENDING = Commitment(Asked.PENDING, "storage commitment asked for")
COMMITTED = Commitment(Asked.COMMITTED, "committed")
FAILED = Commitment(Asked.FAILED, "storage commitment failed for 1 objects (0x0112)")
NOT_OFFERED = Commitment(Asked.NOT_OFFERED, "storage commitment not offered")


@pytest.mark.parametrize(("said", "state"), [(COMMITTED, DeliveryState.COMMITTED), (NOT_OFFERED, DeliveryState.SENT)])
def test_committed_to_or_not_offered_is_delivered(tmp_path: Path, said: Commitment, state: DeliveryState) -> None:
    case = Case(tmp_path, Told(said))
    assert case.attempt() == state
    assert (case.row.state, case.state) == (state, RevisionState.DELIVERED)
    assert case.row.sent_at == 1000.0


@pytest.mark.parametrize("event", [AuditEvent.INSTANCES_SENT, AuditEvent.EXPORTED])
def test_what_a_delivery_is_in_the_audit_trail_is_for_its_destination_to_say(tmp_path: Path, event: AuditEvent) -> None:
    taking = Told(NOT_OFFERED)
    refusing = Told(on_delivery=DeliveryRejected("0xC000"))
    taking.audit_event = refusing.audit_event = event
    sent, given_up = Case(tmp_path / "sent", taking), Case(tmp_path / "dead", refusing)
    assert (sent.attempt(), given_up.attempt()) == (DeliveryState.SENT, DeliveryState.DEAD)
    assert sent.audit.events == [(event, None)]
    assert given_up.audit.events == [(event, "0xC000")]


def test_given_up_without_its_destination_a_delivery_is_an_export(tmp_path: Path) -> None:
    case = Case(tmp_path, None, max_attempts=1)
    assert case.attempt() == DeliveryState.DEAD
    ((event, failure),) = case.audit.events
    assert event is AuditEvent.EXPORTED
    assert "not configured" in str(failure)


def test_until_the_answer_comes_it_is_sent_and_not_delivered(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(PENDING))
    assert case.attempt() == DeliveryState.UNCOMMITTED
    assert case.state == RevisionState.REPORTED
    assert case.store.deliveries.due(case.now + 599) == []
    case.hear(case.destination.transactions[0])
    assert (case.row.state, case.state) == (DeliveryState.COMMITTED, RevisionState.DELIVERED)


def test_a_report_that_went_as_comprehensive_sr_is_committed_to_under_that_uid(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(PENDING))
    case.attempt()
    assert case.store.commitments.answered(case.destination.transactions[0], [comprehensive_uid(RESULT.uid)], None)
    (answer,) = case.store.commitments.answers()
    case.delivering.take_answer(answer)
    assert case.row.state == DeliveryState.COMMITTED


def test_a_refusal_that_comes_after_a_person_has_revived_the_delivery_is_forgotten(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(DeliveryUnavailable("no answer"), COMMITTED), max_attempts=1)
    assert case.attempt() == DeliveryState.DEAD
    case.store.deliveries.revive(STUDY, now=case.now)
    case.hear(case.destination.transactions[0], FAILED.reason)
    assert case.store.commitments.answers() == []
    assert case.attempt() == DeliveryState.COMMITTED


def test_a_destination_that_this_worker_does_not_know_is_tried_again(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(NOT_OFFERED))
    case.store.deliveries.queue(STUDY, 1, ["new"], now=2.0)
    assert case.delivering.attempt(STUDY, 1, "new", 1) == DeliveryState.RETRYING


def test_no_answer_in_time_asks_again_without_sending_again(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(PENDING, PENDING))
    case.attempt()
    case.now += 600.0
    assert case.attempt() == DeliveryState.UNCOMMITTED
    assert case.destination.sent == 1
    first, second = case.destination.transactions
    assert first != second
    case.hear(first)  # the answer to the first question is as good: the object is the same
    assert case.row.state == DeliveryState.COMMITTED


@pytest.mark.parametrize("by_event", [False, True])
def test_what_is_not_committed_to_is_sent_again_after_a_wait(tmp_path: Path, by_event: bool) -> None:
    case = Case(tmp_path, Told(PENDING if by_event else FAILED, COMMITTED))
    case.attempt()
    if by_event:
        case.hear(case.destination.transactions[0], FAILED.reason)
    assert case.row.state == DeliveryState.RETRYING
    assert case.row.sent_at is None
    assert case.store.deliveries.due(case.now) == []
    case.now += 2.0
    assert case.attempt() == DeliveryState.COMMITTED
    assert case.destination.sent == 2


def test_a_failure_of_an_older_question_changes_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(PENDING, PENDING))
    case.attempt()
    case.now += 600.0
    case.attempt()
    case.hear(case.destination.transactions[0], FAILED.reason)
    assert case.row.state == DeliveryState.UNCOMMITTED
    assert case.store.commitments.answers() == []


def test_an_answer_before_the_attempt_has_ended_is_looked_at_afterwards(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(PENDING))
    ask = case.destination.request_commitment

    def quick(artefacts: Sequence[Artefact], transaction_uid: str) -> Commitment:
        said = ask(artefacts, transaction_uid)
        case.hear(transaction_uid, FAILED.reason)
        assert case.row.state == DeliveryState.SENDING
        return said

    case.destination.request_commitment = quick  # type: ignore[method-assign]
    case.attempt()
    assert case.row.state == DeliveryState.UNCOMMITTED
    (answer,) = case.store.commitments.answers()
    case.delivering.take_answer(answer)
    assert case.row.state == DeliveryState.RETRYING


def test_an_attempt_that_was_interrupted_after_sending_only_asks(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(DeliveryUnavailable("no answer"), COMMITTED))
    assert case.attempt() == DeliveryState.RETRYING
    case.now += 300.0
    assert case.attempt() == DeliveryState.COMMITTED
    assert case.destination.sent == 1


def test_never_committed_to_becomes_a_dead_letter_and_can_be_revived(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(FAILED, FAILED, COMMITTED), max_attempts=2)
    case.attempt()
    case.now += 2.0
    case.attempt()
    assert (case.row.state, case.state) == (DeliveryState.DEAD, RevisionState.ATTENTION)
    assert "0x0112" in (case.row.reason or "")
    case.store.deliveries.revive(STUDY, now=case.now)
    assert case.attempt() == DeliveryState.COMMITTED
    assert case.destination.sent == 3


def test_required_and_not_offered_is_a_dead_letter(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(DeliveryRejected("storage commitment not offered")))
    assert case.attempt() == DeliveryState.DEAD


def test_nothing_is_asked_of_what_was_not_taken(tmp_path: Path) -> None:
    case = Case(tmp_path, Told(on_delivery=DeliveryUnavailable("away")))
    assert case.attempt() == DeliveryState.RETRYING
    assert case.destination.transactions == []
    assert case.row.sent_at is None
