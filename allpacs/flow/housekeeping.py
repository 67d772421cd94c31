"""What a worker does beside its work: says that it lives, takes over from the dead, finds what was lost, forgets.

* A worker that has been silent for `takeover_after_s` is taken for dead, one that was stopped in order at once; another
  one puts back into the queues what it was at.
* A workflow that ended without the index being told (the engine gave it up, or its database was lost) is queued again.
* What need not be kept any longer is deleted: sources, events, workflows that ended.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from dbos import DBOS

from allpacs.domain.errors import AllpacsError
from allpacs.flow.engine import IDENTITY, delivery_id, reading_id, workflow_status
from allpacs.flow.options import FlowOptions
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from allpacs.store.workers import STOPPED

_log = structlog.get_logger("allpacs.flow")

#: A worker that dies this often over one study leaves it for a person to look at.
MAX_RECOVERIES = 10
#: Heartbeats within the time after which a worker is taken for dead.
_BEATS = 6
#: Event of the audit.
_TAKEN_OVER = "work_taken_over"
#: Between two looks for work that the engine no longer has.
_SWEEP_S = 30.0
#: Between two looks for what need not be kept any longer.
_PURGE_S = 600.0
#: How long a worker that stops waits for it; what is left is deleted the next time.
_PURGE_ENDS_WITHIN_S = 5.0
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


class Housekeeping:
    """The upkeep of one worker process.

    Parameters
    ----------
    on_name_taken:
        Called when another process works under this one's name.
    """

    def __init__(
        self,
        *,
        store: Store,
        options: FlowOptions,
        now: Callable[[], float],
        on_name_taken: Callable[[], object],
    ) -> None:
        self._store = store
        self._options = options
        self._now = now
        self._on_name_taken = on_name_taken
        self._incarnation = str(uuid.uuid4())
        self._beat_at = float("-inf")
        self._swept_at = 0.0
        self._purged_at = 0.0
        self._purging: threading.Thread | None = None
        self._heard: dict[str, tuple[int, float]] = {}  # of other workers: their count, and since when it stands

    def register(self) -> None:
        """Say that this worker is there."""
        self._store.workers.register(self._options.executor_id, self._incarnation)

    def deregister(self) -> None:
        """Say that this worker stops in order: others take up what it leaves at once."""
        self._store.workers.deregister(self._options.executor_id, self._incarnation)
        if self._purging is not None:
            self._purging.join(_PURGE_ENDS_WITHIN_S)

    def do_what_is_due(self) -> None:
        """Beat, sweep and purge, each when it is time; purging takes as long as it takes, in a thread of its own."""
        if time.monotonic() - self._beat_at >= self._options.takeover_after_s / _BEATS:
            self._beat()
            self._beat_at = time.monotonic()
        if self._now() - self._swept_at >= _SWEEP_S:
            self.sweep()
            self._swept_at = self._now()
        purging = self._purging is not None and self._purging.is_alive()
        if self._now() - self._purged_at >= _PURGE_S and not purging:
            self._purged_at = self._now()
            self._purging = threading.Thread(target=self._purge_and_tell, name="purge", daemon=True)
            self._purging.start()

    def needs_attention(self, study_uid: str, revision: int, reason: str, attempt: int) -> str:
        """Leave a reading for a person to look at, and return the state of its revision."""
        if self._store.revisions.get(study_uid, revision).attempts != attempt:
            return str(RevisionState.QUEUED)  # this was interrupted after another reading had been asked for
        _log.error("study_needs_attention", study_uid=study_uid, revision=revision, reason=reason)
        self._store.revisions.set_state(
            study_uid, revision, RevisionState.ATTENTION, reason=reason, finished_at=self._now()
        )
        return str(RevisionState.ATTENTION)

    def sweep(self) -> None:
        """Queue again what the index says is being done and the engine says is not.

        A workflow writes to the index before it ends, so one that has ended is through with its row; whatever it has
        left in its old state is lost. Each change names the attempt it is about: one that moved on meanwhile stays.
        """
        for row in self._store.revisions.in_state(RevisionState.READING):
            status = workflow_status(reading_id(row.study_uid, row.revision, row.attempts))
            if status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
                reason = f"the worker ended {MAX_RECOVERIES} times over this study: report it, then retry"
                self.needs_attention(row.study_uid, row.revision, reason, row.attempts)
            elif status not in _ALIVE:
                self._lost_reading(row.study_uid, row.revision, row.attempts)
        for one in self._store.deliveries.in_state(DeliveryState.SENDING):
            if workflow_status(delivery_id(one.study_uid, one.revision, one.destination, one.attempts)) not in _ALIVE:
                self._lost_delivery(one.study_uid, one.revision, one.destination, one.attempts)
        # Those that ended before they could even note that they had begun. Told by their names: what they were called
        # with may be an earlier version's.
        for failed in DBOS.list_workflows(
            status=_FAILED, limit=_MOST_FAILED, sort_desc=True, load_input=False, load_output=False
        ):
            match IDENTITY.fullmatch(failed.workflow_id):
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
            self._on_name_taken()
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
            found = IDENTITY.fullmatch(one.workflow_id)
            if found is None:
                continue
            study_uid, revision = found["study"], int(found["revision"])
            # The engine forgets how often a study has ended its worker when it is resumed; the index does not.
            if self._store.audit.count(_TAKEN_OVER, study_uid) >= MAX_RECOVERIES and found["destination"] is None:
                DBOS.cancel_workflow(one.workflow_id)
                reason = f"workers ended {MAX_RECOVERIES} times over this study: report it, then retry"
                self.needs_attention(study_uid, revision, reason, int(found["attempt"]))
                continue
            self._store.audit.record(_TAKEN_OVER, at=self._now(), study_uid=study_uid, reason=f"from {executor_id}")
            DBOS.resume_workflow(one.workflow_id, queue_name=one.queue_name)
        _log.warning("worker_taken_over", executor_id=executor_id, count=len(left))
        self._store.workers.forget(executor_id)
        self._heard.pop(executor_id, None)

    def _purge_and_tell(self) -> None:
        try:
            self.purge()
        except Exception as error:  # noqa: BLE001 - the thread's boundary: what was not deleted is the next time
            reason = str(error) if isinstance(error, AllpacsError) else type(error).__name__
            _log.error("purge_failed", reason=reason)

    def purge(self) -> None:
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
