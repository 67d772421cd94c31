"""Data elements, encoded directly.

pydicom takes a third of a millisecond for a small data set. Where one is written for every received instance, or for
every cell of a study, its elements are encoded here.

Source: PS3.5 sections 7.1.2 (explicit VR) and 7.1.3 (implicit VR), both little endian.
"""

from __future__ import annotations

import struct
from typing import Final

#: VRs whose explicit length has 32 bits, after two reserved bytes (PS3.5 table 7.1-1).
_LONG_LENGTH: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
#: Largest value of the other VRs, in bytes: lengths are even and have 16 bits.
_LARGEST_SHORT: Final = 0xFFFE


def explicit_element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return an element in Explicit VR Little Endian, padded to even length.

    Parameters
    ----------
    tag:
        Group and element number, for example ``0x00080018``.
    vr:
        Value representation, two letters.

    Raises
    ------
    ValueError
        The value is longer than the VR allows. The message has no part of the value.
    """
    value = padded(value, vr)
    return explicit_head(tag, vr, len(value)) + value


def explicit_head(tag: int, vr: bytes, length: int) -> bytes:
    """Return what comes before the value of an element in Explicit VR Little Endian.

    Parameters
    ----------
    length:
        Of the value, in bytes.

    Raises
    ------
    ValueError
        The length is more than the VR allows.
    """
    if vr in _LONG_LENGTH:
        return struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, vr, length)
    if length > _LARGEST_SHORT:
        raise ValueError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}): {length} bytes are too long for VR {vr.decode()}")
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


def implicit_element(tag: int, value: bytes) -> bytes:
    """Return an element in Implicit VR Little Endian; the value has even length already, see `padded`."""
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def padded(value: bytes, vr: bytes) -> bytes:
    """Return a value of even length (PS3.5 section 6.2): UIDs and bytes end in a zero byte, text in a space."""
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr in {b"UI", b"OB", b"UN"} else b" ")
