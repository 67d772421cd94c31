"""A found cell to the picture that the network sees: the same in training and serving."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from allpacs.cells.outline import cell_of
from allpacs.classify.preprocess import FILLED, FIXED_SCALE, Preprocessing, prepare
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
        {"method": FILLED, "input_px": 128},
        {"method": FILLED, "input_px": 128, "margin": 0.1, "more": 1},
        {"method": FILLED, "input_px": "wide", "margin": 0.1},
        {"method": FILLED, "input_px": 0, "margin": 0.1},
        {"method": FILLED, "input_px": 128, "margin": -1.0},
        {"method": FILLED, "input_px": None, "margin": 0.1},
        {"method": FILLED, "input_px": 128, "field_um": 18.0},
        {"method": FIXED_SCALE, "input_px": 144},
        {"method": FIXED_SCALE, "input_px": 144, "margin": 0.1},
        {"method": FIXED_SCALE, "input_px": 144, "field_um": "wide"},
        {"method": FIXED_SCALE, "input_px": 144, "field_um": 7.9},
        {"method": FIXED_SCALE, "input_px": 144, "field_um": 61.0},
    ],
)
def test_other_contracts_are_refused(written: dict[str, object]) -> None:
    with pytest.raises(ModelFault, match="preprocessing"):
        Preprocessing.from_dict(written)


FIELD = Preprocessing(input_px=144, field_um=18.0)


def lit_width(crop: np.ndarray) -> int:
    return int((crop.max(axis=2) > 10).any(axis=0).sum())


@pytest.mark.parametrize(("radius", "spacing_um"), [(100, 0.05), (50, 0.1), (25, 0.2), (10, 0.5)])
def test_a_fixed_field_shows_the_same_cell_alike_at_every_pixel_size(radius: int, spacing_um: float) -> None:
    rgb, cell = drawn_field(side=4 * radius, radius=radius, centre=(2 * radius, 2 * radius))
    crop = prepare(rgb, cell, FIELD, spacing_um)
    assert crop.shape == (144, 144, 3)
    expected = (2 * radius + 1) * spacing_um / 18 * 144
    assert lit_width(crop) == pytest.approx(expected, abs=1.5 + 8 * spacing_um)  # bilinear edges: a source pixel wide


def test_a_fixed_field_shows_how_large_a_cell_is() -> None:
    widths = []
    for radius in (40, 60):
        rgb, cell = drawn_field(side=240, radius=radius, centre=(120, 120))
        widths.append(lit_width(prepare(rgb, cell, FIELD, 0.1)))
    assert widths == [pytest.approx(65, abs=2), pytest.approx(97, abs=2)]


def test_a_cell_larger_than_the_field_is_cut_at_the_crops_edge() -> None:
    rgb, cell = drawn_field(side=300, radius=120, centre=(150, 150))
    crop = prepare(rgb, cell, FIELD, 0.1)  # 24 µm
    assert lit_width(crop) == 144
    assert crop[72, 72].max() > 0


@pytest.mark.parametrize("spacing_um", [None, 0.019, 1.01, float("nan"), -0.1])
def test_a_fixed_field_needs_a_pixel_size_that_can_be(spacing_um: float | None) -> None:
    rgb, cell = drawn_field()
    with pytest.raises(ValueError, match="pixel size"):
        prepare(rgb, cell, FIELD, spacing_um)


def test_the_contract_of_a_fixed_field_round_trips() -> None:
    assert Preprocessing.from_dict(FIELD.to_dict()) == FIELD
    assert FIELD.needs_scale
    assert FIELD.spacing_um == 0.125


def test_an_unknown_method_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ModelFault, match=r"'newer' is unknown to this version .*fixed-scale"):
        Preprocessing.from_dict({"method": "newer", "input_px": 144})
