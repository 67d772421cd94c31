"""A worker that dies by SIGKILL at a chosen point: before a step, after its effect, or after its checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from allpacs.app import Worker, open_store
from allpacs.app.supervisor import StopSignals, end_process
from allpacs.flow import Flow
from allpacs.settings import load_settings
from allpacs.study.pipeline import Predict

T = TypeVar("T")

#: Steps of a study with two destinations, in the order in which they begin.
STEPS = ("plan", "cells", "classify", "report", "release", "deliver", "deliver")
MOMENTS = ("before", "after-effect", "after-checkpoint")


def brightness_logits(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for the network, whose start would take most of the test's time: judge a cell by its brightness."""
    mean = crops.astype(np.float32).mean(axis=(1, 2, 3))
    return np.stack([(60.0 - mean) / 4.0, (mean - 60.0) / 4.0], axis=1)


def slow_logits(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for a network that takes half a second a request."""
    time.sleep(0.5)
    return brightness_logits(crops)


_answered = 0


def stuck_logits(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for a network that answers three times and then no more: a worker that is killed in its work."""
    global _answered
    if _answered == 3:
        time.sleep(3600)
    _answered += 1
    return brightness_logits(crops)


def run_worker(config: Path, die_at: int | None, predict: Predict = brightness_logits) -> None:
    """Run the worker until SIGTERM, or until its flow passes the point ``die_at`` (counted from 0)."""
    passed = 0

    class DyingFlow(Flow):
        def _step(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
            def effect(*inner: Any) -> T:
                result = function(*inner)
                pass_point()
                return result

            pass_point()
            result = super()._step(name, effect, *arguments)
            pass_point()
            return result

    def pass_point() -> None:
        nonlocal passed
        if passed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    settings = load_settings(config)
    part = Worker(settings, open_store(settings), predict=predict, flow_type=DyingFlow)
    stop = StopSignals()
    part.start()
    stop.wait(os.getppid())  # the fork server, which ends with the test's process
    part.stop()
    end_process()


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["faults.worker_process", "allpacs.flow", "allpacs.study.steps"])


def start_worker(config: Path, die_at: int | None = None, predict: Predict = brightness_logits) -> ForkServerProcess:
    """Start a worker in a process of its own."""
    process = _context.Process(target=run_worker, args=(config, die_at, predict), daemon=True)
    process.start()
    return process


def end_worker(process: ForkServerProcess) -> None:
    """Ask a worker to stop; kill it where it does not."""
    process.terminate()
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join(10)


@contextmanager
def worker(
    config: Path, die_at: int | None = None, predict: Predict = brightness_logits
) -> Iterator[ForkServerProcess]:
    """Run a worker in a process of its own while the block runs."""
    process = start_worker(config, die_at, predict)
    try:
        yield process
    finally:
        end_worker(process)
