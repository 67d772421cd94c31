"""The header of an encoded data set, and whether its pixels are all there. Nothing is decoded."""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from allpacs.dicom.deflate import inflated
from allpacs.dicom.encoding import LONG_VRS, found_encoding
from allpacs.dicom.status import CANNOT_UNDERSTAND
from allpacs.domain.errors import InputFault, InstanceRefused
from allpacs.receive.admit import COUNT_TAGS, DECIDING_TAGS

_PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITATION_ITEM: Final = 0xFFFEE00D
_SEQUENCE_DELIMITATION_ITEM: Final = 0xFFFEE0DD
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
#: What is looked at: pydicom reads the Specific Character Set in any case.
_LOOKED_AT: Final = frozenset((0x00080005, *DECIDING_TAGS, *COUNT_TAGS.values()))
#: UIDs, names and numbers: a value of more is none.
_LONGEST_LOOKED_AT: Final = 1 << 16
#: Tag and length of an item, and of an element of implicit VR; of one of explicit VR tag, VR and two more bytes.
_HEAD_BYTES: Final = 8


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
        0xC000: not parsable, encoded in no form that can be told, without pixel data, cut short within or before its
        pixel data, or a bomb.

    Source: PS3.5 sections 7.1 (data elements) and A.4 (encapsulated pixel data).
    """
    encoded.seek(0)
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return _checked(encoded, transfer_syntax_uid)
    try:
        plain = inflated(encoded)
    except (InputFault, zlib.error) as error:
        reason = str(error) if isinstance(error, InputFault) else "data set is not deflated as its transfer syntax says"
        raise InstanceRefused(CANNOT_UNDERSTAND, reason) from None
    with plain:
        return _checked(plain, transfer_syntax_uid)


def _checked(encoded: BinaryIO, transfer_syntax_uid: str) -> Dataset:
    try:
        encoding = found_encoding(encoded, transfer_syntax_uid)
    except InputFault as fault:
        raise InstanceRefused(CANNOT_UNDERSTAND, f"data set cannot be parsed: {fault}") from None
    found: list[tuple[str | None, int]] = []

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag >= _PIXEL_DATA:
            if tag == _PIXEL_DATA:
                found.append((vr, length))
            return True
        if length == _UNDEFINED_LENGTH:
            # pydicom would make objects of all the items, of many times their size: it finds none.
            _pass_items(encoded, vr is None and encoding.implicit, encoding.order)
            encoded.seek(-_HEAD_BYTES, os.SEEK_CUR)
        elif length > _LONGEST_LOOKED_AT and tag in _LOOKED_AT:
            raise ValueError("a value that is too long")
        return False

    try:
        header = read_dataset(
            encoded,
            encoding.implicit,
            encoding.little,
            stop_when=at_pixel_data,
            specific_tags=[int(tag) for tag in _LOOKED_AT],
            at_top_level=not encoding.implicit,
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


def _pass_items(encoded: BinaryIO, implicit: bool, endian: str) -> None:
    """Go past the items of a value of undefined length, and the Sequence Delimitation Item that ends them.

    Items of sequences and encapsulated fragments alike (PS3.5 sections 7.5 and A.4). Whatever has a length is not
    looked into.
    """
    while True:
        group, element, length = struct.unpack(f"{endian}HHL", encoded.read(_HEAD_BYTES))
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITATION_ITEM:
            return
        if tag != _ITEM:
            raise ValueError("not an item")
        if length == _UNDEFINED_LENGTH:
            _pass_elements(encoded, implicit, endian)
        else:
            encoded.seek(length, os.SEEK_CUR)


def _pass_elements(encoded: BinaryIO, implicit: bool, endian: str) -> None:
    """Go past the elements of an item of undefined length, and the Item Delimitation Item that ends them."""
    first = True
    while True:
        head = encoded.read(_HEAD_BYTES)
        group, element, length = struct.unpack(f"{endian}HHL", head)
        if group << 16 | element == _ITEM_DELIMITATION_ITEM:
            return
        vr = head[4:6]
        explicit = not implicit and vr.isalpha() and vr.isupper()
        if first:  # as in a sequence of unknown VR (PS3.5 section 6.2.2)
            first, implicit = False, not explicit
        if explicit and vr in LONG_VRS:
            (length,) = struct.unpack(f"{endian}L", encoded.read(4))
        elif explicit:
            (length,) = struct.unpack(f"{endian}H", head[6:])
        if length == _UNDEFINED_LENGTH:
            _pass_items(encoded, implicit, endian)
        else:
            encoded.seek(length, os.SEEK_CUR)


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
