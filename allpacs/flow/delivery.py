"""A delivery, attempt by attempt: sending, asking for commitment, and what follows a failure.

A result is *sent* when its destination has taken it. Where the destination offers to commit to what it has taken
(DICOM Storage Commitment), it is *uncommitted* until the destination has done so, and only then delivered. An answer
that does not come is asked for again; what is not committed to is sent again, which changes nothing at a destination
that has it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from allpacs.audit.messages import AuditEvent
from allpacs.audit.trail import AuditTrail, NoTrail
from allpacs.deliver.destination import Committing, Destination
from allpacs.deliver.retry import DeadLetter, RetryAfter, RetryPolicy, decide
from allpacs.domain.artefacts import Artefact, Asked, is_taken
from allpacs.domain.errors import AllpacsError, DeliveryRejected, DeliveryUnavailable, StoreFault
from allpacs.domain.identity import derive_uid
from allpacs.store.records import CommitmentRow, DeliveryRow, DeliveryState
from allpacs.store.store import Store
from allpacs.telemetry import metrics

_log = structlog.get_logger("allpacs.flow.delivery")


class DeliveryStep:
    """The steps of deliveries, over the store: each can be run twice with the effect of once.

    Parameters
    ----------
    patiently:
        Calls a function with a study UID, a revision and more, until the store lets it do its work.
    audit:
        Is told what was sent and what was given up.
    """

    def __init__(
        self,
        *,
        store: Store,
        destinations: Mapping[str, Destination],
        retry: RetryPolicy,
        now: Callable[[], float],
        patiently: Callable[..., Any],
        audit: AuditTrail | None = None,
    ) -> None:
        self._store = store
        self._destinations = dict(destinations)
        self._retry = retry
        self._now = now
        self._patiently = patiently
        self._audit = audit or NoTrail()

    def destinations_of(self, study_uid: str, revision: int) -> list[str]:
        """Return the names of the destinations that take any of a revision's results, sorted."""
        made = self._store.artefacts.media_types(study_uid, revision)
        return [
            name
            for name, destination in sorted(self._destinations.items())
            if any(is_taken(media_type, destination.takes) for media_type in made)
        ]

    def attempt(self, study_uid: str, revision: int, name: str, attempt: int) -> str:
        """Make one attempt and write down what came of it.

        Where the store fails, only noting the begin and the outcome wait for it, so that nothing is sent twice.
        """
        begun = self._patiently(self._begin, study_uid, revision, name, attempt)
        if begun is None:  # this ran before and was interrupted after it had written down its outcome
            self._patiently(self._settle, study_uid, revision)
            return str(DeliveryState.SENT)
        log = _log.bind(study_uid=study_uid, revision=revision, destination=name, attempts=attempt)
        destination = self._destinations.get(name)
        try:
            if destination is None:  # taken out of the configuration while this was under way; it may come back
                raise DeliveryUnavailable("this destination is not configured at this worker")
            artefacts = [a for a in self._store.artefacts.get(study_uid, revision) if a.is_taken_by(destination.takes)]
            if begun.sent_at is None:
                receipt = destination.deliver(artefacts)
                detail = receipt.detail if receipt.warning is None else f"{receipt.detail} ({receipt.warning})"
                self._patiently(self._note_sent, study_uid, revision, name)
                self._audit.sent(name, study_uid, destination.audit_event)
                log.info("results_sent", detail=detail)
            else:  # only its commitment is missing
                detail = begun.reason or ""
            state, said, again_at = self._commitment(begun, destination, artefacts)
        except (DeliveryUnavailable, DeliveryRejected, StoreFault) as fault:  # the results may be out of reach, too
            state, detail, again_at = self._after_failure(fault, attempt - begun.attempts_forgiven)
            self._patiently(self._end, study_uid, revision, name, state, detail, again_at)
            if state == DeliveryState.DEAD:
                # What a destination would have taken is not known once it is out of the configuration: then Export,
                # which is true of everything that leaves this machine.
                event = AuditEvent.EXPORTED if destination is None else destination.audit_event
                self._audit.sent(name, study_uid, event, failure=detail)
        else:
            if state == DeliveryState.RETRYING:  # taken, but not committed to: sent again
                self._refused_commitment(begun, said)
                return str(state)
            detail = f"{detail}; {said}" if said and said not in detail else detail
            self._patiently(self._end, study_uid, revision, name, state, detail, again_at)
        self._tell(log, name, state, detail, again_at)
        return str(state)

    def _commitment(
        self, begun: DeliveryRow, destination: Destination, artefacts: list[Artefact]
    ) -> tuple[DeliveryState, str, float | None]:
        """Ask a destination to commit to what it took; return the state, what it said, and when to ask again."""
        if not isinstance(destination, Committing):
            return DeliveryState.SENT, "", None
        where = (begun.study_uid, begun.revision, begun.destination, begun.attempts)
        transaction_uid = derive_uid("commitment", *map(str, where))
        # Before it is asked: its answer may be at the receiver before its acknowledgement is here.
        uids = [artefact.uid for artefact in artefacts]
        self._store.commitments.ask(transaction_uid, *where, uids, now=self._now())
        said = destination.request_commitment(artefacts, transaction_uid)
        match said.asked:
            case Asked.NOT_OFFERED:
                return DeliveryState.SENT, said.reason, None
            case Asked.COMMITTED:
                return DeliveryState.COMMITTED, said.reason, None
            case Asked.FAILED:
                return DeliveryState.RETRYING, said.reason, None
            case Asked.PENDING:
                return DeliveryState.UNCOMMITTED, said.reason, self._now() + destination.commitment_within_s

    def take_answer(self, answer: CommitmentRow) -> None:
        """Bring a delivery into line with what its destination said to our receiver."""
        where = (answer.study_uid, answer.revision, answer.destination)
        found = [
            one
            for one in self._store.deliveries.of_revision(answer.study_uid, answer.revision)
            if one.destination == answer.destination
        ]
        if found and answer.committed:
            if found[0].sent_at is None and found[0].state == DeliveryState.SENDING:
                return  # being sent again: looked at again when that has ended
            self._end(*where, DeliveryState.COMMITTED, "committed")
        elif found and found[0].attempts == answer.attempt:
            if found[0].state == DeliveryState.SENDING:
                return  # its answer was quicker than the attempt that asked for it
            if found[0].state == DeliveryState.UNCOMMITTED:  # else it is to be sent again anyway, or was given up
                self._refused_commitment(found[0], answer.reason or "not committed")
        self._store.commitments.settle(answer.transaction_uid)

    def _refused_commitment(self, delivery: DeliveryRow, reason: str) -> None:
        fault = DeliveryUnavailable(reason)
        state, detail, again_at = self._after_failure(fault, delivery.attempts - delivery.attempts_forgiven)
        self._patiently(self._send_again, delivery.study_uid, delivery.revision, delivery, state, detail, again_at)
        log = _log.bind(
            study_uid=delivery.study_uid,
            revision=delivery.revision,
            destination=delivery.destination,
            attempts=delivery.attempts,
        )
        self._tell(log, delivery.destination, state, detail, again_at)

    def _after_failure(self, fault: AllpacsError, tries: int) -> tuple[DeliveryState, str, float | None]:
        """Return the state after a failed attempt, why, and when it is tried again."""
        decision = decide(fault, tries, self._retry, random.random())  # noqa: S311 - jitter
        match decision:
            case RetryAfter(seconds=seconds):
                return DeliveryState.RETRYING, str(fault), self._now() + seconds
            case DeadLetter(reason=reason):
                return DeliveryState.DEAD, reason, None

    def _tell(
        self,
        log: structlog.typing.FilteringBoundLogger,
        destination: str,
        state: DeliveryState,
        detail: str,
        again_at: float | None,
    ) -> None:
        metrics.ATTEMPTS.labels(destination, str(state)).inc()
        wait_s = None if again_at is None else round(again_at - self._now(), 1)
        match state:
            case DeliveryState.RETRYING:
                log.warning("delivery_postponed", reason=detail, next_attempt_s=wait_s)
            case DeliveryState.DEAD:
                log.error("delivery_given_up", reason=detail)
            case DeliveryState.UNCOMMITTED:
                log.info("commitment_awaited", detail=detail, next_attempt_s=wait_s)
            case _:
                log.info("delivered", detail=detail, state=str(state))

    def _note_sent(self, study_uid: str, revision: int, destination: str) -> None:
        self._store.deliveries.note_sent(study_uid, revision, destination, now=self._now())

    def _send_again(
        self,
        study_uid: str,
        revision: int,
        delivery: DeliveryRow,
        state: DeliveryState,
        reason: str,
        next_attempt_at: float | None,
    ) -> None:
        self._store.deliveries.send_again(
            study_uid,
            revision,
            delivery.destination,
            delivery.attempts,
            state,
            now=self._now(),
            reason=reason,
            next_attempt_at=next_attempt_at,
        )
        self._settle(study_uid, revision)

    def _begin(self, study_uid: str, revision: int, destination: str, attempt: int) -> DeliveryRow | None:
        return self._store.deliveries.begin(study_uid, revision, destination, attempt, now=self._now())

    def _end(
        self,
        study_uid: str,
        revision: int,
        destination: str,
        state: DeliveryState,
        reason: str,
        next_attempt_at: float | None = None,
    ) -> None:
        now = self._now()
        self._store.deliveries.set_state(
            study_uid, revision, destination, state, now=now, reason=reason, next_attempt_at=next_attempt_at
        )
        self._settle(study_uid, revision)

    def give_up(self, study_uid: str, revision: int, destination: str, reason: str) -> None:
        """Make a delivery a dead letter."""
        self._patiently(self._end, study_uid, revision, destination, DeliveryState.DEAD, reason)

    def _settle(self, study_uid: str, revision: int) -> None:
        self._store.revisions.settle(study_uid, revision, now=self._now())
