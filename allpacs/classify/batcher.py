"""Dynamic batching: cells of many instances and studies share the model's batches.

Theory of operation. `submit` queues the cells of one caller and returns a future. One worker thread forms batches: it
waits until a full batch is queued or the oldest cell has waited `max_delay_s`, then takes cells from all waiting
submissions in turn, so that a study of thousands of cells never starves a small one: the cells of a small one are in
the first batch that is formed after they came. What can go wrong with a batch, and what is done:

    a row is not finite, or the engine raises ModelFault   the batch is bisected: the poison cell's logits become NaN,
                                                           its neighbours get their answers
    ... and the engine cannot even judge a black picture   the engine is broken: the futures of this batch fail
    OutOfDeviceMemory                                      the maximum batch is halved for good, down to 1, and retried
    any other exception                                    the futures of this batch fail with ModelFault
    the worker thread ends                                 all futures fail with ModelFault, and later submissions too
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from types import TracebackType

import numpy as np
import structlog
from numpy.typing import NDArray

from allpacs.classify.engine import Engine, OutOfDeviceMemory
from allpacs.domain.errors import ModelFault
from allpacs.telemetry import metrics

_log = structlog.get_logger(__name__)


class _Submission:
    """The cells of one caller: which were taken into a batch, and the answers so far."""

    def __init__(self, inputs: NDArray[np.uint8], outputs: int) -> None:
        self.inputs = inputs
        self.taken = 0
        self.answered = 0
        self.logits = np.full((len(inputs), outputs), np.nan, np.float32)
        self.future: Future[NDArray[np.float32]] = Future()
        self.since_s = time.monotonic()

    @property
    def untaken(self) -> int:
        return len(self.inputs) - self.taken


class Batcher:
    """Feeds one engine from many threads.

    Parameters
    ----------
    engine:
        Called from the one worker thread only.
    outputs:
        Number of the network's outputs.
    max_batch:
        Largest number of cells in a batch, at least 1.
    max_delay_s:
        Longest time that a cell waits for company.
    max_waiting:
        Number of queued cells from which on `submit` blocks (back-pressure); those of larger submissions than one's
        own do not count.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        outputs: int,
        max_batch: int = 32,
        max_delay_s: float = 0.02,
        max_waiting: int = 1024,
    ) -> None:
        if max_batch < 1 or max_waiting < 1 or max_delay_s < 0:
            raise ValueError("max_batch and max_waiting must be at least 1, max_delay_s at least 0")
        self._engine = engine
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._max_waiting = max_waiting
        self._outputs = outputs
        self._changed = threading.Condition()
        self._queue: deque[_Submission] = deque()
        self._waiting = 0
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    @property
    def max_batch(self) -> int:
        """Largest batch at present: what it was made with, less after the device ran out of memory."""
        return self._max_batch

    @property
    def engine(self) -> Engine:
        """The engine that answers; only what may be called from any thread is to be called on it."""
        return self._engine

    @property
    def alive(self) -> bool:
        """Whether submissions are answered."""
        return self._worker.is_alive()

    def submit(self, inputs: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Queue cells and return the future of their logits; blocks while too many cells of no larger callers wait.

        Parameters
        ----------
        inputs:
            Preprocessed cells, ``uint8`` of shape (n, input_px, input_px, 3); not to be changed until answered.

        Returns
        -------
        Future
            ``float32`` of shape (n, labels), in the order of `inputs`; NaN for a cell that the model cannot judge.
            It fails with `ModelFault` where the engine is broken.

        Raises
        ------
        ModelFault
            The batcher is closed.
        """
        if inputs.dtype != np.uint8 or inputs.ndim != 4:
            raise ValueError(f"expected uint8 of shape (n, side, side, 3), not {inputs.dtype} {inputs.shape}")
        submission = _Submission(inputs, self._outputs)
        if len(inputs) == 0:
            submission.future.set_result(submission.logits)
            return submission.future
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ahead_of(len(inputs)) < self._max_waiting)
            if self._closed:
                raise ModelFault("the batcher is closed: no more cells are taken")
            submission.since_s = time.monotonic()
            self._queue.append(submission)
            self._count(len(inputs))
            self._changed.notify_all()
        return submission.future

    def close(self) -> None:
        """Take no more cells, answer those that were taken, and end the worker; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._run(batch)
        finally:
            # Reached early only if this thread itself breaks: nobody may wait for an answer that will never come.
            with self._changed:
                self._closed = True
                left = list(self._queue)
                self._count(-self._waiting)
                self._queue.clear()
                self._changed.notify_all()
            for submission in left:
                _fail(submission, ModelFault("the batcher's worker ended early"))

    def _next_batch(self) -> list[tuple[_Submission, slice]]:
        """Wait for a batch and return its parts; empty when closed and all is answered."""
        with self._changed:
            while True:
                if self._queue:
                    due_s = min(submission.since_s for submission in self._queue) + self._max_delay_s
                    left_s = due_s - time.monotonic()
                    if self._closed or self._waiting >= self._max_batch or left_s <= 0:
                        if batch := list(self._take()):
                            return batch
                        continue  # all that waited was cancelled
                    self._changed.wait(left_s)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _ahead_of(self, cells: int) -> int:
        """Return how many cells wait of submissions that are not larger: a single cell is not held back by a slide."""
        return sum(submission.untaken for submission in self._queue if len(submission.inputs) <= cells)

    def _count(self, more: int) -> None:
        self._waiting += more
        metrics.CELLS_WAITING.inc(more)

    def _take(self) -> Iterator[tuple[_Submission, slice]]:
        """Yield the parts of one batch, a fair share of each waiting submission in turn."""
        room = self._max_batch
        while room and self._queue:
            submission = self._queue.popleft()
            if submission.taken == 0 and not submission.future.set_running_or_notify_cancel():
                self._count(-submission.untaken)
                continue
            share = min(max(1, room // (len(self._queue) + 1)), submission.untaken)
            part = slice(submission.taken, submission.taken + share)
            submission.taken += share
            self._count(-share)
            room -= share
            if submission.untaken:
                self._queue.append(submission)
            yield submission, part
        self._changed.notify_all()

    def _run(self, batch: list[tuple[_Submission, slice]]) -> None:
        """Answer one batch."""
        metrics.CELL_WAIT_SECONDS.observe(time.monotonic() - min(submission.since_s for submission, _ in batch))
        try:
            logits = self._answer(np.concatenate([submission.inputs[part] for submission, part in batch]))
        except BaseException as error:  # the thread's boundary: whatever an engine throws, callers must hear of it
            _log.error("batch_failed", reason=type(error).__name__, cells=sum(p.stop - p.start for _, p in batch))
            if isinstance(error, ModelFault):
                fault = error
            else:
                fault = ModelFault(f"the engine threw {type(error).__name__}")
                fault.__cause__ = error
            for submission in {id(submission): submission for submission, _ in batch}.values():
                self._drop(submission)
                _fail(submission, fault)
            if not isinstance(error, Exception):
                raise
            return
        start = 0
        for submission, part in batch:
            count = part.stop - part.start
            submission.logits[part] = logits[start : start + count]
            submission.answered += count
            start += count
            if submission.answered == len(submission.inputs):
                submission.future.set_result(submission.logits)

    def _drop(self, submission: _Submission) -> None:
        """Forget what is still queued of a failed submission."""
        with self._changed:
            if submission in self._queue:
                self._queue.remove(submission)
                self._count(-submission.untaken)
                self._changed.notify_all()

    def _answer(self, inputs: NDArray[np.uint8], *, sound: bool = False) -> NDArray[np.float32]:
        """Return logits, shape (n, labels), NaN for poison cells; `sound` where the engine was just seen to work."""
        if len(inputs) > self._max_batch:  # the rest of a batch that did not fit
            return self._halves(inputs, sound=sound)
        try:
            with metrics.MODEL_SECONDS.time():
                logits = self._engine.logits(inputs)
            metrics.BATCH_CELLS.observe(len(inputs))
        except OutOfDeviceMemory:
            if len(inputs) == 1:
                raise
            self._max_batch = len(inputs) // 2
            _log.warning("batch_halved", max_batch=self._max_batch)
            return self._halves(inputs, sound=sound)
        except ModelFault:
            if not sound:
                # A black picture tells a poison cell from a broken engine; if this raises too, the batch fails.
                self._engine.logits(np.zeros_like(inputs[:1]))
            if len(inputs) > 1:
                return self._halves(inputs, sound=True)
            _log.warning("cell_isolated", reason="engine raised ModelFault")
            return np.full((1, self._outputs), np.nan, np.float32)
        if logits.shape != (len(inputs), self._outputs):
            raise ModelFault(f"engine {self._engine.name} answered {logits.shape} for {len(inputs)} cells")
        bad = ~np.isfinite(logits).all(axis=1)
        if not bad.any():
            return logits
        if len(inputs) == 1:
            _log.warning("cell_isolated", reason="logits not finite")
            return np.full((1, self._outputs), np.nan, np.float32)
        if bad.all():
            return self._halves(inputs, sound=sound)
        answered = logits.copy()  # an engine may hand out an array that cannot be written to
        answered[bad] = self._answer(inputs[bad], sound=sound)
        return answered

    def _halves(self, inputs: NDArray[np.uint8], *, sound: bool) -> NDArray[np.float32]:
        middle = len(inputs) // 2
        return np.concatenate([self._answer(inputs[:middle], sound=sound), self._answer(inputs[middle:], sound=sound)])


def _fail(submission: _Submission, fault: ModelFault) -> None:
    """Fail a submission's future, unless its caller gave up on it or it failed before."""
    if not submission.future.done():
        submission.future.set_exception(fault)
