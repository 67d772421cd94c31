"""The durable flow of a study: quiet → cells → classify → report → deliver.

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

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from dbos import DBOS, SetWorkflowID
from dbos import error as engine_errors
from sqlalchemy.exc import SQLAlchemyError

from allpacs.audit.trail import AuditTrail
from allpacs.deliver.destination import Destination
from allpacs.domain.errors import AllpacsError, StoreDamaged, StoreFault
from allpacs.flow.delivery import DeliveryStep
from allpacs.flow.engine import JsonSerializer, delivery_id, kind, reading_id
from allpacs.flow.housekeeping import MAX_RECOVERIES, Housekeeping
from allpacs.flow.model_swap import ActiveModel
from allpacs.flow.options import FlowOptions
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from allpacs.study.steps import StudySteps
from allpacs.telemetry import metrics, tracing

_log = structlog.get_logger("allpacs.flow")

#: Version of the workflows' order of steps: work begun under another number is not taken up by this code.
APPLICATION_VERSION = "1"

READ_QUEUE = "read"
#: Studies of at most so many bytes (some 80 single cells) have places of their own: none waits for slides.
SMALL_STUDY_BYTES = 50_000_000
READ_SMALL_QUEUE = "read-small"
#: Each of a worker's queues costs it 1 to 2 % of a core at this pace, idle or not; a delivery a destination each time.
_QUEUE_POLL_S = 0.25
#: Deliveries to a destination, and studies of either size, that wait in the engine at a time. Further ones wait in the
#: index and cost nothing there. More than the workers together have places for studies.
_MOST_QUEUED, _MOST_READY = 32, 128
#: Wait for the store: first and longest, seconds.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0

T = TypeVar("T")


class FingerprintMismatch(AllpacsError):
    """A reading was begun on other fingerprint (bundle, size of chunks) than those in use now."""


class Flow:
    """Runs the durable workflows of one worker process. One at a time in a process, as the workflow engine is."""

    def __init__(
        self,
        *,
        store: Store,
        readings: ActiveModel,
        destinations: Mapping[str, Destination],
        options: FlowOptions,
        on_engine_lost: Callable[[], object],
        now: Callable[[], float] = time.time,
        audit: AuditTrail | None = None,
    ) -> None:
        self._store = store
        self._readings = readings
        self._destinations = dict(destinations)
        self._options = options
        self._now = now
        self._on_engine_lost = on_engine_lost
        self._delivering = DeliveryStep(
            store=store,
            destinations=destinations,
            retry=options.retry,
            now=now,
            patiently=self._patiently,
            audit=audit,
        )
        self._housekeeping = Housekeeping(store=store, options=options, now=now, on_name_taken=on_engine_lost)
        self._dispatched_at = time.monotonic()
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
        @DBOS.workflow(name="read_study", max_recovery_attempts=MAX_RECOVERIES)
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
        self._housekeeping.register()
        # Not to those of a worker with other settings: while workers are restarted one by one, it may send to
        # destinations that this one does not know.
        DBOS.listen_queues([READ_QUEUE, READ_SMALL_QUEUE, *map(self._queue_of, self._destinations)])
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

        Workflows that were left wait in threads for the end of the process: see `allpacs.app.supervisor.end_process`.
        """
        self._stop.set()
        self._wake.set()
        self._dispatcher.join()
        with suppress(StoreFault):
            self._housekeeping.deregister()
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
        self._housekeeping.do_what_is_due()
        seen: set[str] = set()
        for study_uid, revision in self._store.revisions.close_due(self._now()):
            _log.info("study_closed", study_uid=study_uid, revision=revision)
            if tracing.on():
                self._trace_closed(study_uid, revision)
        for row in self._store.revisions.ready(_MOST_READY, SMALL_STUDY_BYTES):
            identity = reading_id(row.study_uid, row.revision, row.attempts)
            seen.add(identity)
            queue = READ_SMALL_QUEUE if row.size_bytes <= SMALL_STUDY_BYTES else READ_QUEUE
            self._enqueue(queue, identity, self._read, row.study_uid, row.revision, row.attempts)
        for answer in self._store.commitments.answers():
            try:
                self._delivering.take_answer(answer)
            except StoreFault:
                raise
            except Exception as error:  # noqa: BLE001 - one answer must not hold up all deliveries
                about = {"study_uid": answer.study_uid, "destination": answer.destination}
                _log.error("commitment_answer_not_taken", **about, reason=type(error).__name__)
        for delivery in self._store.deliveries.due(self._now(), _MOST_QUEUED):
            if delivery.destination not in self._destinations:
                continue  # no longer configured here; another worker may still have it
            study_uid, revision, destination = delivery.study_uid, delivery.revision, delivery.destination
            attempt = delivery.attempts + 1
            identity = delivery_id(study_uid, revision, destination, attempt)
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
        with self._readings.current() as reading:
            return self._read_with(reading, study_uid, revision, attempt)

    def _read_with(self, reading: StudySteps, study_uid: str, revision: int, attempt: int) -> str:
        started = self._now()

        def step(name: str, function: Callable[..., Any], *more: Any) -> Any:
            return self._step(name, self._on, study_uid, revision, reading, fingerprint, function, *more)

        try:
            chunks, fingerprint = self._step("plan", self._plan, study_uid, revision, reading)
            for chunk in range(chunks):
                step("cells", reading.find_cells, chunk)
                step("classify", reading.classify, chunk)
            summary = step("report", self._report, reading)
            self._step("release", reading.discard_work, study_uid, revision)
        except AllpacsError as fault:
            reading.discard_work(study_uid, revision)
            if kind(fault) == FingerprintMismatch.__name__:
                return self._patiently(self._begin_again, study_uid, revision, attempt)
            return self._patiently(
                self._housekeeping.needs_attention, study_uid, revision, f"{kind(fault)}: {fault}", attempt
            )
        except SQLAlchemyError as fault:
            self._engine_lost(fault)
            raise
        except engine_errors.DBOSException:
            raise  # the engine's own business: another run has it, or what it remembers does not fit; see the sweep
        except Exception as error:  # noqa: BLE001 - the workflow boundary: recorded, and the next study is read
            # Its text may quote patient data, so only its type is kept.
            reason = f"internal error: {type(error).__name__}"
            reading.discard_work(study_uid, revision)
            return self._patiently(self._housekeeping.needs_attention, study_uid, revision, reason, attempt)
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

    def _plan(self, study_uid: str, revision: int, reading: StudySteps) -> tuple[int, str]:
        if self._store.reviews.signed(study_uid, revision) is not None:  # a person made it: there is nothing to read
            self._store.revisions.set_state(study_uid, revision, RevisionState.READING)
            return 0, reading.fingerprint
        digest = reading.pipeline.bundle.digest
        self._store.revisions.set_state(study_uid, revision, RevisionState.READING, bundle_digest=digest)
        deleted = self._store.retention.deleted(study_uid, revision)
        if deleted:
            raise StoreDamaged(f"{deleted} of its instances were deleted after retention: send the whole study again")
        return reading.begin(study_uid, revision), reading.fingerprint

    def _on(
        self,
        study_uid: str,
        revision: int,
        reading: StudySteps,
        fingerprint: str,
        function: Callable[..., T],
        *more: Any,
    ) -> T:
        """Run a step if the fingerprint is still the same: no report mixes the answers of two models."""
        if fingerprint != reading.fingerprint:
            raise FingerprintMismatch("bundle or settings were changed while the study was read")
        return function(study_uid, revision, *more)

    def _begin_again(self, study_uid: str, revision: int, attempt: int) -> str:
        """Queue a reading that was begun on other fingerprint, unless its report is on its way already."""
        _log.warning(
            "reading_begins_again", study_uid=study_uid, revision=revision, reason="bundle or settings changed"
        )
        state = self._store.revisions.begin_again(study_uid, revision, attempt)
        if state == RevisionState.REPORTED:
            self._settle(study_uid, revision)
        return str(state or RevisionState.QUEUED)

    def _report(self, study_uid: str, revision: int, reading: StudySteps) -> dict[str, int]:
        summary = reading.report(study_uid, revision)
        wanted = self._delivering.destinations_of(study_uid, revision)
        self._store.deliveries.queue(study_uid, revision, wanted, now=self._now())
        self._settle(study_uid, revision)
        return summary

    def _settle(self, study_uid: str, revision: int) -> None:
        """Bring the state of a revision that has been read into line with its deliveries."""
        self._store.revisions.settle(study_uid, revision, now=self._now())

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
            reason = f"{kind(error)}: {error}" if own else f"internal error: {type(error).__name__}"
            _log.error("delivery_given_up", study_uid=study_uid, destination=destination, reason=reason)
            self._delivering.give_up(study_uid, revision, destination, reason)
        self._wake.set()
        return state
