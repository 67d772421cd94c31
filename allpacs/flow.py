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

What may go wrong, and what follows
-----------------------------------
* The disk is full or the index is away (`StoreFault`): the step waits until it is back, however long that takes.
* What was kept is gone or altered (`StoreDamaged`), or the bundle is wrong: a person has to look.
* The workflow engine's own database fails: the process ends, as if killed, and its next start goes on.
* A worker dies for good, or its machine does: another one takes over what it was at when it has been silent for
  `takeover_after_s`, or at once where it was stopped in order.
* A workflow ended without the index being told (the engine gave it up, or its database was lost): the *sweep*, at start
  and every half minute, queues the work again.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from dbos import DBOS, Serializer, SetWorkflowID
from dbos import error as engine_errors
from sqlalchemy.exc import SQLAlchemyError

from allpacs import metrics, tracing
from allpacs.audit.trail import AuditTrail
from allpacs.bundle_swap import InService
from allpacs.deliver.port import Destination
from allpacs.deliver.retry import RetryPolicy
from allpacs.delivering import Delivering
from allpacs.domain.errors import AllpacsError, StoreDamaged, StoreFault
from allpacs.domain.identity import workflow_id
from allpacs.reading import Reading
from allpacs.store.database import private_file
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from allpacs.store.workers import STOPPED
from allpacs.supervise import end_process

_log = structlog.get_logger("allpacs.flow")

#: Version of the workflows' order of steps: work begun under another number is not taken up by this code.
APPLICATION_VERSION = "1"

