"""Figures, calibration, thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import (
    abstain_band,
    auroc,
    calibration_error,
    class_weights,
    interval,
    report,
    sigmoid,
    temperature_of,
)


def test_auroc_counts_pairs() -> None:
    truth = np.array([True, True, False, False])
    assert auroc(truth, np.array([0.9, 0.8, 0.1, 0.2])) == 1.0
    assert auroc(truth, np.array([0.1, 0.2, 0.9, 0.8])) == 0.0
    assert auroc(truth, np.array([0.9, 0.3, 0.5, 0.1])) == 0.75
    assert auroc(truth, np.full(4, 0.5)) == 0.5
    assert np.isnan(auroc(np.ones(3, bool), np.zeros(3)))


def test_interval_is_wider_over_subjects_than_over_cells() -> None:
    random = np.random.default_rng(1)
    subject = np.repeat(np.arange(10), 20)
    value = random.normal(size=10)[subject] + 0.1 * random.normal(size=200)
    by_subject = interval(lambda i: float(value[i].mean()), [str(s) for s in subject], draws=400)
    by_cell = interval(lambda i: float(value[i].mean()), [str(i) for i in range(200)], draws=400)
    assert by_subject[1] - by_subject[0] > 2 * (by_cell[1] - by_cell[0])
    assert by_subject[0] < value.mean() < by_subject[1]


def test_report_counts_only_answered_cells() -> None:
    truth = np.array([True, True, True, False, False])
    probability = np.array([0.9, 0.5, 0.1, 0.2, 0.55])
    rows = report(truth, probability, list("abcde"), all_at_least=0.6, hem_at_most=0.4)
    values = {row["figure"]: row["value"] for row in rows}
    assert values["sensitivity"] == 0.5  # 0.9 called, 0.1 missed, 0.5 not answered
    assert values["specificity"] == 1.0
    assert values["answered"] == pytest.approx(0.6)


def test_a_cell_that_the_gate_refuses_has_no_answer() -> None:
    truth = np.array([True, True, False, False])
    probability = np.array([0.9, 0.1, 0.2, 0.9])
    band = {"all_at_least": 0.6, "hem_at_most": 0.4}
    passed = np.array([True, False, True, False])
    before = {row["figure"]: row["value"] for row in report(truth, probability, list("abcd"), **band)}
    after = {row["figure"]: row["value"] for row in report(truth, probability, list("abcd"), judgeable=passed, **band)}
    assert (before["answered"], before["sensitivity"], before["specificity"]) == (1.0, 0.5, 0.5)
    assert (after["answered"], after["sensitivity"], after["specificity"]) == (0.5, 1.0, 1.0)
    assert after["auroc"] == before["auroc"]


def test_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(scale=2.0, size=4000)
    truth = random.random(4000) < sigmoid(logit)
    assert temperature_of(truth, 3.0 * logit) == pytest.approx(3.0, rel=0.15)
    assert temperature_of(truth, logit) == pytest.approx(1.0, rel=0.15)


def test_abstain_band_leaves_out_the_asked_share() -> None:
    probability = np.random.default_rng(3).random(1000)
    at_least, at_most = abstain_band(probability, 0.2)
    assert at_most == pytest.approx(1 - at_least)
    assert ((probability > at_most) & (probability < at_least)).mean() == pytest.approx(0.2, abs=0.01)
    assert abstain_band(np.zeros(10), 0.2) == (0.95, pytest.approx(0.05))


def test_the_calibration_error_of_classes_that_weigh_alike_is_not_that_of_the_mixture() -> None:
    """Nine lymphoblasts at 0.8 and one other cell at 0.8: calibrated for nothing but a mixture of eight to two."""
    truth, probability = np.array([True] * 9 + [False]), np.full(10, 0.8)
    assert calibration_error(truth, probability) == pytest.approx(0.1)
    assert calibration_error(truth, probability, weights=class_weights(truth)) == pytest.approx(0.3)
    assert class_weights(truth).sum() == pytest.approx(1.0)
