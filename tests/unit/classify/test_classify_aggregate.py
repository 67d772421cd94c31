"""Logits to labels, labels to a fraction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allpacs.classify.aggregate import Thresholds, judged, label, probability_all, study_findings
from allpacs.domain.counting import counts, fraction
from allpacs.domain.findings import (
    CellFinding,
    CellLabel,
    Counts,
    InstanceFindings,
    ModelIdentity,
    NotAssessable,
)
from allpacs.domain.geometry import BoxPx

BAND = Thresholds(all_at_least=0.7, hem_at_most=0.3)
BOX = BoxPx(0, 0, 10, 10)
MODEL = ModelIdentity("first", "1", "sha256:" + "0" * 64, "EfficientNetB3")


def logits(*row: float) -> np.ndarray:
    return np.array(row, np.float32)


def cell(frame: int, number: int, found: CellLabel | None, sop: str = "1.2") -> CellFinding:
    reason = None if found else NotAssessable.BLURRED
    return CellFinding(sop, frame, number, BOX, BOX.corners(), label=found, reason=reason)


@pytest.mark.parametrize(
    ("row", "temperature", "expected"),
    [
        ((0.0, 0.0), 1.0, 0.5),
        ((2.0, 0.0), 1.0, 1 / (1 + math.exp(-2))),
        ((2.0, 0.0), 2.0, 1 / (1 + math.exp(-1))),
        ((0.0, 2.0), 1.0, 1 / (1 + math.exp(2))),
        ((3e4, -3e4), 0.01, 1.0),
        ((-3e4, 3e4), 0.01, 0.0),
    ],
)
def test_probability_is_the_softmax_at_a_temperature(
    row: tuple[float, float], temperature: float, expected: float
) -> None:
    assert probability_all(logits(*row), temperature) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("row", [(math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (-math.inf, -math.inf)])
def test_logits_that_are_not_finite_give_no_probability(row: tuple[float, float]) -> None:
    assert math.isnan(probability_all(logits(*row), 1.0))


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (1.0, (CellLabel.ALL, None)),
        (0.7, (CellLabel.ALL, None)),
        (0.699, (None, NotAssessable.INDETERMINATE)),
        (0.301, (None, NotAssessable.INDETERMINATE)),
        (0.3, (CellLabel.HEM, None)),
        (0.0, (CellLabel.HEM, None)),
        (math.nan, (None, NotAssessable.MODEL_FAILED)),
    ],
)
def test_label(probability: float, expected: tuple[CellLabel | None, NotAssessable | None]) -> None:
    assert label(probability, BAND) == expected


def test_without_a_band_every_finite_probability_has_a_label() -> None:
    assert label(0.5, Thresholds(0.5, 0.5)) == (CellLabel.ALL, None)
    assert label(math.nextafter(0.5, 0), Thresholds(0.5, 0.5)) == (CellLabel.HEM, None)


@pytest.mark.parametrize(("high", "low"), [(0.3, 0.7), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5), (0.5, math.nan)])
def test_impossible_thresholds_are_refused(high: float, low: float) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(all_at_least=high, hem_at_most=low)


def test_judged_cells() -> None:
    unjudged = CellFinding("1.2", 1, 1, BOX, BOX.corners())
    blast = judged(unjudged, logits(3, 0), 1.0, BAND)
    assert (blast.label, blast.reason) == (CellLabel.ALL, None)
    assert blast.probability_all == pytest.approx(0.9526, abs=1e-4)

    between = judged(unjudged, logits(0, 0), 1.0, BAND)
    assert (between.label, between.reason, between.probability_all) == (None, NotAssessable.INDETERMINATE, 0.5)

    failed = judged(unjudged, logits(math.nan, math.nan), 1.0, BAND)
    assert (failed.label, failed.reason, failed.probability_all) == (None, NotAssessable.MODEL_FAILED, None)


def test_counts() -> None:
    cells = [cell(1, 1, CellLabel.ALL), cell(1, 2, None), cell(1, 3, CellLabel.HEM), cell(1, 4, CellLabel.ALL)]
    assert counts(cells) == Counts(all=2, hem=1, not_assessable=1)


def test_fraction_has_the_wilson_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, Table I, method 3 (score, no continuity correction)."""
    for r, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = fraction(Counts(all=r, hem=n - r, not_assessable=7))
        assert found is not None
        assert found.value == pytest.approx(r / n)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_no_fraction_without_assessable_cells() -> None:
    assert fraction(Counts(0, 0, 5)) is None


def test_study_findings_are_ordered() -> None:
    instances = [
        InstanceFindings("1.2.9", "1.1", "1.2.2", 1, ()),
        InstanceFindings(
            "1.2.8", "1.1", "1.2.2", 2, (cell(2, 1, CellLabel.HEM), cell(1, 2, None), cell(1, 1, CellLabel.ALL))
        ),
        InstanceFindings("1.2.9.1", "1.1", "1.2.1", 0, (), fault="truncated"),
    ]
    found = study_findings("1.2", 3, MODEL, "sha256:decision", instances)

    assert [i.sop_instance_uid for i in found.instances] == ["1.2.9.1", "1.2.8", "1.2.9"]
    assert [(c.frame_number, c.cell_number) for c in found.cells] == [(1, 1), (1, 2), (2, 1)]
    assert found.counts == Counts(all=1, hem=1, not_assessable=1)
    assert found.fraction is not None
    assert found.fraction.value == 0.5
    assert (found.study_uid, found.revision, found.model, found.decision_digest) == ("1.2", 3, MODEL, "sha256:decision")


def test_a_study_without_cells_has_findings_all_the_same() -> None:
    found = study_findings("1.2", 1, MODEL, "d", [])
    assert found.counts.total == 0
    assert found.fraction is None
