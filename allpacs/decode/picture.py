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
#: TIFF tag and its bits: a reduced-resolution version of another page; a transparency mask.
_NEW_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4
_NEARLY_BLACK = 16.0
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})


def read_picture(path: Path, *, max_pixels: int = 100_000_000) -> Iterator[Frame]:
    """Yield the picture's pages as RGB, one decoded at a time; pixels as stored, no orientation tag applied.

    Pages of a TIFF that are reduced copies of another page, or masks, are left out, as are the thumbnail, label and
    overview of a scanned slide (they are marked so). Transparent pixels become white, or black where they hide black:
    a cell that was cut out. Spacing is None: resolution tags speak of the print or the sensor, not of the object.

    Source: TIFF 6.0, NewSubfileType.

    Raises
    ------
    UndecodablePixels
        Not a picture of these formats, corrupt, or more than `max_pixels` a page.
    StoreFault
        The file cannot be opened.
    """
    with _opened(path) as image:
        page = number = 0
        while True:
            page += 1
            if page > 1 and _is_copy(image):
                with as_input_fault(f"page {page + 1} of the picture cannot be read"):
                    try:
                        image.seek(page)
                    except EOFError:
                        return
                continue
            number += 1
            with as_input_fault(f"page {page} of the picture cannot be read"):
                if image.width * image.height > max_pixels:
                    raise UndecodablePixels(
                        f"too large: {image.width} x {image.height} pixels, at most {max_pixels} are read"
                    )
                rgb = _to_rgb(image)
            yield Frame(number, rgb, None)
            with as_input_fault(f"page {page + 1} of the picture cannot be read"):
                if image.format != "TIFF":
                    return
                try:
                    image.seek(page)
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


def _is_copy(image: Image.Image) -> bool:
    """Whether a page of a TIFF shows another page at reduced resolution, or is a mask."""
    tags = getattr(image, "tag_v2", {})
    kind = tags.get(_NEW_SUBFILE_TYPE, 0)
    return isinstance(kind, int) and bool(kind & (_REDUCED | _MASK))


def _composited(image: Image.Image) -> Image.Image:
    """Return an image with alpha on black where transparent pixels hide black, else on white."""
    pixels = np.asarray(image.convert("RGBA"))
    hidden = pixels[..., 3] == 0
    black = hidden.any() and float(pixels[hidden][:, :3].mean()) < _NEARLY_BLACK
    ground = Image.new("RGBA", image.size, (0, 0, 0, 255) if black else (255, 255, 255, 255))
    return Image.alpha_composite(ground, Image.fromarray(pixels)).convert("RGB")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey, whole range
        return np.repeat((np.array(image).astype(np.uint32) >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    if image.mode in ("F", "LAB", "HSV"):
        raise UndecodablePixels(f"pictures of mode {image.mode} are not read")
    if image.has_transparency_data:
        image = _composited(image)
    return np.array(image.convert("RGB"))
