"""Segmented cells on black, as in C-NMC: what is lit is a cell, mostly the only one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from allpacs.cells.outline import cell_of, largest_part
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

    def find(self, frame: Frame) -> tuple[Cell, ...]:
        """Return the cells, ordered by row then column of their boxes; nothing where the frame is black."""
        labels, count = ndimage.label(not_black(frame.rgb))
        if count == 0:
            return ()
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        filled = {int(label): largest_part(labels == label) for label in np.argsort(sizes)[::-1][:1]}
        largest = max(int(mask.sum()) for mask in filled.values())
        if largest < max(4, SMALLEST_SHARE * labels.size):
            return ()
        for label in np.flatnonzero(sizes >= ANOTHER_CELL * largest):
            filled.setdefault(int(label), largest_part(labels == label))
        cells = [cell_of(mask) for mask in filled.values()]
        return tuple(sorted(cells, key=lambda cell: (cell.box.y, cell.box.x)))

    def scale(self, _: Frame) -> None:
        """Return nothing: a cell alone is no measure."""
        return


def not_black(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an image of shape (rows, columns, 3) is lighter than black."""
    # Pair by pair: numpy's reduction over an axis of three takes eight times as long.
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    lit: NDArray[np.bool_] = brightest > BLACK
    return lit
