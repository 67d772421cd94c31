"""Whether a cell is fit to be judged at all. Pure: pixels in, a reason or None out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from allpacs.domain.findings import NotAssessable
from allpacs.domain.image import Cell

#: Cells are shrunk to this many pixels along their longer side before their sharpness is measured (never enlarged), so
#: that the objective and the camera make little difference.
SHARPNESS_SIDE_PX = 48

#: Standard deviations, in pixels of the shrunk cell, of the two blurs that part fine from coarse structure.
_FINE_PX, _COARSE_PX = 1.0, 3.0

#: Keeps rounding noise of a flat cell from passing for structure; squared grey levels.
_FLOOR = 0.05

#: Rec. 601 luma.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Quality:
    """What a cell must be for the model to be asked; part of the bundle.

    Attributes
    ----------
    min_side_px:
        Least width and height of the cell's box, at least 1.
    min_contrast:
        Least spread of grey levels (5th to 95th percentile, 0 to 255) over the cell: below, there is nothing to see.
    min_sharpness:
        Least sharpness as `sharpness` measures it; 0 takes every cell.
    take_cut_off:
        Whether cells that the frame's edge cuts are judged all the same.
    """

    min_side_px: int = 16
    min_contrast: float = 6.0
    min_sharpness: float = 0.07
    take_cut_off: bool = False

    def __post_init__(self) -> None:
        if self.min_side_px < 1 or self.min_contrast < 0 or self.min_sharpness < 0:
            raise ValueError("quality limits must not be negative, and min_side_px at least 1")


def judge(rgb: NDArray[np.uint8], cell: Cell, quality: Quality) -> NotAssessable | None:
    """Return why the cell must not be judged, or None; what cannot be mended comes first.

    Parameters
    ----------
    rgb:
        The whole frame, ``uint8`` of shape (rows, columns, 3).
    """
    box = cell.box
    if not cell.mask.any():
        return NotAssessable.EMPTY
    if min(box.width, box.height) < quality.min_side_px:
        return NotAssessable.TOO_SMALL
    grey = rgb[box.y : box.bottom, box.x : box.right].astype(np.float32) @ _LUMA
    low, high = np.percentile(grey[cell.mask], (5, 95))
    if high - low < quality.min_contrast:
        return NotAssessable.EMPTY
    if cell.touches_border and not quality.take_cut_off:
        return NotAssessable.CUT_OFF
    if sharpness(grey, cell.mask) < quality.min_sharpness:
        return NotAssessable.BLURRED
    return None


def sharpness(grey: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the share of fine structure within a cell: 0.1 and more where sharp, about 0.04 out of focus.

    It is the ratio of the energies of two neighbouring bands of a Laplacian pyramid: neither the stain's depth nor the
    lamp change it. The cell's rim is left out, so that the hard edge of a cell cut out on black counts for nothing.

    Parameters
    ----------
    grey:
        The cell's box, grey levels 0 to 255, ``float32``.
    mask:
        The cell's pixels, ``bool``, same shape.

    Source: Burt and Adelson 1983, The Laplacian Pyramid as a Compact Image Code.
    """
    height, width = mask.shape
    scale = min(1.0, SHARPNESS_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    inside = ndimage.binary_erosion(share > 0.5, iterations=max(1, max(size) // 16))
    if not inside.any():
        inside = share > 0
    fine_blur = ndimage.gaussian_filter(small, _FINE_PX)
    fine = small - fine_blur
    coarse = fine_blur - ndimage.gaussian_filter(small, _COARSE_PX)
    return float(fine[inside].var() / (coarse[inside].var() + _FLOOR))
