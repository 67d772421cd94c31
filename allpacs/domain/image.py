"""Decoded pixels and the cells found in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.geometry import BoxPx, PointPx


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes
    ----------
    number:
        Frame number within its SOP Instance, from 1 (PS3.3 C.7.6.6).
    rgb:
        ``uint8`` array of shape (rows, columns, 3), sRGB.
    spacing_um:
        Distance of neighbouring pixel centres in micrometres, or None where the object does not say.
    """

    number: int
    rgb: NDArray[np.uint8]
    spacing_um: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One white cell found in a frame, not yet classified.

    Attributes
    ----------
    box:
        Smallest box that holds the mask.
    outline:
        At least three points around the cell, in order, first point not repeated, within the frame.
    mask:
        ``bool`` array of shape (box.height, box.width): True on the cell's pixels.
    touches_border:
        The frame's edge cuts the cell.
    """

    box: BoxPx
    outline: tuple[PointPx, ...]
    mask: NDArray[np.bool_]
    touches_border: bool = False
