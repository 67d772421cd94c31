"""Mask to cell: one part, its box, its outline and whether the edge of the frame cuts it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from allpacs.cells.simplify import importance_of
from allpacs.domain.geometry import BoxPx, PointPx
from allpacs.domain.image import Cell

#: An outline has no more points than this: enough for a cell, small in a report.
MOST_POINTS = 64


def cell_of(mask: NDArray[np.bool_], offset: tuple[int, int] = (0, 0), shape: tuple[int, int] | None = None) -> Cell:
    """Return the cell of a mask with at least one True pixel in one connected part.

    Parameters
    ----------
    mask:
        ``bool`` array, a whole frame or a window of it.
    offset:
        Row and column of the window in the frame.
    shape:
        Rows and columns of the frame; the mask's own where it is the whole frame.
    """
    rows, columns = shape or (mask.shape[0], mask.shape[1])
    in_rows = np.flatnonzero(mask.any(axis=1))
    in_columns = np.flatnonzero(mask.any(axis=0))
    top, bottom = int(in_rows[0]), int(in_rows[-1]) + 1
    left, right = int(in_columns[0]), int(in_columns[-1]) + 1
    cropped = np.ascontiguousarray(mask[top:bottom, left:right])
    box = BoxPx(left + offset[1], top + offset[0], right - left, bottom - top)
    return Cell(
        box=box,
        outline=_outline(cropped, box),
        mask=cropped,
        touches_border=box.x == 0 or box.y == 0 or box.right == columns or box.bottom == rows,
    )


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask with its holes filled; all False where the mask is."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    if count == 1:
        return filled(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return filled(labels == int(sizes.argmax()))


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with its holes filled: what cannot be reached from without through the sides of pixels."""
    # scipy's binary_fill_holes gives the same in many passes; this is one.
    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    whole: NDArray[np.bool_] = outside[1:-1, 1:-1] != outside[0, 0]
    return whole


def _outline(mask: NDArray[np.bool_], box: BoxPx) -> tuple[PointPx, ...]:
    """Return the longest contour of a mask as at most `MOST_POINTS` points in frame pixels."""
    # Padding closes contours at the box; (0, 0) is the corner of the first pixel, not its centre (PS3.3 C.18.6.1.2).
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    contour = max(contours, key=len)
    # A tolerance that grows with the cell: following a large one pixel by pixel is slow.
    tolerance = max(0.3, 0.0015 * len(contour))
    importance = importance_of(contour, tolerance)
    while np.count_nonzero(importance > tolerance) - 1 > MOST_POINTS:
        tolerance *= 1.5
    polygon = contour[importance > tolerance]
    if len(polygon) - 1 < 3:
        return box.corners()
    xs = np.clip(polygon[:-1, 1] - 0.5, 0, box.width) + box.x
    ys = np.clip(polygon[:-1, 0] - 0.5, 0, box.height) + box.y
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in zip(xs, ys, strict=True))
