"""Douglas and Peucker's simplification of a line, for every tolerance at once.

Points, distances and ties are those of `skimage.measure.approximate_polygon`, which looks at one stretch of the line
at a time and begins anew for each tolerance: that took a third of the time that finding a cell on black takes. Here
all stretches of one depth are looked at together, and each point keeps the tolerance up to which it stays.

Source: D. Douglas and T. Peucker 1973, Algorithms for the reduction of the number of points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def importance_of(points: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return the tolerance below which each point stays: infinite for both ends, 0 where that is not above `least`.

    Parameters
    ----------
    points:
        Shape (n, 2), n at least 2.
    least:
        Smallest tolerance that will be asked for.
    """
    importance = np.zeros(len(points))
    importance[[0, -1]] = np.inf
    starts, ends = np.array([0]), np.array([len(points) - 1])
    while len(starts):
        inner = ends - starts > 1
        starts, ends = starts[inner], ends[inner]
        if not len(starts):
            break
        # Every point within a stretch, and the stretch that it is in.
        lengths = ends - starts - 1
        first = np.cumsum(lengths) - lengths
        of = np.repeat(np.arange(len(starts)), lengths)
        places = np.arange(len(of)) - first[of] + starts[of] + 1
        distances = _distances(points, places, starts, ends, of)
        farthest = np.maximum.reduceat(distances, first)
        # Of equally far ones the first.
        middles = np.minimum.reduceat(np.where(distances == farthest[of], places, len(points)), first)
        # A point does not outlast those that its stretch ends at.
        stays = np.minimum(farthest, np.minimum(importance[starts], importance[ends]))
        split = stays > least
        importance[middles[split]] = stays[split]
        starts, ends = (
            np.concatenate([starts[split], middles[split]]),
            np.concatenate([middles[split], ends[split]]),
        )
    return importance


def _distances(
    points: NDArray[np.float64],
    places: NDArray[np.intp],
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    of: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return the distance of each place from its stretch: from the line, or the nearer end where it lies beyond."""
    rows, columns = points.T
    along_rows, along_columns = rows[ends] - rows[starts], columns[ends] - columns[starts]
    angle = -np.arctan2(along_rows, along_columns)
    sine, cosine = np.sin(angle), np.cos(angle)
    offset = columns[starts] * sine + rows[starts] * cosine
    row, column = rows[places], columns[places]
    from_start = row - rows[starts][of], column - columns[starts][of]
    from_end = row - rows[ends][of], column - columns[ends][of]
    beside = (from_start[0] * along_rows[of] + from_start[1] * along_columns[of] > 0) & (
        -from_end[0] * along_rows[of] - from_end[1] * along_columns[of] > 0
    )
    from_line = np.abs(row * cosine[of] + column * sine[of] - offset[of])
    nearer = np.minimum(np.sqrt(from_start[1] ** 2 + from_start[0] ** 2), np.sqrt(from_end[1] ** 2 + from_end[0] ** 2))
    distances: NDArray[np.float64] = np.where(beside, from_line, nearer)
    return distances
