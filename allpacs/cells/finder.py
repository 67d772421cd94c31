"""The port that every way of finding cells implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from allpacs.domain.image import Cell, Frame, Scale


class CellFinder(Protocol):
    """Finds white cells in a frame. A new way is one new module in `allpacs.cells.finders`.

    Attributes
    ----------
    name:
        Its module's name, which configurations use as ``cell_finder``.
    segmented:
        Whether it takes frames for cells that were cut out on black. Their pixel size is that of C-NMC if nothing else
        tells it (`allpacs.cells.scale`).
    """

    name: str
    segmented: bool

    def find(self, frame: Frame) -> Sequence[Cell]:
        """Return the cells of the frame, ordered by row then column of their boxes; empty where there are none."""

    def find_and_measure(self, frame: Frame) -> tuple[Sequence[Cell], Scale | None]:
        """Return the cells, and the distance of the frame's pixels as what is seen in it tells; None: nothing does."""
