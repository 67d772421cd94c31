"""``python tests/slide_run.py``: a synthetic whole slide through the whole plugin, with the memory that it takes.

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
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from allpacs.deliver.c_store import send_files  # noqa: E402
from allpacs.store.store import Store  # noqa: E402
from hospital import AE_TITLE, SENDER, Hospital, wait_until  # noqa: E402
from slide_maker import STAMP_PX, SyntheticSlide, write_pyramid  # noqa: E402


def peak_mb(pid: int) -> float:
    """Return the largest resident memory that a process has had, MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


def run(stamps: int, filled: int, max_cells: int, folder: Path, timeout_s: float) -> dict[str, object]:
    """Read a slide of `stamps` x `stamps`, of which a corner of `filled` x `filled` holds cells; return the facts."""
    slide = SyntheticSlide((stamps, stamps), filled=lambda row, column: row < filled and column < filled)
    files = write_pyramid(folder / "slide", slide)
    facts: dict[str, object] = {
        "pixels": f"{stamps * STAMP_PX} x {stamps * STAMP_PX}",
        "files_mb": round(sum(file.stat().st_size for file in files) / 1e6),
        "cells_on_the_slide": len(slide.cells()),
    }
    peaks: dict[str, float] = {}
    done = threading.Event()
    with Hospital(folder, extra=f"[work]\nmax_cells = {max_cells}\n") as hospital, hospital.running("serve"):
        hospital.wait_for_echo(120)

        def watch() -> None:
            while not done.wait(1.0):
                for process in ("receive", "work"):
                    try:
                        peaks[process] = max(peaks.get(process, 0.0), peak_mb(hospital.pid_of(process)))
                    except (OSError, IndexError):
                        continue

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            sent = send_files(files, "127.0.0.1", hospital.port, AE_TITLE, SENDER, timeout_s=600)
            facts["sent"] = [f"{one.status:04X}" if one.status is not None else None for one in sent]
            store = Store.open(folder / "store")
            started, last = time.monotonic(), ""
            while not hospital.reports:
                for row in store.studies.latest():
                    for revision in store.revisions.of_study(row.study_uid):
                        said = f"{revision.state} {revision.pieces_read} of {revision.pieces} {revision.reason or ''}"
                        if said != last:
                            print(f"{time.monotonic() - started:7.0f} s  {said}", file=sys.stderr, flush=True)  # noqa: T201
                            last = said
                if time.monotonic() - started > timeout_s:
                    raise TimeoutError(last)
                time.sleep(1.0)
            facts["seconds"] = round(time.monotonic() - started)
            (row,) = store.studies.latest()
            wait_until(lambda: store.studies.latest()[0].state == "delivered", 120, "delivered")
            found = store.findings.get(row.study_uid, 1)
            facts["cells_found"] = sum(one.found for one in found)
            facts["cells_judged"] = sum(len(one.cells) for one in found)
            facts["left_out"] = sum(one.left_out for one in found)
            facts["report_mb"] = round(hospital.reports[0].stat().st_size / 1e6, 1)
            store.close()
        finally:
            done.set()
            watcher.join(10)
    facts["peak_mb"] = {process: round(peak) for process, peak in sorted(peaks.items())}
    return facts


def main() -> None:
    """Read one slide and print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stamps", type=int, default=32, help="the slide's side, in stamps of 1280 pixels")
    parser.add_argument("--filled", type=int, default=12, help="side of the corner with cells, in stamps")
    parser.add_argument("--max-cells", type=int, default=5000, help="cells judged, at most")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slide") as folder:
        facts = run(options.stamps, options.filled, options.max_cells, Path(folder), options.timeout)
    print(json.dumps(facts, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
