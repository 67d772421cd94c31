"""How many machines and GPUs a day's instances need, from what one instance costs; and a simulation that checks it.

The model is that of work and capacity: of the day's instances a share comes in its busiest hour, each costs so many
seconds of a processor, and processors are to be busy at most `BUSY` of that hour, so that studies that come at the same
time do not wait for long. The simulation plays that hour: studies come at random, each is read chunk by chunk as the
worker does, and whoever waits is counted.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

#: Of a day's instances, how many come in its busiest hour: a laboratory that works by day.
BUSIEST_HOUR = 0.15
#: Share of that hour that processors are busy.
BUSY = 0.7
#: Cores of one machine.
CORES = 16
#: Instances of a study, and of a chunk of it.
STUDY, CHUNK = 100, 32
#: The cost of a chunk differs from chunk to chunk: standard deviation of its logarithm.
SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Costs:
    """What one single-cell instance costs, in seconds of one core.

    Attributes
    ----------
    receive_s:
        Receiver: from its bytes on the network to bytes and row on disk.
    prepare_s:
        Worker: decode, find the cell, prepare it.
    model_s:
        The network on a CPU.
    report_s:
        Reports, a cell.
    origin:
        Where these figures are from.
    """

    receive_s: float
    prepare_s: float
    model_s: float
    report_s: float
    origin: str

    @property
    def work_s(self) -> float:
        """Of a worker without a GPU."""
        return self.prepare_s + self.model_s + self.report_s

    @property
    def work_beside_gpu_s(self) -> float:
        """Of a worker whose network runs on a GPU."""
        return self.prepare_s + self.report_s


@dataclass(frozen=True, slots=True)
class Need:
    """What so many instances a day need."""

    per_day: int
    per_s: float
    receivers: int
    worker_cores: int
    machines: int
    cores_beside_gpu: int
    machines_beside_gpu: int
    gpus: int


def need(per_day: int, costs: Costs, gpu_cells_per_s: float) -> Need:
    """Return what so many instances a day need.

    Parameters
    ----------
    gpu_cells_per_s:
        What one GPU does.
    """
    per_s = per_day * BUSIEST_HOUR / 3600
    receivers = _at_least_one(per_s * costs.receive_s / BUSY)
    cores = _at_least_one(per_s * costs.work_s / BUSY)
    beside = _at_least_one(per_s * costs.work_beside_gpu_s / BUSY)
    return Need(
        per_day=per_day,
        per_s=per_s,
        receivers=receivers,
        worker_cores=cores,
        machines=math.ceil((receivers + cores) / CORES),
        cores_beside_gpu=beside,
        machines_beside_gpu=math.ceil((receivers + beside) / CORES),
        gpus=_at_least_one(per_s / (BUSY * gpu_cells_per_s)),
    )


def _at_least_one(wanted: float) -> int:
    return max(1, math.ceil(wanted))


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of the busiest hour.

    Attributes
    ----------
    busy:
        Share of the time that cores worked.
    median_s, p95_s:
        From the end of a study's transfer to its report.
    studies:
        How many were reported.
    """

    busy: float
    median_s: float
    p95_s: float
    studies: int


def simulate(per_s: float, cores: int, costs: Costs, *, seconds: float, seed: int = 0) -> Simulated:
    """Play so many seconds like those of the busiest hour, with workers that have so many cores."""
    draw = random.Random(seed)  # noqa: S311 - a simulation
    world = simpy.Environment()
    pool = simpy.Resource(world, cores)
    worked = 0.0
    took: list[float] = []

    def study() -> Generator[Any, Any, Any]:
        nonlocal worked
        began = world.now
        left = STUDY
        while left:
            chunk = min(CHUNK, left)
            left -= chunk
            with pool.request() as turn:
                yield turn
                # Mean 1: what a chunk costs beside what chunks cost.
                cost_s = chunk * costs.work_s * draw.lognormvariate(-(SPREAD**2) / 2, SPREAD)
                yield world.timeout(cost_s)
                worked += cost_s
        took.append(world.now - began)

    def hospital() -> Generator[Any, Any, Any]:
        while True:
            yield world.timeout(draw.expovariate(per_s / STUDY))
            world.process(study())

    world.process(hospital())
    world.run(until=seconds)
    ordered = sorted(took) or [math.nan]
    return Simulated(
        busy=worked / (cores * seconds),
        median_s=statistics.median(ordered),
        p95_s=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        studies=len(took),
    )
