"""The picture, or the configuration, decides how cells are found."""

from __future__ import annotations

import numpy as np
import pytest

from allpacs.cells.choose import central_cell, finder_for
from allpacs.demo.synthetic import draw_cell, draw_field, place_cells
from allpacs.domain.errors import ConfigFault
from allpacs.domain.extensions import CELL_FINDERS
from allpacs.domain.image import Frame

CELL = Frame(1, draw_cell(1, blast=True, size_px=200))
FIELD = Frame(1, draw_field(1, cells=2, size=(320, 240)))


def test_a_cell_on_black_is_taken_whole_and_a_field_is_searched() -> None:
    assert finder_for(CELL).name == "whole_frame"
    assert finder_for(FIELD).name == "nucleus"


def test_a_round_field_of_view_is_still_a_field() -> None:
    rgb = FIELD.rgb.copy()
    down, across = np.ogrid[:240, :320]
    rgb[(across - 160) ** 2 + (down - 120) ** 2 > 185**2] = 0
    assert (rgb[0, 0] == 0).all()
    assert finder_for(Frame(1, rgb)).name == "nucleus"


def test_the_configured_way_wins_over_the_picture() -> None:
    assert finder_for(CELL, "nucleus").name == "nucleus"
    assert finder_for(FIELD, "whole_frame").name == "whole_frame"


def test_an_unknown_way_is_the_operators_fault_and_names_the_choices() -> None:
    with pytest.raises(ConfigFault, match=r"'magic'.*nucleus, whole_frame"):
        finder_for(FIELD, "magic")


def test_every_way_is_registered_by_its_own_name() -> None:
    assert {kind: finder.name for kind, finder in CELL_FINDERS.all()} == {kind: kind for kind in CELL_FINDERS.kinds()}


def test_the_central_cell_is_the_one_in_the_middle() -> None:
    for seed in range(4):
        rgb = draw_field(seed, cells=5)
        places = place_cells(seed, cells=5)
        middle = min(places, key=lambda cell: np.hypot(cell.x - 320, cell.y - 240))
        cell = central_cell(Frame(1, rgb))
        assert cell is not None
        found = (cell.box.x + cell.box.width / 2, cell.box.y + cell.box.height / 2)
        assert np.hypot(found[0] - middle.x, found[1] - middle.y) < 0.3 * middle.radius_px


def test_an_empty_field_has_no_central_cell() -> None:
    assert central_cell(Frame(1, np.full((120, 160, 3), 220, np.uint8))) is None
