"""The size of a cell from its outline and the scale of its image."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from allpacs.domain.findings import CellFinding, InstanceFindings, MatrixPlace
from allpacs.domain.geometry import BoxPx
from allpacs.domain.image import Scale, ScaleOrigin
from allpacs.domain.size import cell_size

SQUARE = ((0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0))
CELL = CellFinding("1.2.3", 1, 1, BoxPx(0, 0, 100, 100), SQUARE)
IMAGE = InstanceFindings(
    "1.2.3", "1.2.840.10008.5.1.4.1.1.77.1.2", "1.2", 1, (CELL,), scale=Scale(0.1, ScaleOrigin.RED_CELLS)
)


def test_a_square_of_ten_micrometres() -> None:
    size = cell_size(IMAGE, CELL)
    assert size is not None
    assert size.area_um2 == pytest.approx(100.0)
    assert size.diameter_um == pytest.approx(2 * math.sqrt(100 / math.pi))
    assert cell_size(IMAGE, replace(CELL, outline=SQUARE[::-1])) == size


def test_of_a_slide_the_whole_cell_counts_and_not_its_part_on_the_tile() -> None:
    whole = tuple((2 * x, y) for x, y in SQUARE)
    size = cell_size(IMAGE, replace(CELL, on_matrix=MatrixPlace(BoxPx(0, 0, 200, 100), whole)))
    assert size is not None
    assert size.area_um2 == pytest.approx(200.0)


def test_without_scale_or_outline_there_is_no_size() -> None:
    assert cell_size(replace(IMAGE, scale=None), CELL) is None
    assert cell_size(IMAGE, replace(CELL, outline=())) is None
    assert cell_size(IMAGE, replace(CELL, outline=((0.0, 0.0), (1.0, 1.0), (2.0, 2.0)))) is None
