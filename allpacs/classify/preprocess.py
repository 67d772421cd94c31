"""A found cell → the square picture that the network sees. Pure: numpy and Pillow only.

Training and serving both call `prepare`, so a model never sees a cell in another way than it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from allpacs.domain.errors import ModelFault
from allpacs.domain.image import COARSEST_UM, FINEST_UM, Cell

#: The methods that this code knows, by their names in ``bundle.json``; a bundle made for another one is refused.
#: ``FILLED``: the cell's longer side fills the crop, so its size is lost (bundles up to 0.2).
#: ``FIXED_SCALE``: the crop shows a fixed field of view, so the network sees how large the cell is (decision 0023).
FILLED = "segmented-to-black-square"
FIXED_SCALE = "segmented-to-black-fixed-scale"

#: Width of a lymphoblast in a smear, about: 10 to 18 µm (J. M. Bennett et al. 1976, the FAB classification, L1 and L2).
LYMPHOBLAST_UM = 14.0

#: What `normalised` moves the optical density of red, green and blue to: about the middle of C-NMC's and PBC's cells.
_DENSITY_MEAN = np.array([1.0, 1.6, 0.8], np.float32)
_DENSITY_SPREAD = np.array([0.45, 0.6, 0.4], np.float32)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a cell becomes a crop; part of a bundle's contract.

    Attributes
    ----------
    input_px:
        Side of the square crop.
    margin:
        `FILLED` only: black margin on each side of the cell, as a share of its longer side.
    colour:
        ``as-found``, or ``normalised``: see `normalised`.
    field_um:
        `FIXED_SCALE`: side of the field of view that the crop shows, 8 to 60 µm. None: the method is `FILLED`.
    """

    input_px: int = 128
    margin: float = 0.06
    colour: Literal["as-found", "normalised"] = "as-found"
    field_um: float | None = None

    def __post_init__(self) -> None:
        if not 16 <= self.input_px <= 1024 or not 0.0 <= self.margin <= 1.0:
            raise ModelFault(f"preprocessing out of range: input_px {self.input_px}, margin {self.margin}")
        if self.colour not in {"as-found", "normalised"}:
            raise ModelFault(f"preprocessing colour is as-found or normalised, not {self.colour!r}")
        if self.field_um is not None and not 8.0 <= self.field_um <= 60.0:
            raise ModelFault(f"preprocessing out of range: field_um {self.field_um}; write 8 to 60 micrometres")

    @property
    def needs_scale(self) -> bool:
        """Whether a cell can be prepared only if its pixel size is known."""
        return self.field_um is not None

    @property
    def spacing_um(self) -> float:
        """Pixel size, in µm, that an image should have: coarser pixels are enlarged, finer ones are shrunk."""
        if self.field_um is not None:
            return self.field_um / self.input_px
        return LYMPHOBLAST_UM * (1 + 2 * self.margin) / self.input_px

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as it stands in ``bundle.json``."""
        if self.field_um is not None:
            written = {"method": FIXED_SCALE, "input_px": self.input_px, "field_um": self.field_um}
        else:
            written = {"method": FILLED, "input_px": self.input_px, "margin": self.margin}
        return written if self.colour == "as-found" else written | {"colour": self.colour}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Preprocessing:
        """Return the contract that a ``bundle.json`` states.

        Raises
        ------
        ModelFault
            Unknown method, unknown or missing keys, or a value that is not a number.
        """
        method = written.get("method")
        if method not in {FILLED, FIXED_SCALE}:
            raise ModelFault(
                f"preprocessing method {method!r} is unknown to this version (known: {FILLED}, {FIXED_SCALE}): "
                "update allpacs, or use another model"
            )
        own = "field_um" if method == FIXED_SCALE else "margin"
        if set(written) - {"colour"} != {"method", "input_px", own}:
            raise ModelFault(f"preprocessing must name method, input_px and {own} (colour), not {sorted(written)}")
        try:
            return cls(
                input_px=int(written["input_px"]),
                colour=written.get("colour", "as-found"),
                **{own: float(written[own])},
            )
        except (TypeError, ValueError) as fault:
            raise ModelFault(f"preprocessing input_px and {own} must be numbers") from fault


def prepare(
    rgb: NDArray[np.uint8], cell: Cell, contract: Preprocessing, spacing_um: float | None = None
) -> NDArray[np.uint8]:
    """Return the cell alone on black, in the middle of a square crop.

    Everything outside the mask becomes black, as in C-NMC. With a fixed field of view the crop keeps the cell's size:
    a cell that is larger than the field is cut at the crop's edge. Otherwise the longer side of the cell's box fills
    the same share of every crop.

    Parameters
    ----------
    rgb:
        ``uint8`` frame of shape (rows, columns, 3) in which the cell was found.
    cell:
        Its box lies within the frame.
    spacing_um:
        Pixel size of the frame, µm; needed for a fixed field of view (`Preprocessing.needs_scale`).

    Returns
    -------
    ``uint8`` array of shape (input_px, input_px, 3).

    Raises
    ------
    ValueError
        The contract needs the pixel size and there is none, or it lies outside `FINEST_UM` to `COARSEST_UM`.

    Source: C-NMC 2019 (cells segmented to black), paper section IV step 2.
    """
    box = cell.box
    inside = Image.fromarray(rgb[box.y : box.bottom, box.x : box.right])
    mask = Image.fromarray(cell.mask)
    size = (contract.input_px, contract.input_px)
    # Bilinear in Pillow widens its support when it shrinks (antialiased) and, unlike bicubic or Lanczos, never
    # overshoots at the edge between cell and black.
    if contract.field_um is None:
        side = max(box.width, box.height)
        side += 2 * math.ceil(side * contract.margin)
        square = Image.new("RGB", (side, side))
        square.paste(inside, ((side - box.width) // 2, (side - box.height) // 2), mask)
        crop = np.asarray(square.resize(size, Image.Resampling.BILINEAR))
    else:
        if spacing_um is None or not FINEST_UM <= spacing_um <= COARSEST_UM:
            raise ValueError(f"pixel size {spacing_um} µm: a fixed field of view needs {FINEST_UM} to {COARSEST_UM}")
        field_px = contract.field_um / spacing_um
        side = max(math.ceil(field_px), box.width, box.height) + 2
        square = Image.new("RGB", (side, side))
        left, top = (side - box.width) // 2, (side - box.height) // 2
        square.paste(inside, (left, top), mask)
        x, y = left + box.width / 2 - field_px / 2, top + box.height / 2 - field_px / 2
        x, y = (min(max(corner, 0.0), side - field_px) for corner in (x, y))
        crop = np.asarray(square.resize(size, Image.Resampling.BILINEAR, (x, y, x + field_px, y + field_px)))
    return crop if contract.colour == "as-found" else normalised(crop)


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
