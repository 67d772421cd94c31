"""Segmented cells on black, as in C-NMC: what is lit is a cell, mostly the only one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from allpacs.cells.outline import cell_of, filled
from allpacs.domain.image import Cell, Frame

#: Largest channel value still taken for black: lossy compression leaves a faint halo around the cell.
BLACK = 12

#: Specks smaller than this share of the frame are compression noise, not a cell.
SMALLEST_SHARE = 0.001

#: Beside the largest part, parts of at least this share of it are cells too; smaller ones came off it.
ANOTHER_CELL = 0.3


class WholeFrame:
    """Takes what is not black for cells: the largest part, and others of about its size."""

    name = "whole_frame"
    segmented = True

    def find(self, frame: Frame) -> tuple[Cell, ...]:
        """Return the cells, ordered by row then column of their boxes; nothing where the frame is black."""
        window = lit_window(frame.rgb)
        if window is None:
            return ()
        shape = (frame.rgb.shape[0], frame.rgb.shape[1])
        offset = (window[0].start, window[1].start)
        lit = not_black(frame.rgb[window])
        labels, _ = ndimage.label(lit)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        first = int(np.argsort(sizes)[-1])
        masks = {first: filled(labels == first)}
        largest = np.count_nonzero(masks[first])
        if largest < max(4, SMALLEST_SHARE * shape[0] * shape[1]):
            return ()
        for label in np.flatnonzero(sizes >= ANOTHER_CELL * largest):
            masks.setdefault(int(label), filled(labels == label))
        cells = [cell_of(mask, offset, shape) for mask in masks.values()]
        return tuple(sorted(cells, key=lambda cell: (cell.box.y, cell.box.x)))

    def find_and_measure(self, frame: Frame) -> tuple[tuple[Cell, ...], None]:
        """Return the cells, and no scale: a cell alone is no measure."""
        return self.find(frame), None


def not_black(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an image of shape (rows, columns, 3) is lighter than black."""
    # Pair by pair: numpy's reduction over an axis of three takes eight times as long.
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    lit: NDArray[np.bool_] = brightest > BLACK
    return lit


def lit_window(rgb: NDArray[np.uint8]) -> tuple[slice, slice] | None:
    """Return the rows and columns of the smallest window with all that is lighter than black; None of nothing."""
    lit = rgb > BLACK  # whole rows at a time: quicker than telling channels apart
    in_rows = np.flatnonzero(lit.reshape(len(lit), -1).any(axis=1))
    in_columns = np.flatnonzero(np.any(lit.any(axis=0), axis=1))
    if len(in_rows) == 0:
        return None
    return slice(int(in_rows[0]), int(in_rows[-1]) + 1), slice(int(in_columns[0]), int(in_columns[-1]) + 1)


FINDER = WholeFrame()
