"""Samples as decoded to 8-bit RGB."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from allpacs.decode.layout import MONOCHROME, PixelLayout
from allpacs.domain.errors import UndecodablePixels

Samples = NDArray[np.integer]


class Decoded(NamedTuple):
    """One decoded frame, before its colours are worked out.

    Attributes
    ----------
    samples:
        (rows, columns) or (rows, columns, 3), of any whole-number type.
    photometric:
        Photometric Interpretation of `samples`: some decoders have already turned it into RGB.
    bits:
        Bits of a sample as it was encoded: those allocated, or the precision that the codestream states.
    exact:
        Whether bits that are not stored ones came through as they were; a lossy decoder may overshoot instead.
    """

    samples: Samples
    photometric: str
    bits: int
    exact: bool = True


def to_rgb(decoded: Decoded, layout: PixelLayout, header: Dataset) -> NDArray[np.uint8]:
    """Return the frame as RGB.

    Parameters
    ----------
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
    photometric = decoded.photometric
    values, stored = _stored_values(decoded, layout)
    if photometric == "PALETTE COLOR":
        return _look_up(values, header)
    eight = _to_eight_bits(values, stored, layout.signed)
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


def _stored_values(decoded: Decoded, layout: PixelLayout) -> tuple[Samples, int]:
    """Return the samples without the bits that are not stored ones, and how many bits they have.

    A codestream of fewer bits than the header states counts: its samples span those. One of more bits holds whole words
    of the allocated bits, of which High Bit says where the stored ones lie.

    Source: PS3.5 8.1.1 (Pixel Data Encoding), 8.2 (what a codestream must agree with).
    """
    stored = min(layout.bits_stored, decoded.bits)
    if decoded.samples.dtype == np.uint8 and stored == 8 and not layout.signed:
        return decoded.samples, stored
    values = decoded.samples.astype(np.int32)
    lowest = -(1 << stored - 1) if layout.signed else 0
    if not decoded.exact:
        return np.clip(values, lowest, lowest + (1 << stored) - 1), stored
    if layout.high_bit < decoded.bits:
        values >>= layout.shift if decoded.bits > stored else 0
    values &= (1 << stored) - 1
    return (values ^ -lowest) + lowest, stored  # the highest bit is the sign's


def _to_eight_bits(values: Samples, stored: int, signed: bool) -> NDArray[np.uint8]:
    """Scale the whole range of the stored bits to 0 … 255."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    levels = 1 << stored
    lowest = -levels // 2 if signed else 0
    table = ((np.arange(levels) * 255 + (levels - 1) // 2) // (levels - 1)).astype(np.uint8)
    return table[values - lowest]


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
