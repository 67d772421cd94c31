"""The elements of a DICOM file, read one after the other as far as they are needed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from allpacs.decode.codecs import SUPPORTED_TRANSFER_SYNTAXES
from allpacs.dicom.deflate import inflated
from allpacs.dicom.encoding import HEAD_BYTES, Encoding, found_encoding, looks_like_part10, read_file_meta
from allpacs.domain.errors import InputFault, UndecodablePixels

PER_FRAME_GROUPS = 0x52009230
PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)


def data_set(file: BinaryIO) -> tuple[BinaryIO, FileMetaDataset, Encoding]:
    """Return the stream at the data set's first element, the File Meta Information and how the data set is encoded."""
    if not looks_like_part10(file.read(HEAD_BYTES)):
        raise UndecodablePixels("not a DICOM file")
    file.seek(0)
    meta = read_file_meta(file)
    stated = str(meta.get("TransferSyntaxUID") or "") or None
    if stated is not None and stated not in SUPPORTED_TRANSFER_SYNTAXES:
        raise UndecodablePixels("the transfer syntax is not one that is read")
    stream = file
    try:
        stream = inflated(file) if stated == DeflatedExplicitVRLittleEndian else file
        return stream, meta, found_encoding(stream, stated)
    except InputFault as fault:
        stream.close()
        raise UndecodablePixels(str(fault)) from None


def read_until(stream: BinaryIO, encoding: Encoding, *stops: int, tags: list[BaseTag | int] | None = None) -> Dataset:
    """Return the elements before the first of some tags, and leave the stream at it or at the end.

    Parameters
    ----------
    tags:
        Only these; all where not given.
    """
    ends = frozenset(stops)  # asked for every element
    header = read_dataset(
        stream,
        encoding.implicit,
        encoding.little,
        stop_when=lambda tag, _vr, _length: tag in ends,
        specific_tags=tags,
        # pydicom looks at the first two bytes of a length again, wherever reading goes on: they may look like a VR.
        at_top_level=not encoding.implicit,
    )
    header.set_original_encoding(encoding.implicit, encoding.little, header._character_set)
    return header


def per_frame_groups(stream: BinaryIO, header: Dataset, *, read: bool = True) -> Iterator[Dataset]:
    """Yield the items of the Per-Frame Functional Groups Sequence one by one; nothing where the stream is not at it.

    Afterwards the stream is behind the sequence.

    Parameters
    ----------
    header:
        What was read of the stream until here.
    read:
        False skips items of a stated length: one empty item comes for all of them.
    """
    implicit, little = (bool(one) for one in header.original_encoding)
    start = stream.tell()
    head = stream.read(8 if implicit else 12)
    group, element = struct.unpack("<HH" if little else ">HH", head[:4]) if len(head) > 4 else (0, 0)
    if group << 16 | element != PER_FRAME_GROUPS:
        stream.seek(start)
        return
    (length,) = struct.unpack("<L" if little else ">L", head[-4:])
    end = None if length == UNDEFINED_LENGTH else stream.tell() + length
    if end is not None and not read:
        stream.seek(end)
        yield Dataset()
        return
    while end is None or stream.tell() < end:
        item = read_sequence_item(stream, implicit, little, header._character_set)
        if item is None:
            return
        yield item


def read_until_pixels(stream: BinaryIO, encoding: Encoding, tags: list[BaseTag | int] | None = None) -> Dataset:
    """Return the header without the functional groups of single frames: a slide has those of 100,000."""
    pixels = (PIXEL_DATA, *_FLOAT_PIXEL_DATA)
    header = read_until(stream, encoding, PER_FRAME_GROUPS, *pixels, tags=tags)
    skipped = sum(1 for _ in per_frame_groups(stream, header, read=False))
    if skipped:
        rest = read_until(stream, encoding, *pixels, tags=tags)
        header.update(rest)
    return header
