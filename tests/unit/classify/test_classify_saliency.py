"""The map of a cell, made from layers whose evidence is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs.classify.engine import LayerGradients
from allpacs.classify.saliency import saliency

SIDE = 32


class KnownEngine:
    """Its layers have one channel that spoke for the label at one place, and one that spoke against it everywhere."""

    name = "known"

    def __init__(self, place: tuple[int, int], gradient: float = 1.0) -> None:
        self.place = place
        self.gradient = gradient
        self.asked: list[int] = []

    def __call__(self, crops: NDArray[np.uint8], toward: list[int] | None = None) -> NDArray[np.float32]:
        return saliency(crops, self.logits, self, toward)

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([[0.0, 1.0]], np.float32), (len(batch), 1))

    def layer_gradients(self, batch: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[LayerGradients, ...]:
        self.asked += labels.tolist()
        layers = []
        for side in (8, 4):
            activations = np.zeros((len(batch), side, side, 2), np.float32)
            activations[..., 1] = 5.0
            row, column = (int(p * side) for p in self.place)
            activations[:, row, column, 0] = 2.0
            gradients = np.empty_like(activations)
            gradients[..., 0], gradients[..., 1] = self.gradient, -1.0
            layers.append(LayerGradients(activations, gradients))
        return tuple(layers)


def cells(count: int) -> NDArray[np.uint8]:
    made = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    made[:, 2:-2, 2:-2] = 120
    return made


@pytest.mark.parametrize("place", [(0.3, 0.3), (0.3, 0.7), (0.8, 0.55)])
def test_the_map_points_where_the_evidence_was(place: tuple[float, float]) -> None:
    found = KnownEngine(place)(cells(1))[0]
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    assert abs(row / SIDE - place[0]) < 0.15
    assert abs(column / SIDE - place[1]) < 0.15
    assert found.max() == 1.0
    assert not found[:2].any()


def test_every_cell_of_many_gets_its_map_and_its_label() -> None:
    engine = KnownEngine((0.5, 0.5))
    assert engine(cells(35)).shape == (35, SIDE, SIDE)
    assert engine.asked == [1] * 35
    engine(cells(3), [0, 1, 0])
    assert engine.asked[35:] == [0, 1, 0]


@pytest.mark.parametrize("gradient", [-1.0, 0.0, float("nan")])
def test_nothing_that_spoke_for_it_is_an_empty_map(gradient: float) -> None:
    assert not KnownEngine((0.5, 0.5), gradient)(cells(1)).any()


def test_no_cells_no_maps() -> None:
    assert KnownEngine((0.5, 0.5))(cells(0)).shape == (0, SIDE, SIDE)


@pytest.mark.parametrize("corner", [(0, 0), (16, 0), (16, 16)])
def test_without_gradients_the_part_whose_cover_matters_is_found(corner: tuple[int, int]) -> None:
    """A model that counts bright pixels, and a cell with one bright corner."""
    row, column = corner
    crops = cells(2)
    crops[1, row + 3 : row + 13, column + 3 : column + 13] = 250

    def ask(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        bright = (batch[..., 0] > 200).sum(axis=(1, 2)).astype(np.float32)
        return np.stack([bright, np.zeros_like(bright)], axis=1)

    plain, marked = saliency(crops, ask, None, [0, 0])
    assert not plain.any()
    top, left = np.unravel_index(int(marked.argmax()), marked.shape)
    assert row <= top < row + 16
    assert column <= left < column + 16
    assert not saliency(crops, ask, None, [1, 1]).any()
