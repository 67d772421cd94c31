"""The durable flow of a study: quiet → cells → classify → report → deliver. The only module that imports dbos.

Theory of operation
-------------------
The index says what is due; the workflow engine remembers how far each piece of work has come.

* The *dispatcher* (one thread a worker) asks the index, a few times a second, for studies that went quiet, revisions
  that wait, and deliveries that are due, and enqueues one workflow for each. The workflow's identity is derived from
  the work (``study@revision``), so enqueueing twice is one run: after a crash the index is simply asked again.
* A *reading* workflow runs steps over chunks of instances: ``cells`` decodes, finds cells and keeps the network's
  inputs on disk; ``classify`` labels them; ``report`` writes the artefacts. A finished step is not run again.
* A *delivery* workflow is one attempt at one destination, on that destination's own queue: a PACS that is down holds up
  nothing else. What follows a failed attempt is decided by a pure policy and written to the index.

Every step can be run twice with the effect of once: results carry derived UIDs and the times of their revision.
Workflow arguments and results are UIDs, numbers and states; never patient data.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from dbos import DBOS, Serializer, SetWorkflowID

from allpacs.deliver.port import Destination
from allpacs.deliver.retry import DeadLetter, RetryAfter, RetryPolicy, decide
from allpacs.domain.errors import AllpacsError, DeliveryRejected, DeliveryUnavailable, StoreFault
from allpacs.domain.identity import workflow_id
from allpacs.reading import Reading
from allpacs.store.records import DeliveryRow, DeliveryState, RevisionRow, RevisionState
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.flow")

#: Version of the workflows' order of steps: work begun under another number is not taken up by this code.
APPLICATION_VERSION = "1"

READ_QUEUE = "read"
_QUEUE_POLL_S = 0.1
#: A worker that dies this often over one study leaves it for a person to look at.
_MAX_RECOVERIES = 10

T = TypeVar("T")


class WorkflowError(AllpacsError):
    """A workflow ended with an error; what it was is in the index."""


class TermsChangedError(AllpacsError):
    """A reading was begun on other terms (bundle, size of chunks) than those in use now."""


class JsonSerializer(Serializer):
    """Keeps workflow state as JSON; of an exception only its type, since its text may quote what it choked on."""

    def name(self) -> str:
        """Return the name that is stored beside each value."""
        return "allpacs_json"

    def serialize(self, data: Any) -> str:
        """Return the JSON text of a value or exception."""
        return json.dumps({"error": type(data).__name__} if isinstance(data, BaseException) else {"value": data})

    def deserialize(self, serialized_data: str) -> Any:
        """Return the value of a JSON text; an exception comes back as `WorkflowError`."""
        stored = json.loads(serialized_data)
        return WorkflowError(stored["error"]) if "error" in stored else stored["value"]


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """How the flow runs.

    Attributes
    ----------
    system_database_url:
        SQLAlchemy URL of the workflow engine's own database.
    executor_id:
        Stable name of this worker: after a restart it takes up its own work.
    """

    system_database_url: str
    executor_id: str
    studies_at_a_time: int
    poll_s: float
    retry: RetryPolicy


class Flow:
    """Runs the durable workflows of one worker process. One at a time in a process, as the workflow engine is."""

    def __init__(
        self,
        *,
        store: Store,
        reading: Reading,
        destinations: Mapping[str, Destination],
        options: FlowOptions,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._reading = reading
        self._destinations = dict(destinations)
        self._options = options
        self._now = now
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._enqueued: set[str] = set()
        DBOS(
            config={
                "name": "allpacs",
                "system_database_url": options.system_database_url,
                "executor_id": options.executor_id,
                "application_version": APPLICATION_VERSION,
                "serializer": JsonSerializer(),
                "log_level": "ERROR",
            }
        )

        # The engine marks the functions it wraps, which bound methods do not allow.
        @DBOS.workflow(name="read_study", max_recovery_attempts=_MAX_RECOVERIES)
        def read_study(study_uid: str, revision: int, attempt: int) -> str:
            return self._read_study(study_uid, revision, attempt)

        @DBOS.workflow(name="deliver", max_recovery_attempts=None)
        def deliver(study_uid: str, revision: int, destination: str) -> str:
            return self._deliver_once(study_uid, revision, destination)

        self._read, self._deliver = read_study, deliver
        self._dispatcher = threading.Thread(target=self._dispatch_until_stopped, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Take up what this worker had begun, then whatever is due."""
        DBOS.launch()
        DBOS.register_queue(
            READ_QUEUE, worker_concurrency=self._options.studies_at_a_time, polling_interval_sec=_QUEUE_POLL_S
        )
        for name in self._destinations:
            DBOS.register_queue(self._queue_of(name), worker_concurrency=1, polling_interval_sec=_QUEUE_POLL_S)
        self._look_after_lost_readings()
        for row in self._store.revisions.in_state(RevisionState.REPORTED):
            self._settle(row.study_uid, row.revision)  # a delivery may have ended without its revision being told
        self._dispatcher.start()

    def stop(self, finish_within_s: float = 5.0) -> None:
        """Begin no further step, let those that run finish for a while, leave the rest to the next start.

        Workflows that were left wait in threads for the end of the process: see `allpacs.supervise.end_process`.
        """
        self._stop.set()
        self._wake.set()
        self._dispatcher.join()
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=int(finish_within_s))

    def _look_after_lost_readings(self) -> None:
        """Put readings that the engine has given up (a worker died over them again and again) before a person."""
        for row in self._store.revisions.in_state(RevisionState.READING):
            status = DBOS.get_workflow_status(_reading_id(row))
            if status is None or status.status not in {"PENDING", "ENQUEUED"}:
                state = "unknown" if status is None else status.status
                self._needs_attention(row.study_uid, row.revision, f"its reading ended as {state}: retry it")

    # ------------------------------------------------------------------------------------------------ dispatcher

    def _dispatch_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                self._dispatch()
            except StoreFault as fault:
                _log.error("dispatch_failed", reason=str(fault))
                self._stop.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a dispatcher that ended would leave a worker that does nothing
                # The workflow engine's own database fails with errors of its own, whose texts quote statements.
                _log.error("dispatch_failed", reason=type(error).__name__)
                self._stop.wait(1.0)
            self._wake.wait(self._options.poll_s)
            self._wake.clear()

    def _dispatch(self) -> None:
        seen: set[str] = set()
        for study_uid, revision in self._store.revisions.close_due(self._now()):
            _log.info("study_closed", study_uid=study_uid, revision=revision)
        for row in self._store.revisions.ready():
            identity = _reading_id(row)
            seen.add(identity)
            self._enqueue(READ_QUEUE, identity, self._read, row.study_uid, row.revision, row.attempts)
        for delivery in self._store.deliveries.due(self._now()):
            if delivery.destination not in self._destinations:
                continue  # no longer configured here; another worker may still have it
            identity = (
                f"{workflow_id(delivery.study_uid, delivery.revision)}>{delivery.destination}#{delivery.attempts + 1}"
            )
            seen.add(identity)
            queue = self._queue_of(delivery.destination)
            self._enqueue(queue, identity, self._deliver, delivery.study_uid, delivery.revision, delivery.destination)
        self._enqueued &= seen

    def _enqueue(self, queue: str, identity: str, workflow: Callable[..., str], *arguments: str | int) -> None:
        if identity in self._enqueued:
            return  # only saves the question: the engine would find it is there already
        with SetWorkflowID(identity):
            DBOS.enqueue_workflow(queue, workflow, *arguments)
        self._enqueued.add(identity)

    @staticmethod
    def _queue_of(destination: str) -> str:
        return f"deliver-{destination}"

    # -------------------------------------------------------------------------------------------------- workflows

    def _step(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run one checkpointed step; a full disk or locked database is waited for."""
        if self._stop.is_set():
            # What is done is checkpointed; a workflow that ended here would count as failed, so it waits for the end.
            threading.Event().wait()
        return DBOS.run_step(
            {
                "name": name,
                "retries_allowed": True,
                "max_attempts": 5,
                "interval_seconds": 1.0,
                "should_retry": lambda error: isinstance(error, StoreFault),
            },
            function,
            *arguments,
        )

    def _read_study(self, study_uid: str, revision: int, attempt: int) -> str:
        started = self._now()
        try:
            chunks, terms = self._step("plan", self._plan, study_uid, revision)
            for chunk in range(chunks):
                self._step("cells", self._on, terms, self._reading.find_cells, study_uid, revision, chunk)
                self._step("classify", self._on, terms, self._reading.classify, study_uid, revision, chunk)
            summary = self._step("report", self._on, terms, self._report, study_uid, revision)
            self._step("release", self._reading.discard_work, study_uid, revision)
        except AllpacsError as fault:
            if self._store.revisions.get(study_uid, revision).attempts != attempt:
                return str(RevisionState.QUEUED)  # this was interrupted after it had asked for another reading
            if _kind(fault) == TermsChangedError.__name__:
                return self._begin_again(study_uid, revision)
            return self._needs_attention(study_uid, revision, f"{_kind(fault)}: {fault}")
        except Exception as error:  # noqa: BLE001 - the workflow boundary: recorded, and the next study is read
            # Its text may quote patient data, so only its type is kept.
            return self._needs_attention(study_uid, revision, f"internal error: {type(error).__name__}")
        _log.info(
            "study_read",
            study_uid=study_uid,
            revision=revision,
            duration_s=round(self._now() - started, 3),
            **summary,
        )
        self._wake.set()
        return str(RevisionState.REPORTED)

    def _plan(self, study_uid: str, revision: int) -> tuple[int, str]:
        digest = self._reading.pipeline.bundle.digest
        self._store.revisions.set_state(study_uid, revision, RevisionState.READING, bundle_digest=digest)
        return self._reading.chunks(study_uid, revision), self._reading.terms

    def _on(self, terms: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run a step on the terms that the reading began on: no report mixes the answers of two models."""
        if terms != self._reading.terms:
            raise TermsChangedError("bundle or settings were changed while the study was read")
        return function(*arguments)

    def _begin_again(self, study_uid: str, revision: int) -> str:
        """Queue a reading that was begun on other terms, unless its report is on its way already."""
        _log.warning(
            "reading_begins_again", study_uid=study_uid, revision=revision, reason="bundle or settings changed"
        )
        self._store.revisions.set_state(
            study_uid, revision, RevisionState.ATTENTION, reason="bundle or settings changed"
        )
        if self._store.revisions.read_again(study_uid) is not None:
            return str(RevisionState.QUEUED)
        if self._store.deliveries.of_revision(study_uid, revision):
            self._settle(study_uid, revision)
            return str(RevisionState.REPORTED)
        self._store.revisions.set_state(study_uid, revision, RevisionState.SUPERSEDED)  # by a later revision
        return str(RevisionState.SUPERSEDED)

    def _report(self, study_uid: str, revision: int) -> dict[str, int]:
        summary = self._reading.report(study_uid, revision)
        self._store.deliveries.queue(study_uid, revision, sorted(self._destinations), now=self._now())
        self._settle(study_uid, revision)
        return summary

    def _settle(self, study_uid: str, revision: int) -> None:
        """Bring the state of a revision that has been read into line with its deliveries."""
        self._store.revisions.settle(study_uid, revision, outcome, finished_at=self._now())

    def _needs_attention(self, study_uid: str, revision: int, reason: str) -> str:
        _log.error("study_needs_attention", study_uid=study_uid, revision=revision, reason=reason)
        self._store.revisions.set_state(
            study_uid, revision, RevisionState.ATTENTION, reason=reason, finished_at=self._now()
        )
        return str(RevisionState.ATTENTION)

    def _deliver_once(self, study_uid: str, revision: int, destination: str) -> str:
        try:
            state = self._step("deliver", self._attempt, study_uid, revision, destination)
        except Exception as error:  # noqa: BLE001 - the workflow boundary: recorded, other deliveries go on
            state = str(DeliveryState.DEAD)
            reason = f"internal error: {type(error).__name__}"  # its text may quote patient data
            _log.error("delivery_given_up", study_uid=study_uid, destination=destination, reason=reason)
            self._end(study_uid, revision, destination, DeliveryState.DEAD, reason)
        self._wake.set()
        return state

    def _attempt(self, study_uid: str, revision: int, name: str) -> str:
        """Make one attempt and write down what came of it."""
        destination = self._destinations[name]
        attempt = self._store.deliveries.begin(study_uid, revision, name, now=self._now())
        if attempt is None:  # this step ran before and was interrupted after it had written down its success
            self._settle(study_uid, revision)
            return str(DeliveryState.SENT)
        log = _log.bind(study_uid=study_uid, revision=revision, destination=name, attempts=attempt)
        artefacts = [a for a in self._store.artefacts.get(study_uid, revision) if a.kind in destination.takes]
        try:
            receipt = destination.deliver(artefacts)
        except (DeliveryUnavailable, DeliveryRejected) as fault:
            decision = decide(fault, attempt, self._options.retry, random.random())  # noqa: S311 - jitter
            why = str(fault)
        else:
            detail = receipt.detail if receipt.warning is None else f"{receipt.detail} ({receipt.warning})"
            self._end(study_uid, revision, name, DeliveryState.SENT, detail)
            log.info("delivered", detail=detail)
            return str(DeliveryState.SENT)
        match decision:
            case RetryAfter(seconds=seconds):
                self._end(study_uid, revision, name, DeliveryState.RETRYING, why, self._now() + seconds)
                log.warning("delivery_postponed", reason=why, next_attempt_s=round(seconds, 1))
                return str(DeliveryState.RETRYING)
            case DeadLetter(reason=reason):
                self._end(study_uid, revision, name, DeliveryState.DEAD, reason)
                log.error("delivery_given_up", reason=reason)
                return str(DeliveryState.DEAD)

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


def _kind(fault: AllpacsError) -> str:
    """Return the name of a fault's type, also of one that comes back from the workflow engine's memory."""
    return str(fault) if isinstance(fault, WorkflowError) else type(fault).__name__


def _reading_id(row: RevisionRow) -> str:
    return f"{workflow_id(row.study_uid, row.revision)}#{row.attempts}"


def outcome(deliveries: Sequence[DeliveryRow]) -> tuple[RevisionState, str | None]:
    """Return the state of a revision that has been read, and the reason where a person has to look."""
    dead = [delivery for delivery in deliveries if delivery.state == DeliveryState.DEAD]
    if dead:
        return RevisionState.ATTENTION, "; ".join(f"{one.destination}: {one.reason}" for one in dead)
    if deliveries and all(delivery.state == DeliveryState.SENT for delivery in deliveries):
        return RevisionState.DELIVERED, None
    return RevisionState.REPORTED, None


def workflow_database(folder: Path, database_url: str | None) -> str:
    """Return the URL of the workflow engine's database: beside the index, or in the same PostgreSQL."""
    return database_url if database_url is not None else f"sqlite:///{folder / 'workflow.sqlite'}"
