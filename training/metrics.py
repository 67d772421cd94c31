"""Figures for two classes, with intervals; calibration; thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


def auroc(truth: Truth, score: Floats) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative; nan without both classes."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(score)[truth].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def interval(
    figure: Callable[[NDArray[np.int64]], float], groups: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a figure of cells, whole groups (subjects) drawn with replacement.

    Draws in which the figure is not defined are left out; (nan, nan) where fewer than half are left.
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(inverse == i) for i in range(len(names))]
    random = np.random.default_rng(seed)
    values = np.array(
        [figure(np.concatenate([members[i] for i in random.integers(0, len(names), len(names))])) for _ in range(draws)]
    )
    values = values[np.isfinite(values)]
    if values.size < draws / 2:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def report(
    truth: Truth,
    probability: Floats,
    groups: Sequence[str],
    *,
    all_at_least: Floats | float,
    hem_at_most: Floats | float,
    judgeable: Truth | None = None,
) -> list[dict[str, Any]]:
    """Return AUROC, sensitivity and specificity for ALL among cells with an answer, and the share with an answer.

    Parameters
    ----------
    truth:
        True where the cell is a lymphoblast.
    probability:
        Calibrated probability of that, 0 to 1.
    groups:
        Whose cell each is, for the intervals.
    all_at_least, hem_at_most:
        Thresholds: one for all cells, or one a cell.
    judgeable:
        False where the gate or the quality check lets a cell not pass: it has no answer, whatever its probability. None
        where there is neither. AUROC is of all cells.
    """
    called_all, called_hem = probability >= all_at_least, probability <= hem_at_most
    if judgeable is not None:
        called_all, called_hem = called_all & judgeable, called_hem & judgeable
    answered = called_all | called_hem
    figures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "auroc": lambda i: auroc(truth[i], probability[i]),
        "sensitivity": lambda i: _share(called_all[i], truth[i] & answered[i]),
        "specificity": lambda i: _share(called_hem[i], ~truth[i] & answered[i]),
        "answered": lambda i: float(answered[i].mean()),
    }
    everything = np.arange(truth.size)
    rows = []
    for name, figure in figures.items():
        low, high = interval(figure, groups)
        rows.append({"figure": name, "value": figure(everything), "low": low, "high": high})
    return rows


def weighted_f1(truth: Truth, probability: Floats) -> float:
    """Return the F1 score of both classes at 0.5, weighted by their numbers: what the ISBI 2019 challenge ranked by."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, probability >= 0.5, average="weighted", zero_division=0))


def accuracy(truth: Truth, probability: Floats) -> float:
    """Return the share right at 0.5."""
    return float(((probability >= 0.5) == truth).mean())


def class_weights(truth: Truth) -> Floats:
    """Return a weight for each picture, 1 in all, with which both classes weigh the same."""
    return np.where(truth, 0.5 / max(int(truth.sum()), 1), 0.5 / max(int((~truth).sum()), 1))


def calibration_error(truth: Truth, probability: Floats, bins: int = 10, weights: Floats | None = None) -> float:
    """Return the expected calibration error of the probability of ALL, bins of equal width.

    Parameters
    ----------
    weights:
        Of each picture, or None for all alike: with `class_weights`, the error where both classes are as frequent,
        which is what the temperature is set for (`temperature_of`); without, that of the data set's own mixture.

    Source: Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    """
    share = np.full(len(truth), 1.0 / max(len(truth), 1)) if weights is None else weights / weights.sum()
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs(float((share * (truth - probability))[place == b].sum())) for b in np.unique(place)]
    return float(sum(gaps))


def brier(truth: Truth, probability: Floats) -> float:
    """Return the mean squared difference of probability and outcome."""
    return float(((probability - truth) ** 2).mean())


def temperature_of(truth: Truth, logit: Floats) -> float:
    """Return the temperature (0.2 to 20) that minimises the cross-entropy, both classes weighing the same.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    weight = class_weights(truth)
    sign = np.where(truth, -1.0, 1.0)

    def cross_entropy(log_temperature: float) -> float:
        return float((weight * np.logaddexp(0.0, sign * logit / np.exp(log_temperature))).sum())

    best = minimize_scalar(cross_entropy, bounds=(np.log(0.2), np.log(20.0)), method="bounded")
    return float(np.exp(best.x))


def abstain_band(probability: Floats, share: float) -> tuple[float, float]:
    """Return (all_at_least, hem_at_most): the widest band around 0.5 that holds at most this share of the cells."""
    distance = np.sort(np.abs(probability - 0.5))
    width = float(distance[int(share * distance.size)]) if distance.size else 0.0
    width = min(width, 0.45)
    return 0.5 + width, 0.5 - width


def sigmoid(logit: Floats) -> Floats:
    """Return the probability of a logit difference: the softmax of two outputs."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))


def _share(part: Truth, whole: Truth) -> float:
    """Return which share of the whole is in the part; nan where there is none."""
    return float(part[whole].mean()) if whole.any() else float("nan")
