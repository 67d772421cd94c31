"""Features to a space where persons of one class lie close together: the head then finds it hard to tell persons apart.

Features are standardised and reduced to their principal components. Then the directions in which persons of one class
differ, and in which cells of one person do, are scaled to the same spread. Weight decay in that space punishes a head
that relies on what tells persons rather than classes apart. The transformation is linear and is folded into the first
dense layer afterwards, so the network that ships knows nothing of it.

Source: within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006, for speakers instead of persons).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Weight of the differences between persons beside those between the cells of one person.
PERSON_SHARE = 0.9
#: Spread added in every direction, as a share of the mean spread: 50 persons say little of 400 directions.
RIDGE = 0.3
#: A feature that hardly varies says little; a smaller deviation would be lost in float16, as weights are stored.
_LEAST_DEVIATION = 1e-2
#: Added to the variance by Keras's batch normalisation.
_NORM_EPSILON = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """An affine transformation of features.

    Attributes
    ----------
    mean, deviation:
        Of every feature, shape (features,).
    projection:
        From standardised features to the new space, shape (features, components).
    """

    mean: Floats
    deviation: Floats
    projection: Floats

    def applied(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features of shape (…, features) in the new space, ``float32`` (…, components)."""
        standard = (features - self.mean) / self.deviation
        return np.asarray(standard @ self.projection, np.float32)


def fit_whitening(
    features: NDArray[np.float32], labels: Sequence[str], persons: Sequence[str | None], components: int
) -> Whitening:
    """Return the transformation for these cells, shape (n, features).

    Parameters
    ----------
    labels:
        Class of each cell.
    persons:
        Whose cell each is; cells of unknown persons count for the principal components only.
    components:
        Largest number of dimensions of the new space.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), _LEAST_DEVIATION)
    standard = (features - mean) / deviation
    spread, directions = np.linalg.eigh(standard.T @ standard / len(standard))
    kept = directions[:, np.argsort(spread)[::-1][:components]]
    nuisance = _nuisance(standard @ kept, np.array(labels), persons)
    nuisance += RIDGE * np.trace(nuisance) / len(nuisance) * np.eye(len(nuisance))
    spread, directions = np.linalg.eigh(nuisance)
    projection = kept @ (directions / np.sqrt(spread))
    projection /= (standard @ projection).std(axis=0).mean()
    return Whitening(mean, deviation, projection)


def _nuisance(cells: Floats, labels: NDArray[np.str_], persons: Sequence[str | None]) -> Floats:
    """Return the covariance between persons of one class and between the cells of one person, weighed together.

    A person counts by the root of the number of their cells. Without known persons, cells of one class take their
    place.
    """
    groups: dict[str, dict[str | None, list[int]]] = {}
    known = any(person is not None for person in persons)
    for place, (label, person) in enumerate(zip(labels, persons, strict=True)):
        if person is not None or not known:
            groups.setdefault(str(label), {}).setdefault(person, []).append(place)
    between, within = np.zeros((cells.shape[1],) * 2), np.zeros((cells.shape[1],) * 2)
    for members in groups.values():
        weights = np.sqrt([len(places) for places in members.values()])
        weights /= weights.sum() * len(groups)
        means = np.stack([cells[places].mean(axis=0) for places in members.values()])
        centre = np.average(means, axis=0, weights=weights)
        for places, mean, weight in zip(members.values(), means, weights, strict=True):
            between += weight * np.outer(mean - centre, mean - centre)
            apart = cells[places] - mean
            within += weight * (apart.T @ apart) / len(places)
    return PERSON_SHARE * between + (1 - PERSON_SHARE) * within


def folded(head: Mapping[str, NDArray[np.float32]], whitening: Whitening) -> dict[str, NDArray[np.float32]]:
    """Return the state of a head that takes the features themselves and answers as this one does in the new space.

    Standardisation becomes the batch normalisation, the projection part of the first dense layer.
    """
    variance = whitening.deviation**2
    kernel = head["head_dense/kernel"].astype(np.float64)
    return {
        "head_bn/gamma": np.asarray(np.sqrt(variance + _NORM_EPSILON) / whitening.deviation, np.float32),
        "head_bn/beta": np.zeros(len(variance), np.float32),
        "head_bn/moving_mean": np.asarray(whitening.mean, np.float32),
        "head_bn/moving_variance": np.asarray(variance, np.float32),
        "head_dense/kernel": np.asarray(whitening.projection @ kernel, np.float32),
        "head_dense/bias": head["head_dense/bias"],
        "head_logits/kernel": head["head_logits/kernel"],
        "head_logits/bias": head["head_logits/bias"],
    }
