"""Headers of stored objects, read behind a guard: one bad object never breaks a list.

The sender decides what a header holds: sequences nested hundreds deep, millions of items, values that are not what
their VR says, gigabytes behind a deflated data set. Elements are walked over without recursion; sequences are decoded
only up to a size and a depth, and what cannot be read is left out.

Source: PS3.5 sections 7.1 (data elements) and 7.5 (nesting), PS3.10 section 7.1.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from allpacs.decode.elements import PER_FRAME_GROUPS
from allpacs.decode.guard import as_input_fault, opened
from allpacs.dicom.character_sets import declared_sets, repair
from allpacs.dicom.encoding import HEAD_BYTES, LONG_VRS, is_vr, looks_like_part10, pass_preamble
from allpacs.domain.errors import UndecodablePixels

#: Nesting of sequences that is read; DICOM's own objects have fewer than ten levels.
MOST_DEPTH: Final = 16
#: Largest value, largest sequence, and all that is read of one header, bytes.
_VALUE_BYTES, _SEQUENCE_BYTES, _HEADER_BYTES = 1 << 16, 1 << 22, 1 << 24
#: Items of a header that are decoded, and that are walked over.
_DECODED_ITEMS, _PASSED_ITEMS = 20_000, 200_000

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXELS: Final = 0x7FE00000
_TRANSFER_SYNTAX: Final = 0x00020010


def read_guarded(path: Path, keywords: Collection[str] | None = None) -> Dataset:
    """Return a header without its pixels, without functional groups of single frames, and without what is unreadable.

    Parameters
    ----------
    keywords:
        Only these attributes; None for all.

    Raises
    ------
    UndecodablePixels
        The file is not DICOM, or its elements cannot be told apart.
    StoreDamaged
        The file cannot be opened.
    """
    tags = None if keywords is None else {int(Tag(keyword)) for keyword in (*keywords, "SpecificCharacterSet")}
    with opened(path) as file, as_input_fault("the header cannot be read"):
        syntax = _pass_file_meta(file)
        stream: BinaryIO = file
        if syntax == DeflatedExplicitVRLittleEndian:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            stream = io.BytesIO(inflater.decompress(file.read(_HEADER_BYTES), _HEADER_BYTES))
        little = syntax != ExplicitVRBigEndian
        elements, implicit = _raw_elements(stream, "<" if little else ">", tags)
        header = Dataset({**elements})
        declared = declared_sets(header) or []
        with suppress(LookupError, ValueError):
            header.set_original_encoding(implicit, little, convert_encodings(declared or [""]))
        _clean(header, declared, 0)
    header.file_meta = FileMetaDataset()
    if syntax:
        header.file_meta.TransferSyntaxUID = UID(syntax)
    return header


def _pass_file_meta(file: BinaryIO) -> str:
    """Move to the data set's first element, and return the transfer syntax UID, or an empty text."""
    if not looks_like_part10(file.read(HEAD_BYTES)):
        raise UndecodablePixels("not a DICOM file")
    file.seek(0)
    pass_preamble(file)
    syntax = ""
    while True:
        start = file.tell()
        found = _next(file, "<", implicit=False)
        if found is None or found[0] >> 16 != 2:
            file.seek(start)
            return syntax
        tag, _, length = found
        value = file.read(min(length, _VALUE_BYTES))
        if tag == _TRANSFER_SYNTAX:
            syntax = value.decode("ascii", "replace").strip("\0 ")


