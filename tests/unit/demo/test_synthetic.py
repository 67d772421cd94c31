"""Synthetic cells look alike where they should, differ where they should, and are found."""

from __future__ import annotations

import numpy as np
import pytest

from allpacs.cells.choose import finder_for
from allpacs.cells.finders.nucleus import Nucleus
from allpacs.demo.synthetic import draw_cell, draw_field, place_cells
from allpacs.domain.image import Cell, Frame


def _one(rgb: np.ndarray) -> Cell:
    frame = Frame(1, rgb)
    (cell,) = finder_for(frame).find(frame)
    return cell


def test_a_seed_draws_the_same_cell_and_another_seed_another() -> None:
    first = draw_cell(3, blast=True, size_px=120)
    assert np.array_equal(first, draw_cell(3, blast=True, size_px=120))
    assert not np.array_equal(first, draw_cell(4, blast=True, size_px=120))
    assert not np.array_equal(first, draw_cell(3, blast=False, size_px=120))
    field = draw_field(3, cells=2, size=(200, 160))
    assert field.shape == (160, 200, 3)
    assert field.dtype == np.uint8
    assert np.array_equal(field, draw_field(3, cells=2, size=(200, 160)))


def test_a_cell_has_the_size_and_colour_of_c_nmc() -> None:
    rgb = draw_cell(0, blast=True)
    assert rgb.shape == (450, 450, 3)
    assert rgb.dtype == np.uint8
    cell = _one(rgb)
    assert not cell.touches_border
    assert 180 <= 2 * np.sqrt(cell.mask.sum() / np.pi) <= 255
    box = cell.box
    red, green, blue = rgb[box.y : box.bottom, box.x : box.right][cell.mask].mean(axis=0)
    assert green < red < blue
    assert 45 <= red <= 90
    assert 15 <= green <= 45
    assert 60 <= blue <= 110
    outside = np.ones((450, 450), np.bool_)
    outside[box.y : box.bottom, box.x : box.right] = ~cell.mask
    assert (rgb[outside] == 0).all()


def test_blasts_are_larger_than_normal_cells() -> None:
    sizes = {blast: [_one(draw_cell(seed, blast, 150)).mask.sum() for seed in range(8)] for blast in (True, False)}
    assert np.median(sizes[True]) > 1.2 * np.median(sizes[False])


@pytest.mark.parametrize("seed", range(5))
def test_every_drawn_white_cell_is_found_and_nothing_else(seed: int) -> None:
    size = (480, 360)
    cells = Nucleus().find(Frame(1, draw_field(seed, cells=5, size=size)))
    assert len(cells) == 5
    for place in place_cells(seed, 5, size):
        rows, columns = np.ogrid[: size[1], : size[0]]
        drawn = (columns - place.x) ** 2 + (rows - place.y) ** 2 <= place.radius_px**2
        overlaps = []
        for cell in cells:
            found = np.zeros_like(drawn)
            found[cell.box.y : cell.box.bottom, cell.box.x : cell.box.right] = cell.mask
            overlaps.append((found & drawn).sum() / (found | drawn).sum())
        assert max(overlaps) > 0.7


def test_an_empty_field_holds_no_white_cell() -> None:
    rgb = draw_field(2, cells=0, size=(480, 360))
    assert Nucleus().find(Frame(1, rgb)) == ()
    assert rgb.std() > 5, "red cells are drawn"


def test_more_cells_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        draw_field(0, cells=60, size=(160, 120))
