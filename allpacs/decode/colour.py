"""Samples as decoded to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from allpacs.decode.layout import MONOCHROME, PixelLayout
from allpacs.domain.errors import UndecodablePixels

Samples = NDArray[np.integer]


def to_rgb(samples: Samples, photometric: str, layout: PixelLayout, header: Dataset) -> NDArray[np.uint8]:
    """Return the frame as RGB.

    Parameters
    ----------
    samples:
        (rows, columns) or (rows, columns, 3), of any whole-number type, unused bits cleared.
    photometric:
        Photometric Interpretation of `samples`: some decoders have already turned it into RGB.
    layout, header:
        Of the instance; the header holds the palette.

    Returns
    -------
    ``uint8`` array of shape (rows, columns, 3), 0 to 255, contiguous.

    Raises
    ------
    UndecodablePixels
        The colours cannot be worked out.

    Source: PS3.3 C.7.6.3.1.2 (Photometric Interpretation), C.7.6.3.1.5 and .6 (palette).
    """
    if photometric == "PALETTE COLOR":
        return _look_up(samples, header)
    eight = _to_eight_bits(samples, layout)
    if photometric in MONOCHROME:
        grey = 255 - eight if photometric == "MONOCHROME1" else eight
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if photometric == "RGB":
        return np.ascontiguousarray(eight)
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        # Pillow's YCbCr is JFIF's: BT.601 over the full range, which is what YBR_FULL says.
        rows, columns, _ = eight.shape
        image = Image.frombytes("YCbCr", (columns, rows), np.ascontiguousarray(eight).tobytes())
        return np.array(image.convert("RGB"))
    raise UndecodablePixels(f"{photometric} is not read in this transfer syntax")


def _to_eight_bits(samples: Samples, layout: PixelLayout) -> NDArray[np.uint8]:
    """Scale the whole range of Bits Stored to 0 … 255."""
    if samples.dtype == np.uint8 and layout.bits_stored == 8:
        return samples.astype(np.uint8, copy=False)
    levels = 1 << layout.bits_stored
    lowest = -levels // 2 if layout.signed else 0
    table = ((np.arange(levels) * 255 + (levels - 1) // 2) // (levels - 1)).astype(np.uint8)
    return table[np.clip(samples.astype(np.int32) - lowest, 0, levels - 1)]


def _look_up(indices: Samples, header: Dataset) -> NDArray[np.uint8]:
    descriptor = header.get("RedPaletteColorLookupTableDescriptor")
    if descriptor is None or len(descriptor) != 3 or "RedPaletteColorLookupTableData" not in header:
        raise UndecodablePixels("PALETTE COLOR without a plain palette")
    entries, first, bits = (int(value) for value in descriptor)
    entries = entries or 1 << 16
    if bits not in (8, 16):
        raise UndecodablePixels(f"a palette of {bits} bits is not read")
    palette = np.empty((entries, 3), dtype=np.uint8)
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        palette[:, channel] = _palette_channel(header, colour, entries, bits)
    return palette[np.clip(indices.astype(np.int32) - first, 0, entries - 1)]


def _palette_channel(header: Dataset, colour: str, entries: int, bits: int) -> NDArray[np.integer]:
    content = header.get(f"{colour}PaletteColorLookupTableData")
    if not isinstance(content, bytes) or len(content) % 2:
        raise UndecodablePixels(f"the palette has no usable {colour.lower()} channel")
    # 16-bit words in the byte order of the data set, also where two 8-bit entries share a word (PS3.5 8.1).
    words = np.frombuffer(content, dtype="<u2" if header.original_encoding[1] else ">u2")
    if len(words) >= entries:
        return words[:entries] >> (bits - 8)
    packed = words.astype("<u2").view(np.uint8)
    if bits == 8 and len(packed) >= entries:
        return packed[:entries]
    raise UndecodablePixels(f"the palette's {colour.lower()} channel is too short")
