"""Whitening: persons of one class lie close together afterwards, and the head that ships answers the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.network import build_head, set_state, state_of
from training.whitening import fit_whitening, folded


def cells(random: np.random.Generator) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Return features in which the first tells classes apart a little, and the second persons a lot."""
    features, labels, persons = [], [], []
    for person in range(20):
        label = "ALL" if person % 2 else "HEM"
        mean = np.zeros(12)
        mean[0], mean[1] = (1.0 if label == "ALL" else -1.0), random.normal(0, 10)
        features.append(random.normal(mean, 1.0, (30, 12)))
        labels += [label] * 30
        persons += [str(person)] * 30
    return np.concatenate(features).astype(np.float32), labels, persons


def test_what_tells_persons_apart_shrinks_beside_what_tells_classes_apart() -> None:
    features, labels, persons = cells(np.random.default_rng(1))
    whitening = fit_whitening(features, labels, persons, components=12)
    whitened = whitening.applied(features)
    of_class = np.array(labels) == "ALL"

    def apart(values: NDArray[np.float32]) -> float:
        """Return the distance of the classes as a share of the spread of persons within a class."""
        means = np.stack([values[np.array(persons) == person].mean(axis=0) for person in sorted(set(persons))])
        between = float(np.linalg.norm(values[of_class].mean(axis=0) - values[~of_class].mean(axis=0)))
        return between / float(means.std(axis=0).max())

    assert apart(whitened) > 2 * apart(features)


def test_fewer_components_than_features_are_kept() -> None:
    features, labels, persons = cells(np.random.default_rng(2))
    assert fit_whitening(features, labels, persons, components=5).applied(features).shape == (600, 5)


def test_without_known_persons_cells_take_their_place() -> None:
    features, labels, _ = cells(np.random.default_rng(3))
    whitened = fit_whitening(features, labels, [None] * len(labels), components=12).applied(features)
    assert np.isfinite(whitened).all()


def test_the_folded_head_answers_as_the_head_on_whitened_features() -> None:
    features, labels, persons = cells(np.random.default_rng(4))
    features[:, 7] = 3.0  # a feature that does not vary
    whitening = fit_whitening(features, labels, persons, components=9)
    learned = build_head(["ALL", "HEM", "x"], 9, dense_units=8, input_dropout=0.3, norm=False)
    whole = build_head(["ALL", "HEM", "x"], 12, dense_units=8)
    set_state(whole, folded(state_of(learned), whitening))
    expected = np.asarray(learned(whitening.applied(features)))
    np.testing.assert_allclose(np.asarray(whole(features)), expected, atol=1e-4)
    assert np.ptp(expected) > 0.1
