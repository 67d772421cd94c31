"""A segmented cell on black is one cell; black is none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from allpacs.cells.choose import finder_for
from allpacs.cells.finders.whole_frame import WholeFrame, lit_window
from allpacs.cells.outline import filled
from allpacs.domain.geometry import BoxPx
from allpacs.domain.image import Frame


def _disc(rows: int, columns: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    down, across = np.ogrid[:rows, :columns]
    return (across - x) ** 2 + (down - y) ** 2 <= radius**2


def _on_black(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    rgb[mask] = (70, 28, 80)
    return rgb


def _polygon_area(outline: tuple[tuple[float, float], ...]) -> float:
    x, y = np.array(outline).T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def test_mask_box_and_outline_follow_the_cell() -> None:
    disc = _disc(120, 160, x=90, y=50, radius=30)
    (cell,) = WholeFrame().find(Frame(1, _on_black(disc)))
    assert cell.box == BoxPx(60, 20, 61, 61)
    assert np.array_equal(cell.mask, disc[20:81, 60:121])
    assert not cell.touches_border
    assert abs(_polygon_area(cell.outline) / disc.sum() - 1) < 0.03


def test_outline_is_measured_from_the_corner_of_the_first_pixel() -> None:
    square = np.zeros((40, 40), np.bool_)
    square[10:20, 5:25] = True
    (cell,) = WholeFrame().find(Frame(1, _on_black(square)))
    xs, ys = np.array(cell.outline).T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (5, 25, 10, 20)


def test_largest_part_counts_and_its_holes_are_filled() -> None:
    disc = _disc(100, 100, x=50, y=50, radius=25)
    holed = disc & ~_disc(100, 100, x=50, y=50, radius=6)
    speck = _disc(100, 100, x=10, y=10, radius=4)
    (cell,) = WholeFrame().find(Frame(1, _on_black(holed | speck)))
    assert cell.mask.sum() == disc.sum()


def test_a_cell_at_the_edge_is_marked() -> None:
    (cell,) = WholeFrame().find(Frame(1, _on_black(_disc(80, 80, x=0, y=40, radius=20))))
    assert cell.touches_border
    assert cell.box.x == 0


def test_black_and_specks_on_black_hold_no_cell() -> None:
    assert WholeFrame().find(Frame(1, np.zeros((450, 450, 3), np.uint8))) == ()
    assert WholeFrame().find(Frame(1, _on_black(_disc(450, 450, x=200, y=200, radius=2)))) == ()


def test_the_halo_of_jpeg_is_not_part_of_the_cell() -> None:
    disc = _disc(200, 200, x=100, y=100, radius=50)
    stream = io.BytesIO()
    Image.fromarray(_on_black(disc)).save(stream, "JPEG", quality=80)
    rgb = np.asarray(Image.open(stream))
    (cell,) = WholeFrame().find(Frame(1, rgb))
    assert np.count_nonzero(rgb.any(axis=2)) > 1.1 * disc.sum(), "there is a halo"
    assert cell.mask.sum() < 1.05 * disc.sum()


@pytest.mark.parametrize("every", [30, pytest.param(6, marks=pytest.mark.process)])
def test_every_real_segmented_cell_is_found_whole(data_dir: Path, every: int) -> None:
    paths = sorted((data_dir / "cnmc").rglob("*.bmp")) + sorted((data_dir / "cnmc").rglob("*.jpg"))
    for path in paths[::every]:
        rgb = np.asarray(Image.open(path).convert("RGB"))
        frame = Frame(1, rgb)
        finder = finder_for(frame)
        assert finder.name == "whole_frame", path.name
        (cell,) = finder.find(frame)
        lit = rgb.max(axis=2) > 12
        assert cell.mask.sum() > 0.97 * lit.sum(), path.name
        assert len(cell.outline) <= 64
        assert abs(_polygon_area(cell.outline) / cell.mask.sum() - 1) < 0.05, path.name


def test_several_cells_on_one_black_background() -> None:
    places = [(90, 40, 30), (40, 110, 22), (150, 120, 26)]
    mask = np.zeros((180, 220), np.bool_)
    for x, y, radius in places:
        mask |= _disc(180, 220, x=x, y=y, radius=radius)
    mask |= _disc(180, 220, x=200, y=20, radius=5)  # a fragment, no cell
    found = WholeFrame().find(Frame(1, _on_black(mask)))
    assert [cell.box for cell in found] == [BoxPx(60, 10, 61, 61), BoxPx(18, 88, 45, 45), BoxPx(124, 94, 53, 53)]
    assert all(cell.mask.sum() < 0.8 * cell.mask.size for cell in found)


def test_every_cell_of_cnmc_is_one(data_dir: Path) -> None:
    files = sorted((data_dir / "cnmc").rglob("*.bmp"))[::8] + sorted((data_dir / "cnmc").rglob("*.jpg"))[::8]
    assert files
    for file in files:
        assert len(WholeFrame().find(Frame(1, np.asarray(Image.open(file).convert("RGB"))))) == 1


@pytest.mark.parametrize("seed", range(8))
def test_holes_are_filled_as_scipy_fills_them(seed: int) -> None:
    mask = np.random.default_rng(seed).random((40, 30)) < 0.6
    np.testing.assert_array_equal(filled(mask), ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(filled(np.ones((3, 3), np.bool_)), np.ones((3, 3), np.bool_))


def test_window_holds_what_is_lit_and_nothing_else() -> None:
    rgb = np.full((50, 40, 3), 12, np.uint8)
    assert lit_window(rgb) is None
    rgb[7, 31, 2] = rgb[22, 9, 0] = 13
    assert lit_window(rgb) == (slice(7, 23), slice(9, 32))
