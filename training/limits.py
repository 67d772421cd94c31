"""What turns logits into answers: temperature, thresholds, the limit of the gate, the weight of a cell's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS, Thresholds, probability_other
from training.gate import accepted_at
from training.metrics import abstain_band, sigmoid, temperature_of

Floats = NDArray[np.float64]
Pictures = list[dict[str, Any]]

#: Share of the cells that limits are set on which the band between the thresholds leaves without an answer.
ABSTAINED = 0.15


@dataclass(frozen=True, slots=True)
class Limits:
    """What turns logits into answers: set on cells of persons that the model has not seen.

    Attributes
    ----------
    size_weight, offset:
        Of the cell's size (logarithm of its share of the crop) in the difference of the two classes' logits, and what
        is added to it; 0 without a size path.
    """

    temperature: float
    thresholds: Thresholds
    other_at_most: float
    size_weight: float = 0.0
    offset: float = 0.0

    def applied(self, logits: Floats, pictures: Pictures, places: NDArray[np.int64]) -> Floats:
        """Return the logits, shape (n, outputs), with the weight of the cells' sizes in them."""
        if not self.size_weight and not self.offset:
            return logits
        size = np.array([pictures[i]["simple"][0] for i in places])
        half = (self.size_weight * size + self.offset) / 2
        changed = logits.copy()
        changed[:, 0] += half
        changed[:, 1] -= half
        return changed


def limits_of(
    pictures: Pictures, places: NDArray[np.int64], logits: Floats, acceptance: float, *, size_path: bool = False
) -> Limits:
    """Return what is set on these cells of both classes: on those of known persons if there are any.

    Parameters
    ----------
    places, logits:
        Which pictures are judged, and the answers, shape (n, outputs).
    """
    label = np.array([pictures[i]["label"] for i in places])
    known = np.isin(label, LABELS)
    persons = known & np.array([pictures[i]["subject"] is not None for i in places], bool)
    used = persons if set(label[persons]) == set(LABELS) else known
    truth, margin = label[used] == LABELS[0], (logits[:, 0] - logits[:, 1])[used]
    weight = offset = 0.0
    if size_path:
        size = np.array([pictures[i]["simple"][0] for i in places])[used]
        units = [pictures[i]["unit"] for i, own in zip(places, used, strict=True) if own]
        temperature, weight, offset = _with_size(truth, margin, size, units)
        margin = margin + weight * size + offset
    else:
        temperature = round(temperature_of(truth, margin), 6) if used.any() else 1.0
    all_at_least, hem_at_most = abstain_band(sigmoid(margin / temperature), ABSTAINED)
    limits = Limits(temperature, Thresholds(all_at_least, hem_at_most), 1.0, weight, offset)
    if logits.shape[1] > len(LABELS):
        other = other_of(limits.applied(logits, pictures, places))
        limits = replace(limits, other_at_most=round(accepted_at(other[known], acceptance), 6))
    return limits


def _with_size(
    truth: NDArray[np.bool_], margin: Floats, size: Floats, units: Sequence[str]
) -> tuple[float, float, float]:
    """Return temperature, weight of the size and offset, by a logistic regression on margin and size.

    Both classes weigh alike, and within a class persons by the root of their numbers.
    """
    from sklearn.linear_model import LogisticRegression

    counted = Counter(units)
    share = np.array([counted[unit] ** -0.5 for unit in units])
    for own in (truth, ~truth):
        share[own] *= 0.5 * len(truth) / share[own].sum()
    spread = np.array([margin.std(), size.std()]) + 1e-9
    fitted = LogisticRegression(C=1.0).fit(np.stack([margin, size], axis=1) / spread, truth, sample_weight=share)
    slopes = fitted.coef_[0] / spread
    of_margin = max(float(slopes[0]), 0.02)  # the network's own answer always counts, and never the wrong way
    of_size, offset = float(slopes[1]) / of_margin, float(fitted.intercept_[0]) / of_margin
    return round(1 / of_margin, 6), round(of_size, 6), round(offset, 6)


def pooled(answers: Sequence[Any]) -> tuple[NDArray[np.int64], Floats]:
    """Return the answers of several folds as one."""
    some = [answer for answer in answers if len(answer[0])]
    return np.concatenate([places for places, _ in some]), np.concatenate([logits for _, logits in some])


def other_of(logits: Floats) -> Floats:
    """Return the probability of being neither class, of each row of logits (n, outputs)."""
    return np.array([probability_other(row) for row in logits])
