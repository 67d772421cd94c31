"""How many instances a second are taken, over one association and over eight."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks import instances, receivers
from benchmarks.measure import Row, paired
from benchmarks.scale import Scale

_SETTING = "TCP_NODELAY=1, 128 KiB PDUs, 450 × 450 RGB; "


def rows(scale: Scale) -> Iterator[Row]:
    """Yield receive_1, receive_vs_orthanc and receive_8, in instances a second."""

    def rate(receiver: Callable[[Path], AbstractContextManager[int]], associations: int) -> Callable[[], float]:
        def measured() -> float:
            files = instances.study(scale.folder, scale.receive)
            parts = [files[number::associations] for number in range(associations)]
            try:
                with receiver(scale.folder / "receiver") as port:
                    began = time.perf_counter()
                    receivers.send_at_once(parts, port)
                    return len(files) / (time.perf_counter() - began)
            finally:
                instances.discard(files)

        return measured

    unsynced = "against DCMTK storescp --fork, files not synced"
    for name, associations, peer, aim, how in (
        ("receive_1", 1, receivers.storescp, ">= 1.0, at least 0.6", unsynced),
        ("receive_vs_orthanc", 1, receivers.orthanc, ">= 2", "against Orthanc, no plugins, HTTP off"),
        ("receive_8", 8, receivers.storescp, ">= 1.0", f"8 associations, a receiver a core; {unsynced}"),
    ):
        yield paired(
            name,
            rate(partial(receivers.allpacs, processes=min(associations, os.cpu_count() or 1)), associations),
            rate(peer, associations),
            runs=scale.runs,
            unit="instances/s",
            aim=aim,
            setting=_SETTING + how,
        )
