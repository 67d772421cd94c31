"""What size and colour tell by themselves, and the weight that a cell's size gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.controls import at_matched_size, by_unit, regression, simple_features
from training.limits import limits_of
from training.metrics import auroc


def test_features_of_a_cell_are_its_share_and_its_mean_colour() -> None:
    crops = np.zeros((2, 10, 10, 3), np.uint8)
    crops[0, :5] = (100, 50, 200)
    crops[1] = 12  # black still
    features = simple_features(crops)
    assert features[0].tolist() == pytest.approx([np.log(0.5), 100, 50, 200])
    assert features[1].tolist() == pytest.approx([np.log(1e-4), 0, 0, 0])


def test_a_score_that_is_the_size_tells_nothing_at_matched_size() -> None:
    random = np.random.default_rng(0)
    truth = np.arange(4000) % 2 == 0
    size = random.normal(truth * 1.5, 1.0)
    assert auroc(truth, size) > 0.8
    assert at_matched_size(truth, size, size) < 0.62
    other = random.normal(truth * 1.5, 1.0)
    assert at_matched_size(truth, other, size) > 0.8


def test_the_regression_learns_from_the_trained_cells_alone() -> None:
    random = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 0
    features = random.normal(size=(400, 4)) + truth[:, None]
    features[200:] *= -1  # the tested cells are the other way round
    scores = regression(features, truth, np.arange(200), np.arange(200, 400))
    assert auroc(truth[200:], scores) < 0.2


def test_each_person_has_a_row() -> None:
    truth, called = np.array([True, True, False]), np.array([True, False, False])
    rows = by_unit(["a", "a", "b"], truth, called, np.array([True, True, False]))
    assert rows == [
        {"unit": "a", "label": "ALL", "cells": 2, "answered": 1.0, "right": 0.5},
        {"unit": "b", "label": "HEM", "cells": 1, "answered": 0.0, "right": None},
    ]


def pictures(count: int = 2000) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Cells of 20 persons whose size tells, and a network that guesses."""
    random = np.random.default_rng(1)
    rows, logits = [], []
    for number in range(count):
        ill = number % 2 == 0
        person = f"{'A' if ill else 'H'}{number % 20}"
        size = float(random.normal(0.5 if ill else -0.5, 0.5)) - 1.5
        rows.append({"label": "ALL" if ill else "HEM", "unit": person, "subject": person, "simple": [size, 1, 1, 1]})
        logits.append([float(random.normal()), 0.0, -3.0])
    return rows, np.array(logits)


def test_the_size_counts_for_as_much_as_it_is_worth_on_people_not_seen() -> None:
    rows, logits = pictures()
    places = np.arange(len(rows))
    limits = limits_of(rows, places, logits, 0.95, size_path=True)
    truth = np.array([row["label"] == "ALL" for row in rows])
    changed = limits.applied(logits, rows, places)
    assert auroc(truth, logits[:, 0] - logits[:, 1]) == pytest.approx(0.5, abs=0.05)
    assert auroc(truth, changed[:, 0] - changed[:, 1]) > 0.88
    assert changed[:, 2].tolist() == logits[:, 2].tolist()
    margin = (changed[:, 0] - changed[:, 1]) / limits.temperature
    assert (margin[truth] > 0).mean() > 0.75
    plain = limits_of(rows, places, logits, 0.95)
    assert (plain.size_weight, plain.offset) == (0.0, 0.0)
    assert plain.applied(logits, rows, places) is logits
