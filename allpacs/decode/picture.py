"""Pictures of a microscope camera to frames: BMP, PNG, JPEG, TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from allpacs.decode.guard import as_input_fault, opened
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.image import Frame

_FORMATS = ("BMP", "PNG", "JPEG", "TIFF")
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})


def read_picture(path: Path, *, max_pixels: int = 100_000_000) -> Iterator[Frame]:
    """Yield the picture's pages as RGB, one decoded at a time; pixels as stored, no orientation tag applied.

    Spacing is None: resolution tags speak of the print or the sensor, not of the object.

    Raises
    ------
    UndecodablePixels
        Not a picture of these formats, corrupt, or more than `max_pixels` a page.
    StoreFault
        The file cannot be opened.
    """
    with _opened(path) as image:
        number = 0
        while True:
            number += 1
            with as_input_fault(f"page {number} of the picture cannot be read"):
                if image.width * image.height > max_pixels:
                    raise UndecodablePixels(
                        f"too large: {image.width} x {image.height} pixels, at most {max_pixels} are read"
                    )
                rgb = _to_rgb(image)
            yield Frame(number, rgb, None)
            with as_input_fault(f"page {number + 1} of the picture cannot be read"):
                if image.format != "TIFF":
                    return
                try:
                    image.seek(number)
                except EOFError:
                    return


def lossy_ratio(path: Path) -> float | None:
    """Return by how much a lossy format compressed the pixels (uncompressed by file size), or None where none did.

    Raises
    ------
    UndecodablePixels, StoreFault
        As `read_picture`.
    """
    with _opened(path) as image:
        lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") in _LOSSY_TIFF
        ratio = image.width * image.height * len(image.getbands()) / path.stat().st_size
    return ratio if lossy else None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with opened(path) as file:
        with as_input_fault("not a BMP, PNG, JPEG or TIFF picture"):
            image = Image.open(file, formats=_FORMATS)
        with image:
            yield image


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey, whole range
        return np.repeat((np.array(image).astype(np.uint32) >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    if image.mode in ("F", "LAB", "HSV"):
        raise UndecodablePixels(f"pictures of mode {image.mode} are not read")
    return np.array(image.convert("RGB"))
