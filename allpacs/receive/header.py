"""The header of an encoded data set, and whether its pixels are all there. Nothing is decoded."""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from allpacs.domain.errors import InputFault, InstanceRefused
from allpacs.inflate import inflated
from allpacs.receive.admit import CANNOT_UNDERSTAND, COUNT_TAGS, DECIDING_TAGS

_PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = 0xFFFEE000
_SEQUENCE_DELIMITATION_ITEM: Final = 0xFFFEE0DD
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF


def read_header(encoded: BinaryIO, transfer_syntax_uid: str) -> Dataset:
    """Return the elements that are looked at (`admit.DECIDING_TAGS`, `COUNT_TAGS`), having checked the length.

    Parameters
    ----------
    encoded:
        The data set as it was sent, from its first byte; not copied.
    transfer_syntax_uid:
        Of the presentation context; a deflated data set is inflated, within bounds, to be looked at.

    Raises
    ------
    InstanceRefused
        0xC000: not parsable, without pixel data, cut short within or before its pixel data, or a bomb.

    Source: PS3.5 sections 7.1 (data elements) and A.4 (encapsulated pixel data).
    """
    encoded.seek(0)
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return _checked(encoded, UID(transfer_syntax_uid))
    try:
        plain = inflated(encoded)
    except (InputFault, zlib.error) as error:
        reason = str(error) if isinstance(error, InputFault) else "data set is not deflated as its transfer syntax says"
        raise InstanceRefused(CANNOT_UNDERSTAND, reason) from None
    with plain:
        return _checked(plain, UID(ExplicitVRLittleEndian))


def _checked(encoded: BinaryIO, transfer_syntax: UID) -> Dataset:
    found: list[tuple[str | None, int]] = []

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA:
            found.append((vr, length))
        return bool(tag >= _PIXEL_DATA)

    try:
        header = read_dataset(
            encoded,
            transfer_syntax.is_implicit_VR,
            transfer_syntax.is_little_endian,
            stop_when=at_pixel_data,
            specific_tags=[int(tag) for tag in (*DECIDING_TAGS, *COUNT_TAGS.values())],
        )
    # Whatever the parser raises on bytes a stranger made up is about those bytes: it has no errors of its own.
    except Exception as error:  # noqa: BLE001
        raise InstanceRefused(CANNOT_UNDERSTAND, f"data set cannot be parsed ({type(error).__name__})") from None
    if not found:
        raise InstanceRefused(CANNOT_UNDERSTAND, "data set ends before its pixel data")
    vr, length = found[0]
    start = encoded.tell() + (8 if vr is None else 12)
    size = encoded.seek(0, os.SEEK_END)
    complete = _fragments_complete(encoded, start) if length == _UNDEFINED_LENGTH else start + length <= size
    if not complete:
        raise InstanceRefused(CANNOT_UNDERSTAND, "pixel data is cut short")
    return header


def _fragments_complete(encoded: BinaryIO, position: int) -> bool:
    """Whether the items from the position on end with a Sequence Delimitation Item (always little endian)."""
    encoded.seek(position)
    while len(head := encoded.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITATION_ITEM:
            return True
        if tag != _ITEM:
            return False
        encoded.seek(length, os.SEEK_CUR)
    return False
