"""Where on a slide there is anything at all, from a coarse level of its pyramid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Optical density in green, against the glass, from which on there is something. At 16 µm a pixel a lone white cell
#: still makes twice as much.
FAINTEST = 0.05

#: A brighter pixel than this is glass where a slide is full of cells from edge to edge.
_GLASS_PERCENTILE = 99


def something_there(rgb: NDArray[np.uint8], glass: float | None = None) -> NDArray[np.bool_]:
    """Return where an image of shape (rows, columns, 3) differs from the glass, and one pixel around that.

    Parameters
    ----------
    glass:
        Green of the empty glass, 0 to 255; the image's own where not given.
    """
    green = rgb[..., 1]
    empty = float(np.percentile(green, _GLASS_PERCENTILE)) if glass is None else glass
    darker = green < np.expm1(np.log1p(empty) - FAINTEST)
    grown: NDArray[np.bool_] = ndimage.binary_dilation(darker, np.ones((3, 3), np.bool_))
    return grown
