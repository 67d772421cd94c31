"""What a whole slide takes of the worker's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, alone
from benchmarks.scale import Scale

_PROGRAM = Path(__file__).parents[2] / "tests" / "support" / "slide_run.py"
_STAMP_PX = 1280
_LONGEST_S = 3600.0


def rows(scale: Scale) -> Iterator[Row]:
    """Yield memory_wsi_gb: the larger of receiver's and worker's most resident memory."""
    side, filled = scale.slide_stamps, scale.slide_filled

    def measured() -> float:
        program = [sys.executable, str(_PROGRAM), "--across", str(side), "--down", str(side), "--filled", str(filled)]
        limit = ["--timeout", str(_LONGEST_S / 2)]
        done = subprocess.run([*program, *limit], capture_output=True, text=True, timeout=_LONGEST_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{_PROGRAM.name}: {done.stderr[-400:]}")
        return float(max(json.loads(done.stdout)["peak_mb"].values())) / 1000

    pixels = side * _STAMP_PX
    yield alone(
        "memory_wsi_gb",
        measured,
        runs=1,
        unit="GB",
        aim="<= 2",
        setting=f"worker, a synthetic slide of {pixels:,} × {pixels:,} px, cells on {filled**2} of {side**2} of it",
    )
