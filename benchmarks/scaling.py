"""Writes the capacity model into ``docs/scaling.md``: ``python -m benchmarks scaling``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from allpacs.classify.bundle import load_bundle
from allpacs.settings import SHIPPED_BUNDLE
from benchmarks import ceiling
from benchmarks.capacity import (
    BUSIEST_HOUR,
    BUSY,
    CHUNK,
    CORES,
    SPREAD,
    STUDY,
    Costs,
    Need,
    Simulated,
    need,
    simulate,
)

BEGIN, END = "<!-- capacity: begin -->", "<!-- capacity: end -->"
_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs" / "scaling.md"
_PER_DAY = (1_000, 100_000, 10_000_000)
#: Of the ceiling that arithmetic and memory set, what a network of many small layers is taken to reach.
GPU_SHARE = 0.3
_GPU = ceiling.GPUS[1]
_BATCH = 128
#: Batches of the table of ceilings.
_SIZES = (32, 128, 512)
#: Studies that are played for each line.
_STUDIES = 3_000


def read_costs(latest: Path = _HERE / "latest.json", stated: Path = _HERE / "costs.json") -> Costs:
    """Return the costs that ``make bench`` measured or, where it was not run, those that were written down."""
    costs = json.loads(stated.read_text(encoding="utf-8"))
    if latest.is_file():
        measured = json.loads(latest.read_text(encoding="utf-8"))
        rows = {row["name"]: row for row in measured["rows"]}
        costs |= _measured(rows)
        costs["origin"] = f"`benchmarks/latest.json`, {measured['machine']['processor']}"
    return Costs(**costs)


def _measured(rows: dict[str, Any]) -> dict[str, float]:
    found = {}
    if "receive_1" in rows:
        found["receive_s"] = 1 / rows["receive_1"]["ours"]
    if "preprocess_share" in rows:
        found["prepare_s"] = rows["preprocess_share"]["ours"]
        found["model_s"] = rows["preprocess_share"]["peer"]
    if "report_1000_s" in rows:
        found["report_s"] = rows["report_1000_s"]["ours"] / 1000
    return found


def write(page: Path = _PAGE) -> None:
    """Replace what stands between the page's marks."""
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    layers = ceiling.layers_of(load_bundle(SHIPPED_BUNDLE))
    page.write_text(f"{before}{BEGIN}\n\n{capacity(read_costs(), layers)}\n{END}{after}", encoding="utf-8")


def capacity(costs: Costs, layers: list[ceiling.Layer]) -> str:
    """Return the capacity model as Markdown."""
    best = ceiling.cells_per_s(layers, _GPU, _BATCH)
    needs = [need(per_day, costs, GPU_SHARE * best) for per_day in _PER_DAY]
    played = [_play(one, costs) for one in needs]
    costs_ms = " | ".join(f"{1000 * cost:.2g}" for cost in _each(costs))
    needed = "\n".join(
        f"| {one.per_day:,} | {one.per_s:.3g} | {one.receivers} | {one.worker_cores} | {one.machines} "
        f"| {one.cores_beside_gpu}, {one.machines_beside_gpu}, {one.gpus} |"
        for one in needs
    )
    simulated = "\n".join(
        f"| {one.per_day:,} | {one.worker_cores} | {hour.busy:.0%} | {hour.median_s:.2g} s, {hour.p95_s:.2g} s "
        f"| {hour.studies:,} |"
        for one, hour in zip(needs, played, strict=True)
    )
    ceilings = "\n".join(
        f"| {gpu.name} | " + " | ".join(f"{ceiling.cells_per_s(layers, gpu, size):,.0f}" for size in _SIZES) + " |"
        for gpu in ceiling.GPUS
    )
    return f"""\
What one single-cell instance costs, milliseconds of one core ({costs.origin}):

| receive | decode, find, prepare | network on the CPU | reports |
|---|---|---|---|
| {costs_ms} |

Of a day's instances {BUSIEST_HOUR:.0%} come in the busiest hour, and processors are to be busy {BUSY:.0%} of it. A
machine has {CORES} cores.

| instances a day | a second, then | receivers | workers' cores | machines | with {_GPU.name}: cores, machines, GPUs |
|---|---|---|---|---|---|
{needed}

GPUs are computed, not measured: {GPU_SHARE:.0%} of the ceiling below in batches of {_BATCH}, that is
{GPU_SHARE * best:,.0f} cells a second.

### Checked by a simulation

Studies of {STUDY} instances come at random (Poisson), are read {CHUNK} instances at a time, and each chunk's cost
spreads by {SPREAD:.0%}. As in the busiest hour, with the cores of the table (`benchmarks/capacity.py`):

| instances a day | cores | busy | from transfer to report: median, 95th percentile | studies played |
|---|---|---|---|---|
{simulated}

### What a GPU could do at best

The network has {ceiling.gflops(layers):.2g} · 10⁹ operations a cell. Of each layer the longer of arithmetic and memory
traffic, in half precision, by what the makers state (`benchmarks/ceiling.py`):

| GPU | batches of {_SIZES[0]}, cells/s | of {_SIZES[1]} | of {_SIZES[2]} |
|---|---|---|---|
{ceilings}
"""


def _each(costs: Costs) -> tuple[float, ...]:
    return costs.receive_s, costs.prepare_s, costs.model_s, costs.report_s


def _play(one: Need, costs: Costs) -> Simulated:
    return simulate(one.per_s, one.worker_cores, costs, seconds=_STUDIES * STUDY / one.per_s)
