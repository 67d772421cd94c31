"""How the finding of cells is measured: each expected cell by one found cell, each found cell for one expected."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allpacs.cells.outline import cell_of
from allpacs.demo.synthetic import draw_field, place_cells
from training.cells import COUNTS, bccd, covered, matched, measure, measure_counts, overlap, page

BOX = (0.0, 0.0, 10.0, 10.0)


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(BOX, BOX) == 1.0
    assert overlap(BOX, (5.0, 0.0, 15.0, 10.0)) == pytest.approx(50 / 150)
    assert overlap(BOX, (10.0, 0.0, 20.0, 10.0)) == 0.0


def test_one_found_box_is_not_two_expected_ones() -> None:
    near = (1.0, 0.0, 11.0, 10.0)
    assert matched([BOX, near], [BOX], 0.5) == 1
    assert matched([BOX], [BOX, near], 0.5) == 1
    assert matched([BOX, near], [near, BOX], 0.5) == 2
    assert matched([BOX], [(6.0, 0.0, 16.0, 10.0)], 0.5) == 0
    assert matched([], [BOX], 0.5) == matched([BOX], [], 0.5) == 0


def test_a_cell_covers_one_middle_only() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[10:30, 10:30] = True
    cell = cell_of(mask)
    assert covered([(20, 20), (22, 22)], [cell]) == 1
    assert covered([(20, 20)], [cell]) == 1
    assert covered([(5, 5)], [cell]) == 0


def test_counts_by_eye_are_compared_field_by_field(tmp_path: Path) -> None:
    Image.fromarray(draw_field(seed=1, cells=5)).save(tmp_path / "a.png")
    (tmp_path / "counts.csv").write_text("file,white_cells\na.png,3\na.png,5\n")
    figures = measure_counts(tmp_path, tmp_path / "counts.csv")
    assert (figures["by_eye"], figures["found"], figures["mean_error"]) == (8, 2 * len(place_cells(1, 5)), 1.0)


def test_the_counts_are_of_fifty_fields_that_are_there(data_dir: Path) -> None:
    with COUNTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == 50
    assert all((data_dir / "taleghani" / row["file"]).is_file() for row in rows)


def test_the_halves_of_bccd_share_no_field(data_dir: Path) -> None:
    tuning, reported = (bccd(data_dir / "bccd", reported=one) for one in (False, True))
    assert not {field.path for field in tuning} & {field.path for field in reported}
    assert len(tuning) + len(reported) == 300
    assert sum(len(field.boxes) for field in reported) > 100


def test_the_page_says_every_figure(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import cells

    for name in ("bccd", "allidb1"):
        real = getattr(cells, name)
        monkeypatch.setattr(cells, name, lambda folder, real=real, **which: real(folder, **which)[:2])
    (tmp_path / "counts.csv").write_text("".join(COUNTS.read_text().splitlines(keepends=True)[:3]))
    monkeypatch.setattr(cells.measure_counts, "__defaults__", (tmp_path / "counts.csv",))
    made = page(measure(data_dir))
    assert "BCCD, reported half: 2 fields" in made
    assert "Taleghani: 2 fields counted by eye" in made