READ_QUEUE = "read"
#: Studies of at most so many bytes (some 80 single cells) have places of their own: none waits for slides.
SMALL_STUDY_BYTES = 50_000_000
READ_SMALL_QUEUE = "read-small"
_QUEUE_POLL_S = 0.1
#: Deliveries to a destination that wait in the engine at a time; further ones wait in the index and cost nothing there.
_MOST_QUEUED = 32
#: A worker that dies this often over one study leaves it for a person to look at.
_MAX_RECOVERIES = 10
#: Heartbeats within the time after which a worker is taken for dead.
_BEATS = 6
#: Event of the audit.
_TAKEN_OVER = "work_taken_over"
#: Between two looks for work that the engine no longer has.
_SWEEP_S = 30.0
#: Between two looks for what need not be kept any longer.
_PURGE_S = 600.0
#: A destination's answer to a question older than this is of no use.
_QUESTIONS_KEPT_S = 90 * 86_400.0
#: States of a workflow that will still do something.
_ALIVE = frozenset({"PENDING", "ENQUEUED", "DELAYED"})
#: States of a workflow that ended without having done its work.
_FAILED = ["ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
#: States of a workflow that is over.
_ENDED = ["SUCCESS", *_FAILED]
#: Workflows that one look deletes: the others wait for the next.
_MOST_FORGOTTEN = 1000
#: Failed workflows that one sweep looks at, the latest first: there are none, but for a lost database or a bug.
_MOST_FAILED = 1000
#: What `_reading_id` and `_delivery_id` write.
_IDENTITY = re.compile(r"(?P<study>[^@]+)@(?P<revision>\d+)(?:>(?P<destination>.+))?#(?P<attempt>\d+)")
#: Wait for the store: first and longest, seconds.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0

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
    takeover_after_s:
        What another worker was at is taken over when it has been silent for so long.
    keep_sources_s:
        What was received is deleted so long after its results were delivered; None: never.
    keep_history_s:
        Events of the index's audit and workflows that ended are deleted after so long; None: never.
    """

    system_database_url: str
    executor_id: str
    studies_at_a_time: int
    poll_s: float
    retry: RetryPolicy
    takeover_after_s: float = 60.0
    keep_sources_s: float | None = None
    keep_history_s: float | None = None


class Flow:
    """Runs the durable workflows of one worker process. One at a time in a process, as the workflow engine is."""

    def __init__(
        self,
        *,
        store: Store,
        readings: InService,
        destinations: Mapping[str, Destination],
        options: FlowOptions,
        now: Callable[[], float] = time.time,
        on_engine_lost: Callable[[], object] = lambda: end_process(1),
        audit: AuditTrail | None = None,
    ) -> None:
        self._store = store
        self._readings = readings
        self._destinations = dict(destinations)
        self._options = options
        self._now = now
        self._on_engine_lost = on_engine_lost
        self._delivering = Delivering(
            store=store,
            destinations=destinations,
            retry=options.retry,
            now=now,
            patiently=self._patiently,
            audit=audit,
        )
        self._swept_at = 0.0
        self._purged_at = 0.0
        self._dispatched_at = time.monotonic()
        self._incarnation = str(uuid.uuid4())
        self._beat_at = float("-inf")
        self._heard: dict[str, tuple[int, float]] = {}  # of other workers: their count, and since when it stands
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
            with tracing.span("read", study_uid, revision=revision, attempts=attempt) as span:
                state = self._read_study(study_uid, revision, attempt)
                span.tell(state=state)
                return state

        @DBOS.workflow(name="deliver", max_recovery_attempts=None)
        def deliver(study_uid: str, revision: int, destination: str, attempt: int) -> str:
            about = {"revision": revision, "destination": destination, "attempts": attempt}
            with tracing.span("delivery", study_uid, **about) as span:
                state = self._deliver_once(study_uid, revision, destination, attempt)
                span.tell(state=state)
                return state

        self._read, self._deliver = read_study, deliver
        self._dispatcher = threading.Thread(target=self._dispatch_until_stopped, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Take up what this worker had begun, then whatever is due."""
        self._store.workers.register(self._options.executor_id, self._incarnation)
        DBOS.launch()
        places = self._options.studies_at_a_time
        for name in (READ_QUEUE, READ_SMALL_QUEUE):
            DBOS.register_queue(name, worker_concurrency=places, polling_interval_sec=_QUEUE_POLL_S)
        for name in self._destinations:
            DBOS.register_queue(self._queue_of(name), worker_concurrency=1, polling_interval_sec=_QUEUE_POLL_S)
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
        with suppress(StoreFault):
            self._store.workers.leave(self._options.executor_id, self._incarnation)
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=int(finish_within_s))

    @property
    def dispatching(self) -> bool:
        """Whether the thread that looks for due work runs."""
        return self._dispatcher.is_alive()

    @property
    def idle_s(self) -> float:
        """Seconds since the index was last asked what is due."""
        return time.monotonic() - self._dispatched_at

    # ------------------------------------------------------------------------------------------------ dispatcher

    def _dispatch_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                self._dispatch()
                self._dispatched_at = time.monotonic()
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
        if time.monotonic() - self._beat_at >= self._options.takeover_after_s / _BEATS:
            self._beat()
            self._beat_at = time.monotonic()
        if self._now() - self._swept_at >= _SWEEP_S:
            self._sweep()
            self._swept_at = self._now()
        if self._now() - self._purged_at >= _PURGE_S:
            self._purge()
            self._purged_at = self._now()
        seen: set[str] = set()
        for study_uid, revision in self._store.revisions.close_due(self._now()):
            _log.info("study_closed", study_uid=study_uid, revision=revision)
            if tracing.on():
                self._trace_closed(study_uid, revision)
        for row in self._store.revisions.ready():
            identity = _reading_id(row.study_uid, row.revision, row.attempts)
            seen.add(identity)
            if identity not in self._enqueued:
                small = self._store.revisions.received_bytes(row.study_uid) <= SMALL_STUDY_BYTES
                queue = READ_SMALL_QUEUE if small else READ_QUEUE
                self._enqueue(queue, identity, self._read, row.study_uid, row.revision, row.attempts)
        for answer in self._store.commitments.answers():
            self._delivering.take_answer(answer)
        for delivery in self._store.deliveries.due(self._now(), _MOST_QUEUED):
            if delivery.destination not in self._destinations:
                continue  # no longer configured here; another worker may still have it
            study_uid, revision, destination = delivery.study_uid, delivery.revision, delivery.destination
            attempt = delivery.attempts + 1
            identity = _delivery_id(study_uid, revision, destination, attempt)
            seen.add(identity)
            queue = self._queue_of(destination)
            self._enqueue(queue, identity, self._deliver, study_uid, revision, destination, attempt)
        self._enqueued &= seen

    def _trace_closed(self, study_uid: str, revision: int) -> None:
        rows = self._store.revisions.instances(study_uid, revision)
        first_at = min((row.received_at for row in rows if row.revision == revision), default=self._now())
        tracing.study_closed(study_uid, revision, ago_s=self._now() - first_at, instances=len(rows))

    def _enqueue(self, queue: str, identity: str, workflow: Callable[..., str], *arguments: str | int) -> None:
        if identity in self._enqueued:
            return  # only saves the question: the engine would find it is there already
        with SetWorkflowID(identity):
            DBOS.enqueue_workflow(queue, workflow, *arguments)
        self._enqueued.add(identity)

    @staticmethod
    def _queue_of(destination: str) -> str:
        return f"deliver-{destination}"

    def _sweep(self) -> None:
        """Queue again what the index says is being done and the engine says is not.

        A workflow writes to the index before it ends, so one that has ended is through with its row; whatever it has
        left in its old state is lost. Each change names the attempt it is about: one that moved on meanwhile stays.
        """
        for row in self._store.revisions.in_state(RevisionState.READING):
            status = _workflow_status(_reading_id(row.study_uid, row.revision, row.attempts))
            if status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
                reason = f"the worker ended {_MAX_RECOVERIES} times over this study: report it, then retry"
                self._needs_attention(row.study_uid, row.revision, reason, row.attempts)
            elif status not in _ALIVE:
                self._lost_reading(row.study_uid, row.revision, row.attempts)
        for one in self._store.deliveries.in_state(DeliveryState.SENDING):
            if _workflow_status(_delivery_id(one.study_uid, one.revision, one.destination, one.attempts)) not in _ALIVE:
                self._lost_delivery(one.study_uid, one.revision, one.destination, one.attempts)
        # Those that ended before they could even note that they had begun. Told by their names: what they were called
        # with may be an earlier version's.
        for failed in DBOS.list_workflows(
            status=_FAILED, limit=_MOST_FAILED, sort_desc=True, load_input=False, load_output=False
        ):
            match _IDENTITY.fullmatch(failed.workflow_id):
                case re.Match() as found if found["destination"] is None:
                    self._lost_reading(found["study"], int(found["revision"]), int(found["attempt"]))
                case re.Match() as found:
                    self._lost_delivery(
                        found["study"], int(found["revision"]), found["destination"], int(found["attempt"])
                    )

    def _beat(self) -> None:
        """Say that this worker lives, and take over what those were at that have fallen silent."""
        own = self._options.executor_id
        if not self._store.workers.beat(own, self._incarnation):
            _log.critical("worker_name_taken", executor_id=own, reason="give each worker a work.executor_id of its own")
            self._on_engine_lost()
            return
        now = time.monotonic()
        others = self._store.workers.others(own)
        for executor_id, beats in others.items():
            if self._heard.get(executor_id, (None, 0.0))[0] != beats:
                self._heard[executor_id] = (beats, now)
            silent_s = now - self._heard[executor_id][1]
            dead = beats == STOPPED or silent_s >= self._options.takeover_after_s
            if dead and self._store.workers.claim(executor_id, beats):
                self._take_over(executor_id)
        self._heard = {name: heard for name, heard in self._heard.items() if name in others}

    def _take_over(self, executor_id: str) -> None:
        """Put what a dead worker was at back into its queues; the checkpoints say how far it came.

        Where it is not dead but cut off, both do the same work for a while: every step has the effect of once.
        """
        left = DBOS.list_workflows(status="PENDING", executor_id=executor_id, load_input=False, load_output=False)
        for one in left:
            found = _IDENTITY.fullmatch(one.workflow_id)
            if found is None:
                continue
            study_uid, revision = found["study"], int(found["revision"])
            # The engine forgets how often a study has ended its worker when it is resumed; the index does not.
            if self._store.audit.count(_TAKEN_OVER, study_uid) >= _MAX_RECOVERIES and found["destination"] is None:
                DBOS.cancel_workflow(one.workflow_id)
                reason = f"workers ended {_MAX_RECOVERIES} times over this study: report it, then retry"
                self._needs_attention(study_uid, revision, reason, int(found["attempt"]))
                continue
            self._store.audit.record(_TAKEN_OVER, at=self._now(), study_uid=study_uid, reason=f"from {executor_id}")
            DBOS.resume_workflow(one.workflow_id, queue_name=one.queue_name)
        _log.warning("worker_taken_over", executor_id=executor_id, count=len(left))
        self._store.workers.forget(executor_id)
        self._heard.pop(executor_id, None)

    def _purge(self) -> None:
        """Delete what need not be kept any longer."""
        self._store.commitments.forget(self._now() - _QUESTIONS_KEPT_S)
        if self._options.keep_sources_s is not None:
            for study_uid in self._store.retention.purge(self._now() - self._options.keep_sources_s, now=self._now()):
                _log.info("sources_deleted", study_uid=study_uid)
        if self._options.keep_history_s is not None:
            self._forget_history(self._now() - self._options.keep_history_s)

    def _forget_history(self, before: float) -> None:
        """Delete events from before a time, and workflows that ended before it: the index has what came of those."""
        events = self._store.audit.forget(before)
        ended = DBOS.list_workflows(
            status=_ENDED,
            completed_before=datetime.fromtimestamp(before, UTC).isoformat(),
            limit=_MOST_FORGOTTEN,
            load_input=False,
            load_output=False,
        )
        if ended:
            DBOS.delete_workflows([one.workflow_id for one in ended])
        if events or ended:
            _log.info("history_deleted", events=events, count=len(ended))

    def _lost_reading(self, study_uid: str, revision: int, attempt: int) -> None:
        state = self._store.revisions.begin_again(study_uid, revision, attempt)
        if state is not None:
            _log.warning("lost_reading_found", study_uid=study_uid, revision=revision, state=str(state))

    def _lost_delivery(self, study_uid: str, revision: int, destination: str, attempt: int) -> None:
        if self._store.deliveries.retry_lost(study_uid, revision, destination, attempt, now=self._now()):
            _log.warning("lost_delivery_found", study_uid=study_uid, revision=revision, destination=destination)

    # -------------------------------------------------------------------------------------------------- workflows

    def _step(self, name: str, function: Callable[..., T], study_uid: str, revision: int, *more: Any) -> T:
        """Run one checkpointed step."""
        self._pause_if_stopping()
        with metrics.STAGE_SECONDS.labels(name).time():
            return DBOS.run_step({"name": name}, self._traced, name, function, study_uid, revision, *more)

    def _traced(self, name: str, function: Callable[..., T], study_uid: str, revision: int, *more: Any) -> T:
        with tracing.span(name, study_uid, revision=revision):
            return self._patiently(function, study_uid, revision, *more)

    def _pause_if_stopping(self) -> None:
        if self._stop.is_set():
            # What is done is checkpointed; a workflow that ended here would count as failed, so it waits for the end.
            threading.Event().wait()

    def _patiently(self, function: Callable[..., T], study_uid: str, revision: int, *more: Any) -> T:
        """Call a function that can be called twice with the effect of once, until the store lets it do its work."""
        wait_s = _FIRST_WAIT_S
        waited = False
        while True:
            try:
                result = function(study_uid, revision, *more)
                if waited:
                    self._store.revisions.note(study_uid, revision, None)
            except StoreDamaged:
                raise
            except StoreFault as fault:
                waited = True
                _log.error(
                    "waiting_for_store",
                    study_uid=study_uid,
                    revision=revision,
                    reason=str(fault),
                    next_attempt_s=wait_s,
                )
                with suppress(StoreFault):
                    self._store.revisions.note(study_uid, revision, f"waiting: {fault}")
                self._stop.wait(wait_s)
                self._pause_if_stopping()
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                return result

    def _read_study(self, study_uid: str, revision: int, attempt: int) -> str:
        with self._readings.held() as reading:
            return self._read_with(reading, study_uid, revision, attempt)

    def _read_with(self, reading: Reading, study_uid: str, revision: int, attempt: int) -> str:
        started = self._now()

        def step(name: str, function: Callable[..., Any], *more: Any) -> Any:
            return self._step(name, self._on, study_uid, revision, reading, terms, function, *more)

        try:
            chunks, terms = self._step("plan", self._plan, study_uid, revision, reading)
            for chunk in range(chunks):
                step("cells", reading.find_cells, chunk)
                step("classify", reading.classify, chunk)
            summary = step("report", self._report, reading)
            self._step("release", reading.discard_work, study_uid, revision)
        except AllpacsError as fault:
            if _kind(fault) == TermsChangedError.__name__:
                return self._patiently(self._begin_again, study_uid, revision, attempt)
            return self._patiently(self._needs_attention, study_uid, revision, f"{_kind(fault)}: {fault}", attempt)
        except SQLAlchemyError as fault:
            self._engine_lost(fault)
            raise
        except engine_errors.DBOSException:
            raise  # the engine's own business: another run has it, or what it remembers does not fit; see the sweep
        except Exception as error:  # noqa: BLE001 - the workflow boundary: recorded, and the next study is read
            # Its text may quote patient data, so only its type is kept.
            reason = f"internal error: {type(error).__name__}"
            return self._patiently(self._needs_attention, study_uid, revision, reason, attempt)
        _log.info(
            "study_read",
            study_uid=study_uid,
            revision=revision,
            duration_s=round(self._now() - started, 3),
            **summary,
        )
        self._wake.set()
        return str(RevisionState.REPORTED)

    def _engine_lost(self, error: SQLAlchemyError) -> None:
        """End the process: what the engine could not write down it will do again at the next start.

        The store's errors are `StoreFault`; a bare one is the engine's, which waits by itself for a database that is
        locked or away, but not for a full disk. Where the flow has been stopped, the engine's database may be closed
        under what outlives it: no reason to end a process that goes on without it.
        """
        if self._stop.is_set():
            return
        _log.critical("engine_lost", reason=type(error).__name__)
        self._on_engine_lost()

    def _plan(self, study_uid: str, revision: int, reading: Reading) -> tuple[int, str]:
        if self._store.reviews.signed(study_uid, revision) is not None:  # a person made it: there is nothing to read
            self._store.revisions.set_state(study_uid, revision, RevisionState.READING)
            return 0, reading.terms
        digest = reading.pipeline.bundle.digest
        self._store.revisions.set_state(study_uid, revision, RevisionState.READING, bundle_digest=digest)
        deleted = self._store.retention.deleted(study_uid, revision)
        if deleted:
            raise StoreDamaged(f"{deleted} of its instances were deleted after retention: send the whole study again")
        return reading.begin(study_uid, revision), reading.terms

    def _on(
        self, study_uid: str, revision: int, reading: Reading, terms: str, function: Callable[..., T], *more: Any
    ) -> T:
        """Run a step on the terms that the reading began on: no report mixes the answers of two models."""
        if terms != reading.terms:
            raise TermsChangedError("bundle or settings were changed while the study was read")
        return function(study_uid, revision, *more)

    def _begin_again(self, study_uid: str, revision: int, attempt: int) -> str:
        """Queue a reading that was begun on other terms, unless its report is on its way already."""
        _log.warning(
            "reading_begins_again", study_uid=study_uid, revision=revision, reason="bundle or settings changed"
        )
        state = self._store.revisions.begin_again(study_uid, revision, attempt)
        if state == RevisionState.REPORTED:
            self._settle(study_uid, revision)
        return str(state or RevisionState.QUEUED)

    def _report(self, study_uid: str, revision: int, reading: Reading) -> dict[str, int]:
        summary = reading.report(study_uid, revision)
        self._store.deliveries.queue(study_uid, revision, sorted(self._destinations), now=self._now())
        self._settle(study_uid, revision)
        return summary

    def _settle(self, study_uid: str, revision: int) -> None:
        """Bring the state of a revision that has been read into line with its deliveries."""
        self._store.revisions.settle(study_uid, revision, now=self._now())

    def _needs_attention(self, study_uid: str, revision: int, reason: str, attempt: int) -> str:
        if self._store.revisions.get(study_uid, revision).attempts != attempt:
            return str(RevisionState.QUEUED)  # this was interrupted after another reading had been asked for
        _log.error("study_needs_attention", study_uid=study_uid, revision=revision, reason=reason)
        self._store.revisions.set_state(
            study_uid, revision, RevisionState.ATTENTION, reason=reason, finished_at=self._now()
        )
        return str(RevisionState.ATTENTION)

    def _deliver_once(self, study_uid: str, revision: int, destination: str, attempt: int) -> str:
        try:
            state = self._step("deliver", self._delivering.attempt, study_uid, revision, destination, attempt)
        except SQLAlchemyError as fault:
            self._engine_lost(fault)
            raise
        except engine_errors.DBOSException:
            raise  # the engine's own business: another run has it, or what it remembers does not fit; see the sweep
        except Exception as error:  # noqa: BLE001 - the workflow boundary: recorded, other deliveries go on
            state = str(DeliveryState.DEAD)
            # The text of an error that is not ours may quote patient data.
            own = isinstance(error, AllpacsError)
            reason = f"{_kind(error)}: {error}" if own else f"internal error: {type(error).__name__}"
            _log.error("delivery_given_up", study_uid=study_uid, destination=destination, reason=reason)
            self._delivering.give_up(study_uid, revision, destination, reason)
        self._wake.set()
        return state


def _kind(fault: Exception) -> str:
    """Return the name of a fault's type, also of one that comes back from the workflow engine's memory."""
    return str(fault) if isinstance(fault, WorkflowError) else type(fault).__name__


def _workflow_status(identity: str) -> str | None:
    """Return the engine's word for where a workflow stands, or None where it knows none of that name."""
    known = DBOS.get_workflow_status(identity)
    return None if known is None else known.status


def _reading_id(study_uid: str, revision: int, attempt: int) -> str:
    return f"{workflow_id(study_uid, revision)}#{attempt}"


def _delivery_id(study_uid: str, revision: int, destination: str, attempt: int) -> str:
    return f"{workflow_id(study_uid, revision)}>{destination}#{attempt}"


def workflow_database(folder: Path, database_url: str | None) -> str:
    """Return the URL of the workflow engine's database: beside the index, or in the same PostgreSQL."""
    if database_url is not None:
        return database_url
    private_file(folder / "workflow.sqlite")
    return f"sqlite:///{folder / 'workflow.sqlite'}"
