"""A worker that dies by SIGKILL at a chosen point: before a step, after its effect, or after its checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from allpacs.app import Worker, open_store
from allpacs.flow import Flow
from allpacs.settings import load_settings
from allpacs.supervise import until_stopped

T = TypeVar("T")

#: Steps of a study with two destinations, in the order in which they begin.
STEPS = ("plan", "cells", "classify", "report", "release", "deliver", "deliver")
MOMENTS = ("before", "after-effect", "after-checkpoint")


def brightness_logits(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for the network, whose start would take most of the test's time: judge a cell by its brightness."""
    mean = crops.astype(np.float32).mean(axis=(1, 2, 3))
    return np.stack([(60.0 - mean) / 4.0, (mean - 60.0) / 4.0], axis=1)


def run_worker(config: Path, die_at: int | None) -> None:
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
    worker = Worker(settings, open_store(settings), ask=brightness_logits, flow_type=DyingFlow)
    worker.start()
    until_stopped()
    worker.stop()
