"""How soon ``allpacs serve`` answers, and how soon it classifies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from allpacs.demo.archive import Archive
from allpacs.store.store import Store
from allpacs.study.steps import LABELLED
from benchmarks import instances, receivers
from benchmarks.measure import Row, alone, measured
from benchmarks.rows.plugin import SR_TO, timed
from benchmarks.scale import Scale

_LONGEST_S = 600.0


def rows(scale: Scale) -> Iterator[Row]:
    """Yield ready_echo_s, ready_classify_s and ready_report_s; an earlier start converted the network for OpenVINO."""

    def echo() -> float:
        began = time.perf_counter()
        with receivers.allpacs(scale.folder / "ready", "serve"):
            return time.perf_counter() - began

    yield alone("ready_echo_s", echo, runs=scale.runs, unit="s", aim="< 2", setting="from the start of the program")
    firsts = [_first(scale) for _ in range(scale.runs)]
    for name, seconds, aim, until in (
        ("ready_classify_s", [one.classified_s for one in firsts], "< 15", "the first cell's class is in the index"),
        ("ready_report_s", [one.reported_s for one in firsts], "", "the first report is at the PACS"),
    ):
        yield measured(name, seconds, unit="s", aim=aim, setting=f"from the start of the program until {until}")


@dataclass(frozen=True, slots=True)
class _First:
    """Seconds from the start of the program to what became of a study that was sent as soon as it answered."""

    classified_s: float
    reported_s: float


def _first(scale: Scale) -> _First:
    instances.discard(instances.study(scale.folder, 1))  # drawing the first cells takes seconds: not allpacs's
    began = time.perf_counter()
    with (
        Archive(scale.folder / "pacs-ready", "PACS") as pacs,
        receivers.allpacs(scale.folder / "ready", "serve", extra=SR_TO.format(port=pacs.port)) as port,
        ThreadPoolExecutor(1) as watcher,
    ):
        classified = watcher.submit(_when_classified, scale.folder / "ready" / "store")
        timed(scale, port, pacs, 1)
        return _First(classified.result() - began, time.perf_counter() - began)


def _when_classified(folder: Path) -> float:
    with closing(Store.open(folder)) as store:
        until = time.monotonic() + _LONGEST_S
        while time.monotonic() < until:
            for study in store.studies.latest():
                if study.revision and store.findings.get(study.study_uid, study.revision, stage=LABELLED):
                    return time.perf_counter()
            time.sleep(0.02)
    raise RuntimeError(f"nothing classified within {_LONGEST_S:.0f} s")
