"""A found cell to the picture that the network sees: the same in training and serving."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from allpacs.cells.outline import cell_of
from allpacs.classify.preprocess import METHOD, Preprocessing, prepare
from allpacs.domain.errors import ModelFault
from allpacs.domain.image import Cell

Field = tuple[np.ndarray, Cell]


def drawn_field(side: int = 200, radius: int = 40, centre: tuple[int, int] = (90, 110)) -> Field:
    """A disc with a ramp of colours on a bright field, and its cell."""
    rows, columns = np.mgrid[0:side, 0:side]
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    rgb = np.full((side, side, 3), 230, np.uint8)
    rgb[mask] = np.stack([40 + rows % 80, 20 + columns % 60, 90 + (rows + columns) % 70], axis=2)[mask].astype(np.uint8)
    return rgb, cell_of(mask)


def test_golden_tensor() -> None:
    """Changes to this digest change what every released bundle sees: such a change needs a new method name."""
    rgb, cell = drawn_field()
    picture = prepare(rgb, cell, Preprocessing(input_px=64, margin=0.06))
    assert picture.dtype == np.uint8
    assert picture.shape == (64, 64, 3)
    assert picture[32, 32].tolist() == [51, 71, 152]
    assert hashlib.sha256(picture.tobytes()).hexdigest() == (
        "6d56027bf66dde8859adb9b3b358bf579e8864e31d6bf4489104c51cf163fda1"
    )


def test_everything_but_the_cell_is_black() -> None:
    rgb, cell = drawn_field()
    picture = prepare(rgb, cell, Preprocessing(input_px=96, margin=0.1))
    assert (picture[:4] == 0).all()
    assert (picture[-4:] == 0).all()
    assert (picture[0, 0] == 0).all()
    assert picture.max() < 200  # nothing of the bright field is left


@pytest.mark.parametrize("radius", [20, 40, 80])
def test_cells_of_every_size_come_out_alike(radius: int) -> None:
    rgb, cell = drawn_field(side=4 * radius, radius=radius, centre=(2 * radius, 2 * radius))
    picture = prepare(rgb, cell, Preprocessing(input_px=128, margin=0.06))
    lit = (picture.max(axis=2) > 0).any(axis=0).sum()
    assert 112 <= lit <= 118  # 128 / 1.12


def test_long_cell_keeps_its_shape() -> None:
    rgb = np.full((60, 100, 3), 100, np.uint8)
    mask = np.zeros((60, 100), bool)
    mask[20:40, 10:90] = True
    picture = prepare(rgb, cell_of(mask), Preprocessing(input_px=100, margin=0.0))
    lit = picture.max(axis=2) > 50
    assert lit.any(axis=1).sum() == pytest.approx(25, abs=1)
    assert lit.any(axis=0).sum() == 100


def test_cell_at_the_corner_is_padded_with_black() -> None:
    rgb, cell = drawn_field(centre=(5, 5))
    picture = prepare(rgb, cell, Preprocessing())
    assert cell.touches_border
    assert picture.shape == (128, 128, 3)
    assert (picture[0] == 0).all()


def test_the_frame_is_left_alone() -> None:
    rgb, cell = drawn_field()
    before = rgb.copy()
    prepare(rgb, cell, Preprocessing())
    assert (rgb == before).all()


def test_contract_round_trips() -> None:
    contract = Preprocessing(input_px=96, margin=0.1)
    assert Preprocessing.from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"method": "other", "input_px": 128, "margin": 0.1},
        {"method": METHOD, "input_px": 128},
        {"method": METHOD, "input_px": 128, "margin": 0.1, "more": 1},
        {"method": METHOD, "input_px": "wide", "margin": 0.1},
        {"method": METHOD, "input_px": 0, "margin": 0.1},
        {"method": METHOD, "input_px": 128, "margin": -1.0},
        {"method": METHOD, "input_px": None, "margin": 0.1},
    ],
)
def test_other_contracts_are_refused(written: dict[str, object]) -> None:
    with pytest.raises(ModelFault, match="preprocessing"):
        Preprocessing.from_dict(written)
