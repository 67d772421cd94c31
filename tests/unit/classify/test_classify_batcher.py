"""Batches form, and what goes wrong with one cell or one engine stays where it belongs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from allpacs.classify.batcher import Batcher
from allpacs.classify.engine import OutOfDeviceMemory
from allpacs.domain.errors import ModelFault

#: The engines here answer for two labels.
batcher_of = partial(Batcher, outputs=2)

SIDE = 4
PATIENCE_S = 20.0
POISON = 255


def cells(*values: int) -> NDArray[np.uint8]:
    """Return one flat picture a value."""
    return np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in values])


def answers(*values: float) -> NDArray[np.float32]:
    """Return what `CountingEngine` says of such pictures."""
    return np.array([[value, -value] for value in values], np.float32)


class CountingEngine:
    """Answers a picture's brightness, notes the batches it saw, and misbehaves as told."""

    name = "counting"

    def __init__(self, misbehave: Callable[[NDArray[np.uint8], NDArray[np.float32]], None] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._misbehave = misbehave

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        brightness = batch[:, 0, 0, 0].astype(np.float32)
        self.batches.append([int(value) for value in brightness])
        logits = np.stack([brightness, -brightness], axis=1)
        if self._misbehave is not None:
            self._misbehave(batch, logits)
        logits.flags.writeable = False  # as arrays handed out by a model library may be
        return logits


def test_one_submission_is_answered_in_order() -> None:
    engine = CountingEngine()
    with batcher_of(engine, max_batch=4, max_delay_s=0) as batcher:
        logits = batcher.submit(cells(*range(10))).result(PATIENCE_S)
    np.testing.assert_array_equal(logits, answers(*range(10)))
    assert logits.dtype == np.float32
    assert [len(batch) for batch in engine.batches] == [4, 4, 2]


def test_no_cells_are_answered_at_once() -> None:
    with batcher_of(CountingEngine()) as batcher:
        assert batcher.submit(np.zeros((0, SIDE, SIDE, 3), np.uint8)).result(0).shape == (0, 2)


@pytest.mark.parametrize("wrong", [np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE, 3), np.uint8)])
def test_another_kind_of_array_is_refused(wrong: NDArray[np.uint8]) -> None:
    with batcher_of(CountingEngine()) as batcher, pytest.raises(ValueError, match="expected uint8"):
        batcher.submit(wrong)


def test_cells_of_several_submissions_share_a_batch() -> None:
    engine = CountingEngine()
    with batcher_of(engine, max_batch=4, max_delay_s=PATIENCE_S) as batcher:
        futures = [batcher.submit(cells(value)) for value in (1, 2, 3, 4)]
        for value, future in enumerate(futures, start=1):
            np.testing.assert_array_equal(future.result(PATIENCE_S / 2), answers(value))
    assert [sorted(batch) for batch in engine.batches] == [[1, 2, 3, 4]]


def test_a_part_batch_waits_for_the_delay_and_no_longer() -> None:
    with batcher_of(CountingEngine(), max_batch=64, max_delay_s=0.2) as batcher:
        start_s = time.monotonic()
        batcher.submit(cells(1)).result(PATIENCE_S)
        waited_s = time.monotonic() - start_s
    assert 0.19 <= waited_s < 5


def test_a_full_batch_does_not_wait() -> None:
    with batcher_of(CountingEngine(), max_batch=2, max_delay_s=PATIENCE_S) as batcher:
        start_s = time.monotonic()
        batcher.submit(cells(1, 2)).result(PATIENCE_S)
        assert time.monotonic() - start_s < PATIENCE_S / 2


def test_a_large_submission_does_not_starve_small_ones() -> None:
    engine = CountingEngine()
    engine.gate.clear()
    with batcher_of(engine, max_batch=8, max_delay_s=0) as batcher:
        large = batcher.submit(cells(*[1] * 200))
        assert engine.entered.wait(PATIENCE_S)
        small = [batcher.submit(cells(value)) for value in (2, 3, 4)]
        engine.gate.set()
        for future in small:
            future.result(PATIENCE_S)
        large.result(PATIENCE_S)
    assert {2, 3, 4} <= set(engine.batches[1]), "the small ones are in the first batch formed after they came"
    assert engine.batches[1].count(1) == 5, "and the large one fills the rest of it"


def test_many_threads_each_get_their_own_answers() -> None:
    engine = CountingEngine()
    with batcher_of(engine, max_batch=16, max_delay_s=0.002, max_waiting=40) as batcher, ThreadPoolExecutor(16) as pool:

        def ask(seed: int) -> bool:
            values = np.random.default_rng(seed).integers(0, 255, size=1 + seed % 23)
            logits = batcher.submit(cells(*values)).result(PATIENCE_S)
            return np.array_equal(logits, answers(*values))

        assert all(pool.map(ask, range(200)))
    assert max(len(batch) for batch in engine.batches) == 16
    assert sum(len(batch) for batch in engine.batches) == sum(1 + seed % 23 for seed in range(200))


