"""The engine on a GPU, by batch size, against what arithmetic and memory allow at best."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from allpacs.classify.bundle import load_bundle
from allpacs.classify.choose import gpu_present, start_engine
from allpacs.settings import Settings
from benchmarks import ceiling
from benchmarks.measure import Row
from benchmarks.rows.classify import bare, golden_crops
from benchmarks.scale import Scale

_BATCHES = (1, 8, 32, 128, 512)


def rows(scale: Scale) -> Iterator[Row]:
    """Yield gpu_BATCH, in cells a second; ends the program where there is no GPU."""
    if not gpu_present():
        sys.exit("make bench-gpu: this machine shows no NVIDIA GPU (/dev/nvidia0): nothing was measured")
    bundle = load_bundle(Settings().model.bundle)
    engine = start_engine(bundle, "tensorflow")
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()[0]
    words = said.replace("-", " ").split()
    known = next((gpu for gpu in ceiling.GPUS if gpu.name.split()[1] in words), None)
    layers = ceiling.layers_of(bundle)
    for batch in _BATCHES:
        crops = golden_crops(bundle, max(4 * batch, scale.engine_cells))
        bare(engine, crops, batch)
        runs = sorted(bare(engine, crops, batch) for _ in range(scale.runs))
        ours = runs[len(runs) // 2]
        best = None if known is None else ceiling.cells_per_s(layers, known, batch)
        yield Row(
            f"gpu_{batch}",
            ours,
            best,
            None if best is None else ours / best,
            "cells/s",
            scale.runs,
            runs[0] if best is None else runs[0] / best,
            runs[-1] if best is None else runs[-1] / best,
            aim="",
            setting=f"{engine.name} on {said}, batches of {batch}, against the ceiling of its data sheet",
        )
