"""How many instances a second are taken, over one association and over eight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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

    ours, plain, orthanc = receivers.allpacs, receivers.storescp, receivers.orthanc
    yield paired(
        "receive_1",
        rate(ours, 1),
        rate(plain, 1),
        runs=scale.runs,
        unit="instances/s",
        aim=">= 1.0, at least 0.6",
        setting=_SETTING + "against DCMTK storescp --fork, files not synced",
    )
    yield paired(
        "receive_vs_orthanc",
        rate(ours, 1),
        rate(orthanc, 1),
        runs=scale.runs,
        unit="instances/s",
        aim=">= 2",
        setting=_SETTING + "against Orthanc, no plugins, HTTP off",
    )
    yield paired(
        "receive_8",
        rate(ours, 8),
        rate(plain, 8),
        runs=scale.runs,
        unit="instances/s",
        aim=">= 1.0",
        setting=_SETTING + "8 associations, against DCMTK storescp --fork, files not synced",
    )
