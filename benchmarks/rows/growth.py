"""What a large study costs: time an instance against that of a small one, and the worker's memory.

The instances are small (128 × 128), so that what grows with the study weighs more against what does not, and 50,000 of
them need 5 GB of disk rather than 60.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, measured
from benchmarks.rows.plugin import whole_plugin
from benchmarks.scale import Scale

_SIDE_PX = 128


def rows(scale: Scale) -> Iterator[Row]:
    """Yield growth_50k and memory_50k_gb, and a point of the scaling plot for each size of study."""
    sizes = [size for size in (10, 100, scale.small, 5_000) if size < scale.large] + [scale.large]
    cost_s: dict[int, float] = {}
    memory_gb = 0.0
    for size in sorted(set(sizes)):
        with _Watch() as watch:
            cost_s[size] = 1.0 / whole_plugin(scale, size, side_px=_SIDE_PX)
        memory_gb = max(memory_gb, watch.peak_gb)
        yield measured(f"scaling_{size}", [cost_s[size]], unit="s/instance", aim="")
    ratio = cost_s[scale.large] / cost_s[scale.small]
    setting = f"{scale.large} instances of {_SIDE_PX} × {_SIDE_PX} px"
    yield Row(
        "growth_50k",
        cost_s[scale.large],
        cost_s[scale.small],
        ratio,
        "s/instance",
        1,
        ratio,
        ratio,
        aim="<= 1.1",
        setting=f"{setting}, against {scale.small}",
    )
    yield measured("memory_50k_gb", [memory_gb], unit="GB", aim="<= 2", setting=f"worker, {setting}")


class _Watch:
    """Looks for the worker among our descendants and remembers the most memory that it had resident."""

    def __init__(self) -> None:
        self.peak_gb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command = (process / "cmdline").read_bytes().split(b"\0")
                    if b"allpacs" in command and b"work" in command:
                        status = (process / "status").read_text()
                        kilobytes = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
                        self.peak_gb = max(self.peak_gb, int(kilobytes) / 1e6)
                except (OSError, StopIteration):
                    continue  # ended meanwhile
