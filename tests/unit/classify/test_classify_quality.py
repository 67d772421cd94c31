"""Cells that must not be judged are told apart from cells that may."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from allpacs.classify.quality import Quality, judge, sharpness
from allpacs.domain.findings import NotAssessable
from allpacs.domain.geometry import BoxPx
from allpacs.domain.image import Cell

SIDE = 120


def disc(side: int = SIDE) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    inside: NDArray[np.bool_] = rows**2 + columns**2 <= (side / 2) ** 2
    return inside


def at(x: int, y: int, mask: NDArray[np.bool_], *, touches_border: bool = False) -> Cell:
    box = BoxPx(x, y, mask.shape[1], mask.shape[0])
    return Cell(box, box.corners(), mask, touches_border)


def grainy(side: int = SIDE) -> NDArray[np.uint8]:
    """Return a frame whose cell at (40, 40) has structure down to a few pixels."""
    grain = np.random.default_rng(5).integers(40, 200, (side // 3 + 1, side // 3 + 1, 3), np.uint8)
    frame = np.zeros((side + 80, side + 80, 3), np.uint8)
    frame[40 : 40 + side, 40 : 40 + side] = grain.repeat(3, axis=0).repeat(3, axis=1)[:side, :side]
    frame[40 : 40 + side, 40 : 40 + side][~disc(side)] = 0
    return frame


def blurred(rgb: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(sigma_px)))


def test_a_sharp_cell_may_be_judged() -> None:
    assert judge(grainy(), at(40, 40, disc()), Quality()) is None


def test_a_blurred_cell_may_not() -> None:
    cell = at(40, 40, disc())
    frame = blurred(grainy(), 0.06 * SIDE)
    assert judge(frame, cell, Quality()) is NotAssessable.BLURRED
    assert judge(frame, cell, Quality(min_sharpness=0)) is None


def test_a_flat_cell_is_empty() -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    assert judge(flat, at(40, 40, disc()), Quality()) is NotAssessable.EMPTY
    assert judge(grainy(), at(40, 40, np.zeros((SIDE, SIDE), np.bool_)), Quality()) is NotAssessable.EMPTY


def test_only_pixels_of_the_cell_count() -> None:
    frame = grainy()
    frame[40 : 40 + SIDE, 40 : 40 + SIDE][disc()] = 128
    assert judge(frame, at(40, 40, disc()), Quality()) is NotAssessable.EMPTY


@pytest.mark.parametrize(("side", "expected"), [(15, NotAssessable.TOO_SMALL), (16, None)])
def test_a_small_cell(side: int, expected: NotAssessable | None) -> None:
    frame = np.random.default_rng(1).integers(0, 255, (60, 60, 3), np.uint8)
    assert judge(frame, at(3, 4, disc(side)), Quality(min_side_px=16)) is expected


def test_a_narrow_cell_is_small() -> None:
    assert judge(grainy(), at(60, 60, np.ones((40, 10), np.bool_)), Quality()) is NotAssessable.TOO_SMALL


def test_a_single_pixel_is_judged_without_failing() -> None:
    assert judge(grainy(), at(90, 90, np.ones((1, 1), np.bool_)), Quality(1, 0, 0)) is None


def test_a_cut_cell() -> None:
    cell = at(40, 40, disc(), touches_border=True)
    assert judge(grainy(), cell, Quality()) is NotAssessable.CUT_OFF
    assert judge(grainy(), cell, replace(Quality(), take_cut_off=True)) is None


def test_sharpness_does_not_depend_on_stain_depth_or_size() -> None:
    grey = grainy()[40 : 40 + SIDE, 40 : 40 + SIDE, 0].astype(np.float32)
    reference = sharpness(grey, disc())
    assert sharpness(grey * 0.5 + 20, disc()) == pytest.approx(reference, rel=0.02)
    doubled = grey.repeat(2, axis=0).repeat(2, axis=1)
    assert sharpness(doubled, disc().repeat(2, axis=0).repeat(2, axis=1)) == pytest.approx(reference, rel=0.15)


@pytest.mark.parametrize("wrong", [{"min_side_px": 0}, {"min_contrast": -1}, {"min_sharpness": -0.1}])
def test_impossible_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="quality limits"):
        Quality(**wrong)


def test_real_cells_pass_sharp_and_fail_blurred(data_dir: Path) -> None:
    """C-NMC: cells on black, sharp as published; then out of focus by 6 % of the cell's width."""
    with (data_dir / "cnmc" / "images.csv").open(newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream)][::13]
    sharp_taken = blurred_taken = 0
    for path in paths:
        rgb = np.asarray(Image.open(data_dir / "cnmc" / path).convert("RGB"))
        lit = rgb.max(axis=2) > 12
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        cell = at(int(columns[0]), int(rows[0]), lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        sharp_taken += judge(rgb, cell, Quality()) is None
        blurred_taken += judge(blurred(rgb, 0.06 * cell.box.width), cell, Quality()) is None
    assert len(paths) >= 25
    assert sharp_taken >= 0.95 * len(paths)
    assert blurred_taken <= 0.05 * len(paths)
