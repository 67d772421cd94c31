"""The benchmarks run, and say what was measured; how fast anything is is no test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.measure import Row, alone, paired

REPOSITORY = Path(__file__).parents[2]


def test_both_are_measured_in_turns_and_who_begins_changes() -> None:
    order = []

    def ours() -> float:
        order.append("ours")
        return float(len(order))

    def peer() -> float:
        order.append("peer")
        return 2.0

    row = paired("row", ours, peer, runs=3, unit="s", aim=">= 1")
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert (row.ours, row.peer, row.ratio, row.low, row.high, row.runs) == (4.0, 2.0, 2.0, 0.5, 2.5, 3)


def test_a_figure_that_stands_for_itself_has_no_ratio() -> None:
    figures = iter([3.0, 1.0, 2.0])
    row = alone("row", lambda: next(figures), runs=3, unit="s", aim="<= 2")
    assert (row.ours, row.peer, row.ratio, row.low, row.high) == (2.0, None, None, 1.0, 3.0)


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    written = tmp_path / "performance.md"
    written.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    rows = [
        Row("receive_1", 300.0, 600.0, 0.5, "instances/s", 5, 0.4, 0.6, ">= 1.0", "how"),
        Row("scaling_10", 0.04, None, None, "s/instance", 1, 0.04, 0.04, ""),
        Row("scaling_100", 0.02, None, None, "s/instance", 1, 0.02, 0.02, ""),
        Row("batch_8", 90.0, None, None, "cells/s", 2, 90.0, 90.0, ""),
        Row("batch_1", 30.0, None, None, "cells/s", 2, 30.0, 30.0, ""),
    ]
    about = {"processor": "P", "cores": 2, "memory_gb": 1.0, "system": "S", "python": "3", "packages": {}}
    noted = [row.to_dict() | {"processor": "Q" if row.name == "batch_1" else "P"} for row in rows]
    page.write({"rows": noted, "machine": {**about, "load_before": 0.0}}, written)
    text = written.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text  # noqa: PT018
    assert "| `receive_1` | 300 | 600 | instances/s | **0.5** [0.4, 0.6] | 5 | >= 1.0 | **no** | how |" in text
    assert text.index("receive_1") < text.index("Without an aim") < text.index("| `batch_8` | 90 |")
    assert "\nProcessor: `batch_1` on Q; all others on P.\n" in text
    assert "](performance.svg)" in text
    drawn = written.with_suffix(".svg").read_text(encoding="utf-8")
    assert drawn.lstrip().startswith("<?xml")
    assert drawn.count("<!-- cells in a batch -->") == drawn.count("<!-- instances in the study -->") == 1


@pytest.mark.parametrize(
    ("aim", "ours", "ratio", "reached"),
    [
        (">= 1.0, at least 0.6", 900.0, 0.9, False),
        (">= 1.0, at least 0.6", 0.1, 1.0, True),
        ("<= 1.1", 5.0, 1.1, True),
        ("< 2", 2.0, None, False),
        ("<= 2", 2.0, None, True),
    ],
)
def test_an_aim_is_asked_of_the_ratio_or_where_there_is_none_of_the_figure(
    aim: str, ours: float, ratio: float | None, reached: bool
) -> None:
    assert page.reached({"aim": aim, "ours": ours, "ratio": ratio}) is reached


@pytest.mark.process
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/storescu").exists() or shutil.which("unshare") is None,
    reason="needs root for a network namespace, unshare, and DCMTK",
)
def test_a_quick_run_writes_the_rows_that_others_read(tmp_path: Path) -> None:
    out = tmp_path / "latest.json"
    earlier = {"name": "receive_1", "ours": 1.0, "at": "2026-01-01 00:00 UTC"}
    out.write_text(json.dumps({"rows": [earlier, {"name": "ready_echo_s", "ours": 99.0}], "machine": {}}))
    program = [sys.executable, "-m", "benchmarks", "--quick", "--only", "classify", "ready", "reports"]
    done = subprocess.run(
        [*program, "--folder", str(tmp_path / "bench"), "--out", str(out)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    latest = json.loads(out.read_text())
    assert latest["rows"][0] == earlier
    measured = {row["name"]: row for row in latest["rows"][1:]}
    assert {name for name in measured if not name.startswith("batch_")} == {
        "classify_vs_predict",
        "classify_vs_engine",
        "preprocess_share",
        "ready_echo_s",
        "ready_classify_s",
        "ready_report_s",
        "report_1000_s",
        "report_linear",
    }
    assert all({"name", "ours", "peer", "ratio", "unit", "runs"} <= row.keys() for row in latest["rows"][1:])
    assert measured["ready_echo_s"]["ours"] < 99.0
    assert latest["machine"]["cores"] == os.cpu_count()
    assert not list((tmp_path / "bench").iterdir())
