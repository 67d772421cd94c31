"""Any picture at all: cells lie within it, are well formed and ordered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from allpacs.cells.choose import central_cell, finder_for
from allpacs.cells.finder import CellFinder
from allpacs.domain.extensions import CELL_FINDERS
from allpacs.domain.image import Frame

#: Every way of finding cells, by its kind.
FINDERS: dict[str, CellFinder] = dict(CELL_FINDERS.all())

NOISE = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@st.composite
def _blobs(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Draw a coarse picture enlarged, so that its patches are as large as cells; columns and rows need not match."""
    coarse = draw(hnp.arrays(np.uint8, st.tuples(st.integers(2, 7), st.integers(2, 7), st.just(3))))
    factor = draw(st.integers(4, 40))
    fine = coarse.repeat(factor, axis=0).repeat(factor + draw(st.integers(0, 3)), axis=1)
    return ndimage.uniform_filter(fine, (draw(st.integers(1, factor)),) * 2 + (0,))


@st.composite
def _threads(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Draw a field of red cells with a few violet threads, scratches or specks of any width."""
    side = draw(st.integers(60, 200))
    rows, columns = np.mgrid[:side, :side]
    rgb = np.full((side, side, 3), (238, 228, 230), np.uint8)
    if draw(st.booleans()):
        for y in range(30, side - 20, 60):
            for x in range(30, side - 20, 60):
                rgb[(rows - y) ** 2 + (columns - x) ** 2 < 400] = (214, 150, 160)
    for _ in range(draw(st.integers(1, 4))):
        y, x = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        width, length = draw(st.integers(1, 12)), draw(st.integers(1, side))
        window = (slice(y, y + width), slice(x, x + length))
        rgb[window if draw(st.booleans()) else window[::-1]] = draw(st.sampled_from([(90, 40, 140), (110, 60, 160)]))
    return rgb


@pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS.keys())
@given(rgb=NOISE | _blobs() | _threads())
@example(rgb=np.zeros((64, 64, 3), np.uint8))
@example(rgb=np.full((64, 64, 3), 255, np.uint8))
@example(rgb=np.zeros((1, 1, 3), np.uint8))
@example(rgb=np.full((9, 2000, 3), (90, 40, 160), np.uint8))
def test_cells_are_well_formed(finder: CellFinder, rgb: NDArray[np.uint8]) -> None:
    rows, columns = rgb.shape[:2]
    before = rgb.copy()
    cells = finder.find(Frame(1, rgb))
    assert np.array_equal(rgb, before)
    taken = np.zeros((rows, columns), np.int64)
    for cell in cells:
        box = cell.box
        assert box.right <= columns
        assert box.bottom <= rows
        assert cell.mask.dtype == np.bool_
        assert cell.mask.shape == (box.height, box.width)
        assert cell.mask.any(axis=0)[[0, -1]].all(), "the box is the smallest one"
        assert cell.mask.any(axis=1)[[0, -1]].all(), "the box is the smallest one"
        assert ndimage.label(cell.mask)[1] == 1
        assert 3 <= len(cell.outline) <= 64
        assert all(0 <= x <= columns and 0 <= y <= rows for x, y in cell.outline)
        assert len(set(cell.outline)) == len(cell.outline)
        at_edge = box.x == 0 or box.y == 0 or box.right == columns or box.bottom == rows
        assert cell.touches_border == at_edge
        taken[box.y : box.bottom, box.x : box.right] += cell.mask
    assert [(c.box.y, c.box.x) for c in cells] == sorted((c.box.y, c.box.x) for c in cells)
    assert taken.max(initial=0) <= 2, "cells are apart but for the smoothed pixels between two"


@given(rgb=NOISE | _blobs() | _threads())
def test_every_picture_has_a_finder_and_at_most_one_central_cell(rgb: NDArray[np.uint8]) -> None:
    frame = Frame(1, rgb)
    assert finder_for(frame) in FINDERS.values()
    cell = central_cell(frame)
    found = FINDERS["nucleus"].find(frame)
    assert (cell is None) == (len(found) == 0)


@given(rgb=NOISE | _blobs() | _threads())
def test_finding_twice_finds_the_same(rgb: NDArray[np.uint8]) -> None:
    finder = FINDERS["nucleus"]
    first, second = (finder.find(Frame(1, rgb)) for _ in range(2))
    assert [(c.box, c.outline) for c in first] == [(c.box, c.outline) for c in second]
