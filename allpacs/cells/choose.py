"""Which way of finding cells suits a frame, and the one cell of a single-cell picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from allpacs.cells.finder import CellFinder
from allpacs.cells.finders import nucleus, whole_frame
from allpacs.cells.finders.whole_frame import BLACK, lit_window, not_black
from allpacs.domain.extensions import CELL_FINDERS
from allpacs.domain.image import Cell, Frame

#: A segmented cell leaves at least this share of its frame black. Fields are lit everywhere but for a vignette.
BLACK_SHARE = 0.25


def finder_for(frame: Frame, configured: str | None = None) -> CellFinder:
    """Return the configured way of finding cells or, where there is none, the one that suits the picture.

    Raises
    ------
    ConfigFault
        No way of finding cells has the configured name.
    """
    if configured is not None:
        finder: CellFinder = CELL_FINDERS.get(configured)
        return finder
    return whole_frame.FINDER if _segmented(frame) else nucleus.FINDER


def central_cell(frame: Frame, cells: Sequence[Cell] | None = None) -> Cell | None:
    """Return the white cell nearest the middle of a field that was cropped around it; None if there are none.

    Parameters
    ----------
    cells:
        The cells found in the frame; None: they are sought by their nuclei.
    """
    rows, columns = frame.rgb.shape[:2]

    def from_middle(cell: Cell) -> float:
        return math.hypot(
            cell.box.x + cell.box.width / 2 - columns / 2,
            cell.box.y + cell.box.height / 2 - rows / 2,
        )

    found = nucleus.FINDER.find(frame) if cells is None else cells
    return min(found, key=from_middle, default=None)


def _segmented(frame: Frame) -> bool:
    """Whether the frame is a cell cut out on black: much of it is black, most of its corners among that."""
    rows, columns = frame.rgb.shape[:2]
    corners = frame.rgb[[0, 0, -1, -1], [0, -1, 0, -1]]
    if np.count_nonzero(corners.max(axis=1) > BLACK) > 1:
        return False
    window = lit_window(frame.rgb)
    most = (1 - BLACK_SHARE) * rows * columns
    # Within a window that is small enough the lit pixels need not be counted.
    return (
        window is None
        or math.prod(part.stop - part.start for part in window) <= most
        or (np.count_nonzero(not_black(frame.rgb[window])) <= most)
    )
