"""A found cell → the square picture that the network sees. Pure: numpy and Pillow only.

Training and serving both call `prepare`, so a model never sees a cell in another way than it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from allpacs.domain.errors import ModelFault
from allpacs.domain.image import Cell

#: What `prepare` does, by name: a bundle made for another way is refused rather than fed the wrong pictures.
METHOD = "segmented-to-black-square"

#: Width of a lymphoblast in a smear, about: 10 to 18 µm (J. M. Bennett et al. 1976, the FAB classification, L1 and L2).
LYMPHOBLAST_UM = 14.0

#: What `normalised` moves the optical density of red, green and blue to: about the middle of C-NMC's and PBC's cells.
_DENSITY_MEAN = np.array([1.0, 1.6, 0.8], np.float32)
_DENSITY_SPREAD = np.array([0.45, 0.6, 0.4], np.float32)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a cell becomes a picture; part of a bundle's contract.

    Attributes
    ----------
    input_px:
        Side of the square picture.
    margin:
        Black margin on each side of the cell, as a share of its longer side.
    colour:
        ``as-found``, or ``normalised``: see `normalised`.
    """

    input_px: int = 128
    margin: float = 0.06
    colour: Literal["as-found", "normalised"] = "as-found"

    def __post_init__(self) -> None:
        if not 16 <= self.input_px <= 1024 or not 0.0 <= self.margin <= 1.0:
            raise ModelFault(f"preprocessing out of range: input_px {self.input_px}, margin {self.margin}")
        if self.colour not in {"as-found", "normalised"}:
            raise ModelFault(f"preprocessing colour is as-found or normalised, not {self.colour!r}")

    @property
    def spacing_um(self) -> float:
        """Distance of pixels, micrometres, at which a lymphoblast is as large as it is in the picture.

        Coarser pixels have to be enlarged for the network, finer ones hold more than it sees.
        """
        return LYMPHOBLAST_UM * (1 + 2 * self.margin) / self.input_px

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as it stands in ``bundle.json``."""
        written = {"method": METHOD, **asdict(self)}
        if self.colour == "as-found":
            del written["colour"]  # as bundles had it before there was a choice
        return written

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Preprocessing:
        """Return the contract that a ``bundle.json`` states.

        Raises
        ------
        ModelFault
            Another method, unknown or missing keys, or a value that is not a number.
        """
        if set(written) - {"colour"} != {"method", "input_px", "margin"}:
            raise ModelFault(f"preprocessing must name method, input_px and margin (colour), not {sorted(written)}")
        if written["method"] != METHOD:
            raise ModelFault(f"preprocessing method is not {METHOD}: {written['method']}")
        try:
            return cls(
                input_px=int(written["input_px"]),
                margin=float(written["margin"]),
                colour=written.get("colour", "as-found"),
            )
        except (TypeError, ValueError) as fault:
            raise ModelFault("preprocessing input_px and margin must be numbers") from fault


def prepare(rgb: NDArray[np.uint8], cell: Cell, contract: Preprocessing) -> NDArray[np.uint8]:
    """Return the cell alone on black, centred in a square, at the contract's size.

    Everything outside the mask becomes black, as in C-NMC; the longer side of the cell's box always fills the same
    share of the picture, so that a cell looks the same whatever the objective, camera or source.

    Parameters
    ----------
    rgb:
        ``uint8`` frame of shape (rows, columns, 3) in which the cell was found.
    cell:
        Its box lies within the frame.

    Returns
    -------
    ``uint8`` array of shape (input_px, input_px, 3).

    Source: C-NMC 2019 (cells segmented to black), paper section IV step 2.
    """
    box = cell.box
    side = max(box.width, box.height)
    side += 2 * math.ceil(side * contract.margin)
    left, top = (side - box.width) // 2, (side - box.height) // 2
    inside = Image.fromarray(rgb[box.y : box.bottom, box.x : box.right])
    square = Image.new("RGB", (side, side))
    square.paste(inside, (left, top), Image.fromarray(cell.mask))
    # Bilinear in Pillow widens its support when it shrinks (antialiased) and, unlike bicubic or Lanczos, never
    # overshoots at the edge between cell and black.
    size = (contract.input_px, contract.input_px)
    picture = np.asarray(square.resize(size, Image.Resampling.BILINEAR))
    return picture if contract.colour == "as-found" else normalised(picture)


def normalised(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a cell on black with mean and spread of its optical density moved to fixed values in each channel.

    Stain, lamp and camera differ between laboratories and from smear to smear; the structure within the cell is what
    is left. The spread is changed twofold at most, so that the noise of a flat cell does not become structure.

    Source: Reinhard et al. 2001, Color Transfer between Images, in optical density (Beer and Lambert) in place of lαβ.
    """
    cell = picture.max(axis=2) > 0
    if not cell.any():
        return picture
    density = -np.log((picture[cell].astype(np.float32) + 1.0) / 256.0)
    spread = density.std(axis=0)
    gain = np.clip(_DENSITY_SPREAD / np.maximum(spread, 1e-3), 0.5, 2.0)
    density = (density - density.mean(axis=0)) * gain + _DENSITY_MEAN
    moved = np.zeros_like(picture)
    moved[cell] = np.clip(np.exp(-density) * 256.0 - 1.0, 1, 255).astype(np.uint8)
    return moved
