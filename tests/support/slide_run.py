"""``python tests/support/slide_run.py``: analyse a synthetic whole slide, measure the memory.

The slide is written tile by tile, sent by C-STORE to a running ``allpacs serve`` and followed until its reports are at
the stand-ins for PACS and EHR. Printed, as JSON: cells on the slide and cells reported, and the largest resident memory
of receiver and worker. Takes minutes; not part of ``make test``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from allpacs.deliver.c_store import send_files  # noqa: E402
from allpacs.store.store import Store  # noqa: E402
from conformance.support.network import wait_until  # noqa: E402
from faults.worker_process import brightness_logits, worker  # noqa: E402
from support.hospital import AE_TITLE, SENDER, StubHospital  # noqa: E402
from support.slide_maker import SyntheticSlide, write_pyramid  # noqa: E402

#: The finest level takes minutes to arrive; the others belong to the same revision.
QUIET_S = 60.0


def peak_mb(pid: int) -> float:
    """Return the largest resident memory that a process has had, MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


@contextmanager
def plugin(hospital: StubHospital, *, stand_in: bool) -> Iterator[Callable[[], dict[str, int]]]:
    """Run receiver and worker while the block runs; yield what tells their process ids."""
    if stand_in:
        with hospital.running("receive") as receiver, worker(hospital.config, predict=brightness_logits) as work:
            yield lambda: {"receive": receiver.pid, "work": work.pid or 0}
    else:
        with hospital.running("serve"):
            yield lambda: {process: hospital.pid_of(process) for process in ("receive", "work")}


def follow(files: list[Path], folder: Path, *, max_cells: int, timeout_s: float, stand_in: bool) -> dict[str, object]:
    """Send the files of a study to a plugin of its own, wait for its report, and return the facts."""
    facts: dict[str, object] = {"network": "a stand-in that judges by brightness" if stand_in else "the bundle's"}
    peaks: dict[str, float] = {}
    by_progress: dict[str, int] = {}
    done = threading.Event()
    work = f"[work]\nmax_cells = {max_cells}\n"
    with StubHospital(folder, quiet_s=QUIET_S, extra=work) as hospital, plugin(hospital, stand_in=stand_in) as pids:
        hospital.wait_for_echo(300)

        def watch() -> None:
            while not done.wait(1.0):
                with suppress(OSError, IndexError):  # a process that is not there yet
                    for process, pid in pids().items():
                        peaks[process] = max(peaks.get(process, 0.0), peak_mb(pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        store = Store.open(folder / "store")
        try:
            began = time.monotonic()
            sent = send_files(files, "127.0.0.1", hospital.port, AE_TITLE, SENDER, timeout_s=600)
            answers = Counter("none" if one.status is None else f"{one.status:04X}" for one in sent)
            facts |= {"sent": dict(answers), "seconds_to_send": round(time.monotonic() - began)}
            started, last, tenth = time.monotonic(), "", -1
            while not hospital.reports:
                closed = [one for row in store.studies.latest() for one in store.revisions.of_study(row.study_uid)]
                for revision in closed[-1:]:
                    read, pieces = revision.pieces_read or 0, revision.pieces or 0
                    said = f"{revision.state} {read} of {pieces} {revision.reason or ''}"
                    if said != last:
                        print(f"{time.monotonic() - started:7.0f} s  {said}", file=sys.stderr, flush=True)  # noqa: T201
                        last = said
                    if pieces and read * 10 // pieces > tenth:
                        tenth = read * 10 // pieces
                        by_progress[f"{read} of {pieces}"] = round(peaks.get("work", 0.0))
                if time.monotonic() - started > timeout_s:
                    raise TimeoutError(last)
                time.sleep(1.0)
            facts["seconds"] = round(time.monotonic() - started)
            wait_until(lambda: store.studies.latest()[0].state == "delivered", 600, "delivered")
            (row,) = store.studies.latest()
            found = store.findings.get(row.study_uid, row.revision)
            facts |= {
                "revision": row.revision,
                "cells_found": sum(one.found for one in found),
                "cells_judged": sum(len(one.cells) for one in found),
                "left_out": sum(one.left_out for one in found),
                "remarks": sorted({remark.text for one in found for remark in one.remarks}),
                "report_mb": round(hospital.reports[0].stat().st_size / 1e6, 1),
            }
        finally:
            done.set()
            watcher.join(10)
            store.close()
    facts["peak_mb"] = {process: round(peak) for process, peak in sorted(peaks.items())}
    facts["worker_peak_mb_by_pieces_read"] = by_progress
    return facts


def run(stamps: tuple[int, int], filled: int, folder: Path, **how: Any) -> dict[str, object]:
    """Read a slide of `stamps` (down, across) with cells in a corner of `filled` x `filled`; return the facts."""
    slide = SyntheticSlide(stamps, filled=lambda row, column: row < filled and column < filled)
    files = write_pyramid(folder / "slide", slide, steps=(1, 4, 16, 64) if max(stamps) > 64 else (1, 4, 16))
    return {
        "pixels": f"{slide.size[1]} x {slide.size[0]}",
        "files_mb": [round(file.stat().st_size / 1e6, 1) for file in files],
        "cells_on_the_slide": len(slide.cells()),
        **follow(files, folder, **how),
    }


def main() -> None:
    """Read one slide and print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--across", type=int, default=32, help="the slide's width, in stamps of 1280 pixels")
    parser.add_argument("--down", type=int, default=32, help="the slide's height, in stamps")
    parser.add_argument("--filled", type=int, default=12, help="side of the corner with cells, in stamps")
    parser.add_argument("--max-cells", type=int, default=5000, help="cells judged, at most")
    parser.add_argument("--stand-in", action="store_true", help="judge by brightness, without the network")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slide") as folder:
        size = (options.down, options.across)
        how = {"max_cells": options.max_cells, "timeout_s": options.timeout, "stand_in": options.stand_in}
        facts = run(size, options.filled, Path(folder), **how)
    print(json.dumps(facts, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
