"""The third output: what is neither class is not assessable, and everything else is as it was."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs.classify.aggregate import Thresholds, judged, probability_other
from allpacs.classify.batcher import Batcher
from allpacs.classify.preprocess import normalised
from allpacs.domain.findings import CellFinding, CellLabel, NotAssessable
from allpacs.domain.geometry import BoxPx

THRESHOLDS = Thresholds(all_at_least=0.6, hem_at_most=0.4)
BOX = BoxPx(0, 0, 10, 10)
CELL = CellFinding(sop_instance_uid="1.2", frame_number=1, cell_number=1, box=BOX, outline=BOX.corners(), reason=None)


def logits(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_third_output_is_a_probability() -> None:
    assert probability_other(logits(3.0, -1.0)) == 0.0
    assert probability_other(logits(0.0, 0.0, 0.0)) == pytest.approx(1 / 3)
    assert probability_other(logits(0.0, 0.0, 500.0)) == pytest.approx(1.0)


def test_what_is_neither_is_out_of_distribution_and_has_no_probability() -> None:
    cell = judged(CELL, logits(4.0, 0.0, 6.0), 1.0, THRESHOLDS, 0.5)
    assert cell.reason is NotAssessable.OUT_OF_DISTRIBUTION
    assert cell.label is None
    assert cell.probability_all is None


@pytest.mark.parametrize("other", [-5.0, 1.0, 3.9])
def test_the_third_output_moves_no_probability_of_what_passes(other: float) -> None:
    cell = judged(CELL, logits(4.0, 0.0, other), 2.0, THRESHOLDS, 0.5)
    assert cell == judged(CELL, logits(4.0, 0.0), 2.0, THRESHOLDS)
    assert cell.label is CellLabel.ALL


def test_an_answer_that_is_not_finite_is_the_model_s_failure() -> None:
    assert judged(CELL, logits(1.0, 0.0, np.nan), 1.0, THRESHOLDS, 0.5).reason is NotAssessable.MODEL_FAILED


class ThreeOutputs:
    name = "three"

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(batch.mean(axis=(1, 2, 3)).astype(np.float32)[:, np.newaxis], (1, 3))


def test_batches_of_three_outputs() -> None:
    batch = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    with Batcher(ThreeOutputs(), max_batch=2, outputs=3) as batcher:
        assert batcher.submit(batch).result(10)[:, 2].tolist() == [0, 1, 2, 3, 4]


def cell_picture(red: float, green: float, blue: float, seed: int = 0) -> NDArray[np.uint8]:
    """Return a cell of some structure in one stain and lamp."""
    amount = np.random.default_rng(seed).normal(1.0, 0.3, (40, 40, 1)).clip(0.2, 2)
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[4:44, 4:44] = (255 * np.exp(-amount * np.array([red, green, blue]))).astype(np.uint8)
    return picture


def test_stains_come_together_and_structure_and_black_stay() -> None:
    pale, deep = cell_picture(0.5, 0.9, 0.4), cell_picture(1.0, 1.5, 0.8)
    before = np.abs(pale.astype(int) - deep).mean()
    one, other = normalised(pale), normalised(deep)
    assert np.abs(one.astype(int) - other).mean() < before / 4
    assert (one[:4] == 0).all()
    assert np.corrcoef(one[4:44, 4:44, 1].ravel(), pale[4:44, 4:44, 1].ravel())[0, 1] > 0.95
    assert not normalised(np.zeros((8, 8, 3), np.uint8)).any()


OUTPUTS = ("ALL", "HEM", "neutrophil", "platelet", "artefact")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.0, 0.0, 5.0, 1.0, 1.0), NotAssessable.NEUTROPHIL),
        ((0.0, 0.0, 1.0, 5.0, 1.0), NotAssessable.PLATELET),
        ((0.0, 0.0, 1.0, 1.0, 5.0), NotAssessable.ARTEFACT),
        ((2.0, 0.0, 1.5, 1.6, 1.5), NotAssessable.PLATELET),  # together they are likelier than the two classes
    ],
)
def test_a_cell_of_another_type_is_named(values: tuple[float, ...], reason: NotAssessable) -> None:
    cell = judged(CELL, logits(*values), 1.0, THRESHOLDS, 0.5, OUTPUTS)
    assert (cell.label, cell.reason, cell.probability_all) == (None, reason, None)


def test_named_outputs_move_no_probability_of_what_passes() -> None:
    cell = judged(CELL, logits(4.0, 0.0, -3.0, -3.0, -3.0), 2.0, THRESHOLDS, 0.5, OUTPUTS)
    assert cell == judged(CELL, logits(4.0, 0.0), 2.0, THRESHOLDS)
