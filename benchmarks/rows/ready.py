"""How soon ``allpacs serve`` answers, and how soon it classifies."""

from __future__ import annotations

import time
from collections.abc import Iterator

from allpacs.demo.archive import Archive
from benchmarks import receivers
from benchmarks.measure import Row, alone
from benchmarks.rows.plugin import SR_TO, timed
from benchmarks.scale import Scale


def rows(scale: Scale) -> Iterator[Row]:
    """Yield ready_echo_s and ready_classify_s; the network was converted for OpenVINO by an earlier start."""

    def echo() -> float:
        began = time.perf_counter()
        with receivers.allpacs(scale.folder / "ready", "serve"):
            return time.perf_counter() - began

    def classify() -> float:
        began = time.perf_counter()
        with (
            Archive(scale.folder / "pacs-ready", "PACS") as pacs,
            receivers.allpacs(scale.folder / "ready", "serve", extra=SR_TO.format(port=pacs.port)) as port,
        ):
            timed(scale, port, pacs, 1)
            return time.perf_counter() - began

    yield alone("ready_echo_s", echo, runs=scale.runs, unit="s", aim="< 2", setting="from the start of the program")
    yield alone(
        "ready_classify_s",
        classify,
        runs=scale.runs,
        unit="s",
        aim="< 15",
        setting="from the start of the program to the first report at the PACS",
    )