def _raw_elements(stream: BinaryIO, order: str, tags: set[int] | None) -> tuple[dict[BaseTag, RawDataElement], bool]:
    """Return the elements before the pixels, none of them converted, and whether their VRs are implicit.

    Whether VRs are stated is told by the first element: some senders write the other form than they declare.
    """
    first = stream.read(6)
    stream.seek(-len(first), os.SEEK_CUR)
    implicit = not is_vr(first[4:6])
    found: dict[BaseTag, RawDataElement] = {}
    bytes_left, items = _HEADER_BYTES, _Items()
    while (element := _next(stream, order, implicit)) is not None:
        tag, vr, length = element
        if tag >= _PIXELS:
            break
        start = stream.tell()
        if length == _UNDEFINED:
            try:
                items.pass_over(stream, order, implicit)
            except (ValueError, struct.error):
                break  # where the next element begins is not known
            size = stream.tell() - 8 - start
        else:
            stream.seek(length, os.SEEK_CUR)
            size = length
        after = stream.tell()
        is_sequence = length == _UNDEFINED or vr in (b"SQ", b"UN") or implicit
        wanted = (tags is None or tag in tags) and tag != PER_FRAME_GROUPS
        if wanted and size <= min(bytes_left, _SEQUENCE_BYTES if is_sequence else _VALUE_BYTES):
            stream.seek(start)
            value = stream.read(size)
            stream.seek(after)
            if (
                is_sequence
                and value.count(b"\xfe\xff\x00\xe0" if order == "<" else b"\xff\xfe\xe0\x00") > _DECODED_ITEMS
            ):
                continue
            bytes_left -= size
            name = "SQ" if length == _UNDEFINED else None if vr is None else vr.decode("ascii")
            # An unknown VR of undefined length holds items of implicit VR (PS3.5 section 6.2.2).
            inner = implicit or (length == _UNDEFINED and vr == b"UN")
            found[Tag(tag)] = RawDataElement(Tag(tag), name, size, value, start, inner, order == "<")
    return found, implicit


def _next(stream: BinaryIO, order: str, implicit: bool) -> tuple[int, bytes | None, int] | None:
    """Read the head of an element: tag, VR if it is stated, length; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, number, length = struct.unpack(f"{order}HHL", head)
    tag = group << 16 | number
    if implicit or not is_vr(head[4:6]):
        return tag, None, length
    vr = head[4:6]
    if vr in LONG_VRS:
        rest = stream.read(4)
        if len(rest) < 4:
            return None
        return tag, vr, struct.unpack(f"{order}L", rest)[0]
    return tag, vr, struct.unpack(f"{order}H", head[6:])[0]


class _Items:
    """Walks over values of undefined length, and counts their items."""

    def __init__(self) -> None:
        self._passed = 0

    def pass_over(self, stream: BinaryIO, order: str, implicit: bool) -> None:
        """Move behind the Sequence Delimitation Item that ends the value.

        Raises
        ------
        ValueError, struct.error
            The items are not well formed, or there are too many of them.
        """
        # What is open: a sequence (None), or an item with the form of its elements (None until its first one tells).
        open_items: list[tuple[bool, bool | None]] = [(False, None)]
        while open_items:
            in_item, item_implicit = open_items[-1]
            if not in_item:
                group, number, length = struct.unpack(f"{order}HHL", stream.read(8))
                tag = group << 16 | number
                if tag == _SEQUENCE_END:
                    open_items.pop()
                    continue
                self._passed += 1
                if tag != _ITEM or self._passed > _PASSED_ITEMS:
                    raise ValueError("not an item, or too many")
                if length == _UNDEFINED:
                    open_items.append((True, implicit or None))
                else:
                    stream.seek(length, os.SEEK_CUR)
                continue
            if item_implicit is None:
                head = stream.read(6)
                stream.seek(-len(head), os.SEEK_CUR)
                item_implicit = not is_vr(head[4:6])
                open_items[-1] = (True, item_implicit)
            element = _next(stream, order, item_implicit)
            if element is None:
                raise ValueError("an item is cut short")
            tag, _, length = element
            if tag == _ITEM_END:
                open_items.pop()
            elif length == _UNDEFINED:
                open_items.append((False, None))
            else:
                stream.seek(length, os.SEEK_CUR)


def _clean(level: Dataset, declared: Sequence[str], depth: int) -> None:
    """Convert every element, and leave out those that cannot be read or lie too deep."""
    own = declared_sets(level)
    declared = declared if own is None else own
    for tag in list(level.keys()):
        try:
            repair(level, tag, declared)
            element = level[tag]
            if element.VR == "SQ":
                if depth >= MOST_DEPTH:
                    raise ValueError("too deep")
                for item in _items(element.value):
                    _clean(item, declared, depth + 1)
        except Exception:  # noqa: BLE001 - a value's conversion raises anything; the rest of the header is still good
            del level[tag]


def _items(value: object) -> Iterator[Dataset]:
    if not isinstance(value, Sequence):
        raise TypeError("not a sequence")
    for item in value:
        if not isinstance(item, Dataset):
            raise TypeError("not an item")
        yield item