def test_a_full_queue_holds_the_submitter_back() -> None:
    engine = CountingEngine()
    engine.gate.clear()
    with batcher_of(engine, max_batch=2, max_delay_s=0, max_waiting=3) as batcher:
        first = batcher.submit(cells(1))
        assert engine.entered.wait(PATIENCE_S)
        for value in (2, 3, 4):
            batcher.submit(cells(value))
        late: list[Future[NDArray[np.float32]]] = []
        submitter = threading.Thread(target=lambda: late.append(batcher.submit(cells(5))), daemon=True)
        submitter.start()
        submitter.join(0.2)
        assert submitter.is_alive(), "three cells wait: the fourth has to"
        engine.gate.set()
        submitter.join(PATIENCE_S)
        np.testing.assert_array_equal(first.result(PATIENCE_S), answers(1))
        np.testing.assert_array_equal(late[0].result(PATIENCE_S), answers(5))


def test_an_urgent_cell_is_not_held_back_by_a_slide_of_50_000() -> None:
    engine = CountingEngine()
    engine.gate.clear()
    slide = np.zeros((50_000, 1, 1, 3), np.uint8)
    with batcher_of(engine, max_batch=512, max_delay_s=0, max_waiting=1024) as batcher:
        large = batcher.submit(slide)
        assert engine.entered.wait(PATIENCE_S)
        urgent: list[Future[NDArray[np.float32]]] = []
        submitter = threading.Thread(target=lambda: urgent.append(batcher.submit(slide[:1] + 7)), daemon=True)
        submitter.start()
        submitter.join(PATIENCE_S)
        engine.gate.set()
        np.testing.assert_array_equal(urgent[0].result(PATIENCE_S), answers(7))
        large.result(PATIENCE_S)
    assert 7 in engine.batches[1], "it is in the first batch formed after it came"


def test_what_waits_is_counted() -> None:
    before = waiting_cells()
    engine = CountingEngine()
    engine.gate.clear()
    with batcher_of(engine, max_batch=2, max_delay_s=0) as batcher:
        batcher.submit(cells(1, 2))
        assert engine.entered.wait(PATIENCE_S)
        batcher.submit(cells(3, 4, 5))
        assert waiting_cells() - before == 3
        engine.gate.set()
    assert waiting_cells() == before


def waiting_cells() -> float:
    return REGISTRY.get_sample_value("allpacs_cells_waiting") or 0.0


