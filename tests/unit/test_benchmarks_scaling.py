"""The capacity model: arithmetic that can be checked by hand, and by the simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allpacs.classify.bundle import load_bundle
from allpacs.settings import SHIPPED_BUNDLE
from benchmarks import ceiling, scaling
from benchmarks.capacity import BUSY, Costs, need, simulate

COSTS = Costs(receive_s=0.005, prepare_s=0.004, model_s=0.015, report_s=0.001, origin="made up")


def test_what_a_day_needs() -> None:
    wanted = need(1_656_000, COSTS, gpu_cells_per_s=50.0)
    assert wanted.per_s == pytest.approx(69.0)
    assert (wanted.receivers, wanted.worker_cores, wanted.machines) == (1, 2, 1)
    assert (wanted.cores_beside_gpu, wanted.gpus) == (1, 2)
    assert need(10, COSTS, 50.0).worker_cores == 1


def test_the_simulation_is_as_busy_as_the_model_says_and_breaks_where_it_says() -> None:
    enough = simulate(69.0, 2, COSTS, seconds=2000.0)
    assert enough.busy == pytest.approx(69.0 * COSTS.work_s / 2, abs=0.05)
    assert enough.busy <= BUSY + 0.05
    too_few = simulate(69.0, 1, COSTS, seconds=2000.0)
    assert too_few.busy > 0.97
    assert too_few.p95_s > 20 * enough.p95_s, "the queue grows"


def test_costs_are_those_measured_where_there_are_any(tmp_path: Path) -> None:
    stated = tmp_path / "costs.json"
    stated.write_text(json.dumps({"receive_s": 1, "prepare_s": 2, "model_s": 3, "report_s": 4, "origin": "stated"}))
    latest = tmp_path / "latest.json"
    assert scaling.read_costs(latest, stated) == Costs(1, 2, 3, 4, "stated")
    rows = [
        {"name": "receive_1", "ours": 200.0, "peer": 700.0},
        {"name": "preprocess_share", "ours": 0.002, "peer": 0.01},
        {"name": "report_1000_s", "ours": 1.5, "peer": None},
    ]
    latest.write_text(json.dumps({"rows": rows, "machine": {"processor": "P"}}))
    assert scaling.read_costs(latest, stated) == Costs(0.005, 0.002, 0.01, 0.0015, "`benchmarks/latest.json`, P")


@pytest.mark.process
def test_the_page_is_what_the_program_writes_and_the_operations_are_those_of_the_paper(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    written = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    page.write_text(written, encoding="utf-8")
    scaling.write(page)
    assert page.read_text(encoding="utf-8") == written, "python -m benchmarks scaling"
    bundle = load_bundle(SHIPPED_BUNDLE)
    layers = ceiling.layers_of(bundle)
    # M. Tan and Q. Le 2019, EfficientNet: 1.8 · 10⁹ multiplications and additions of B3 at 300 px.
    assert ceiling.gflops(layers) == pytest.approx(2 * 1.8 * (bundle.input_px / 300) ** 2, rel=0.1)
    small, large = (ceiling.cells_per_s(layers, ceiling.GPUS[0], batch) for batch in (1, 256))
    assert small < large < ceiling.GPUS[0].flops / (1e9 * ceiling.gflops(layers))
