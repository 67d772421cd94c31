"""Decoded pixels and the cells found in them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.geometry import BoxPx, PointPx

#: Finest and coarsest pixels that a cell can be judged at, µm.
FINEST_UM, COARSEST_UM = 0.02, 1.0


class ScaleOrigin(StrEnum):
    """What the distance between pixels was taken from, the surest first."""

    PIXEL_SPACING = "pixel-spacing"  # stated by the object (PS3.3 10.7.1.3)
    NOMINAL = "nominal-scanned-pixel-spacing"  # stated by the digitizer
    OBJECTIVE = "imager-pixel-spacing-and-objective"  # pitch of the camera over the power of the objective
    RED_CELLS = "red-cells"  # measured: a red cell is 7.2 µm across
    CONFIGURED = "configured"  # by the operator, for this sender
    ASSUMED = "assumed"  # one segmented cell on black, taken to be at the scale of C-NMC


@dataclass(frozen=True, slots=True)
class Scale:
    """Distance of neighbouring pixel centres in micrometres, and where it is known from."""

    spacing_um: float
    origin: ScaleOrigin

    @property
    def usable(self) -> bool:
        """Whether cells can be judged at this pixel size."""
        return FINEST_UM <= self.spacing_um <= COARSEST_UM


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes
    ----------
    number:
        Frame number within its SOP Instance, from 1 (PS3.3 C.7.6.6).
    rgb:
        ``uint8`` array of shape (rows, columns, 3), sRGB.
    scale:
        Distance of neighbouring pixels, or None where the object does not say.
    """

    number: int
    rgb: NDArray[np.uint8]
    scale: Scale | None = None

    @property
    def spacing_um(self) -> float | None:
        """Distance of neighbouring pixel centres in micrometres, or None where the object does not say."""
        return None if self.scale is None else self.scale.spacing_um


@dataclass(frozen=True, slots=True)
class UnreadableFrame:
    """A frame that cannot be decoded, among others that may be.

    Attributes
    ----------
    reason:
        One line; no patient data.
    """

    number: int
    reason: str


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