def raise_on_poison(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    if (batch == POISON).any():
        raise ModelFault("cannot judge this batch")


def nan_on_poison(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    logits[batch[:, 0, 0, 0] == POISON, 0] = np.nan


def nan_everywhere_on_poison(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    if (batch == POISON).any():
        logits[:] = np.inf


def nan_in_the_rows_before_poison(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    places = np.flatnonzero(batch[:, 0, 0, 0] == POISON)
    logits[places] = np.nan
    logits[np.maximum(places - 1, 0)] = np.nan


@pytest.mark.parametrize(
    "misbehave", [raise_on_poison, nan_on_poison, nan_everywhere_on_poison, nan_in_the_rows_before_poison]
)
@pytest.mark.parametrize("places", [[0], [5], [7], [1, 2, 6], list(range(8))])
def test_poison_is_isolated(
    misbehave: Callable[[NDArray[np.uint8], NDArray[np.float32]], None], places: list[int]
) -> None:
    values = [POISON if place in places else place for place in range(8)]
    with batcher_of(CountingEngine(misbehave), max_batch=8, max_delay_s=PATIENCE_S) as batcher:
        futures = [batcher.submit(cells(*values[:3])), batcher.submit(cells(*values[3:]))]
        logits = np.concatenate([future.result(PATIENCE_S) for future in futures])
        np.testing.assert_array_equal(batcher.submit(cells(*[9] * 8)).result(PATIENCE_S), answers(*[9] * 8))
    expected = answers(*values)
    expected[places] = np.nan
    np.testing.assert_array_equal(logits, expected)


def out_of_memory_above(most: int) -> Callable[[NDArray[np.uint8], NDArray[np.float32]], None]:
    def misbehave(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        if len(batch) > most:
            raise OutOfDeviceMemory("too large")

    return misbehave


@pytest.mark.parametrize(("most", "then"), [(15, 8), (4, 4), (3, 2), (1, 1)])
def test_out_of_memory_halves_the_batch_for_good(most: int, then: int) -> None:
    engine = CountingEngine(out_of_memory_above(most))
    with batcher_of(engine, max_batch=16, max_delay_s=0) as batcher:
        np.testing.assert_array_equal(batcher.submit(cells(*range(16))).result(PATIENCE_S), answers(*range(16)))
        assert batcher.max_batch == then
        engine.batches.clear()
        np.testing.assert_array_equal(batcher.submit(cells(*range(16))).result(PATIENCE_S), answers(*range(16)))
    assert max(len(batch) for batch in engine.batches) == then


def test_out_of_memory_and_poison_at_once() -> None:
    def misbehave(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        out_of_memory_above(4)(batch, logits)
        raise_on_poison(batch, logits)

    with batcher_of(CountingEngine(misbehave), max_batch=16, max_delay_s=0) as batcher:
        logits = batcher.submit(cells(*range(15), POISON)).result(PATIENCE_S)
    np.testing.assert_array_equal(logits[:15], answers(*range(15)))
    assert np.isnan(logits[15]).all()


def test_a_device_that_holds_not_even_one_cell_fails_the_future() -> None:
    with batcher_of(CountingEngine(out_of_memory_above(0)), max_batch=4, max_delay_s=0) as batcher:
        with pytest.raises(OutOfDeviceMemory):
            batcher.submit(cells(1, 2, 3)).result(PATIENCE_S)
        assert batcher.max_batch == 1


def test_a_broken_engine_is_not_taken_for_poison() -> None:
    def broken(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        raise ModelFault("device lost")

    with (
        batcher_of(CountingEngine(broken), max_batch=4, max_delay_s=0) as batcher,
        pytest.raises(ModelFault, match="device lost"),
    ):
        batcher.submit(cells(*range(10))).result(PATIENCE_S)


def test_an_answer_of_another_shape_fails_the_future() -> None:
    class OneLabel(CountingEngine):
        def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().logits(batch)[:, :1]

    with (
        batcher_of(OneLabel(), max_delay_s=0) as batcher,
        pytest.raises(ModelFault, match=r"answered \(2, 1\) for 2 cells"),
    ):
        batcher.submit(cells(1, 2)).result(PATIENCE_S)


def test_an_engine_that_throws_anything_fails_its_futures_only() -> None:
    def crash(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        if (batch == POISON).any():
            raise ZeroDivisionError("bug")

    engine = CountingEngine(crash)
    with batcher_of(engine, max_batch=2, max_delay_s=0) as batcher:
        with pytest.raises(ModelFault, match="ZeroDivisionError") as caught:
            batcher.submit(cells(1, POISON, 2, 3, 4)).result(PATIENCE_S)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        np.testing.assert_array_equal(batcher.submit(cells(7)).result(PATIENCE_S), answers(7))
    assert engine.batches == [[1, POISON], [7]], "what was left of the failed submission is not run"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_leaves_nobody_waiting() -> None:
    def die(batch: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        raise SystemExit(1)

    engine = CountingEngine(die)
    engine.gate.clear()
    batcher = batcher_of(engine, max_batch=1, max_delay_s=0, max_waiting=2)
    running = batcher.submit(cells(1))
    assert engine.entered.wait(PATIENCE_S)
    queued = batcher.submit(cells(2, 3))
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(batcher.submit, cells(4, 5))
        engine.gate.set()
        for future in (running, queued, blocked):
            with pytest.raises(ModelFault):
                future.result(PATIENCE_S)
    with pytest.raises(ModelFault, match="closed"):
        batcher.submit(cells(5))
    batcher.close()


def test_closing_answers_what_was_taken_and_takes_no_more() -> None:
    engine = CountingEngine()
    engine.gate.clear()
    batcher = batcher_of(engine, max_batch=2, max_delay_s=PATIENCE_S)
    futures = [batcher.submit(cells(1, 2)), batcher.submit(cells(3, 4, 5))]
    closing = threading.Thread(target=batcher.close, daemon=True)
    closing.start()
    engine.gate.set()
    closing.join(PATIENCE_S / 2)
    assert not closing.is_alive(), "closing does not sit out the delay"
    np.testing.assert_array_equal(np.concatenate([f.result(0) for f in futures]), answers(1, 2, 3, 4, 5))
    with pytest.raises(ModelFault, match="closed"):
        batcher.submit(cells(7))
    batcher.close()


def test_a_cancelled_submission_is_never_run() -> None:
    engine = CountingEngine()
    engine.gate.clear()
    with batcher_of(engine, max_batch=1, max_delay_s=0) as batcher:
        first = batcher.submit(cells(1))
        assert engine.entered.wait(PATIENCE_S)
        second, third = batcher.submit(cells(2)), batcher.submit(cells(3))
        assert second.cancel()
        engine.gate.set()
        np.testing.assert_array_equal(first.result(PATIENCE_S), answers(1))
        np.testing.assert_array_equal(third.result(PATIENCE_S), answers(3))
        with pytest.raises(CancelledError):
            second.result(0)
    assert engine.batches == [[1], [3]]


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_waiting": 0}, {"max_delay_s": -1.0}])
def test_impossible_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        batcher_of(CountingEngine(), **wrong)
