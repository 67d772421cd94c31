"""Controls: what the size and the mean colour of a cell tell by themselves.

A network that does not beat them by a clear margin has learned nothing else. Sizes are those of the crops, so they mean
something only where crops show a fixed field of view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.network import BLACK, LEAST_SHARE
from training.metrics import auroc

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


def simple_features(pixels: NDArray[np.uint8]) -> Floats:
    """Return of each cell the logarithm of its share of the crop, and its mean red, green and blue, shape (n, 4)."""
    rows = []
    for crop in pixels:
        lit = crop.max(axis=2) > BLACK
        colour = crop[lit].mean(axis=0) if lit.any() else np.zeros(3)
        rows.append([np.log(max(float(lit.mean()), LEAST_SHARE)), *colour])
    return np.array(rows, np.float64)


def regression(features: Floats, truth: Truth, trained: NDArray[np.int64], tested: NDArray[np.int64]) -> Floats:
    """Return the scores of the tested cells by a logistic regression on the trained ones, classes weighed alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(features[trained], truth[trained])
    scores: Floats = model.decision_function(features[tested])
    return scores


def at_matched_size(truth: Truth, score: Floats, size: Floats, bins: int = 10) -> float:
    """Return the AUROC among cells of about the same size: of each tenth of the sizes, weighted by its pairs.

    Within a bin size tells nearly nothing, so what is left is what the network sees besides.
    """
    edges = np.quantile(size, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, size)
    areas, pairs = [], []
    for number in range(bins):
        own = place == number
        count = int(truth[own].sum()) * int((~truth[own]).sum())
        if count:
            areas.append(auroc(truth[own], score[own]))
            pairs.append(count)
    return float(np.average(areas, weights=pairs)) if pairs else float("nan")


def by_unit(unit: Sequence[str], truth: Truth, called_all: Truth, answered: Truth) -> list[dict[str, object]]:
    """Return, for each person, the number of cells, the share with an answer, and the share of those called right."""
    rows: list[dict[str, object]] = []
    names = np.asarray(unit)
    for name in np.unique(names):
        own = names == name
        right = (called_all == truth)[own & answered]
        rows.append({
            "unit": str(name), "label": "ALL" if truth[own].any() else "HEM", "cells": int(own.sum()),
            "answered": float(answered[own].mean()), "right": float(right.mean()) if right.size else None,
        })  # fmt: skip
    return rows
