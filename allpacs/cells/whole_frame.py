"""A segmented single cell on black, as in C-NMC: the picture is the cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allpacs.cells.outline import cell_of, largest_part
from allpacs.domain.image import Cell, Frame

#: Largest channel value still taken for black: lossy compression leaves a faint halo around the cell.
BLACK = 12

#: Specks smaller than this share of the frame are compression noise, not a cell.
SMALLEST_SHARE = 0.001


class WholeFrame:
    """Takes the largest thing that is not black for the one cell of the frame."""

    name = "whole_frame"

    def find(self, frame: Frame) -> tuple[Cell, ...]:
        """Return the one cell, or nothing where the frame is black."""
        mask = largest_part(not_black(frame.rgb))
        if mask.sum() < max(4, SMALLEST_SHARE * mask.size):
            return ()
        return (cell_of(mask),)


def not_black(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an image of shape (rows, columns, 3) is lighter than black."""
    # Pair by pair: numpy's reduction over an axis of three takes eight times as long.
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    lit: NDArray[np.bool_] = brightest > BLACK
    return lit
