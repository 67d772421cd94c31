"""Lines are simplified as scikit-image does it, for any tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import approximate_polygon, find_contours

from allpacs.cells.simplify import importance_of


@pytest.mark.parametrize("seed", range(12))
def test_a_contour_keeps_the_points_that_scikit_image_keeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:120, :120]
    angle = np.arctan2(rows - 60, columns - 60)
    radius = 35 + 8 * np.sin(rng.integers(2, 9) * angle) + rng.normal(0, 1.5, rows.shape)
    mask = np.hypot(rows - 60, columns - 60) < radius
    contour = max(find_contours(mask.astype(np.float32), 0.5), key=len)
    importance = importance_of(contour, 0.3)
    for tolerance in (0.3, 0.45, 1.0, 2.5, 8.0, 200.0):
        np.testing.assert_array_equal(contour[importance > tolerance], approximate_polygon(contour, tolerance))


def test_a_straight_line_keeps_its_ends_and_two_points_are_a_line() -> None:
    line = np.stack([np.arange(9.0), np.arange(9.0)], axis=1)
    np.testing.assert_array_equal(np.flatnonzero(importance_of(line, 0.1)), [0, 8])
    np.testing.assert_array_equal(importance_of(line[:2], 0.1), [np.inf, np.inf])
