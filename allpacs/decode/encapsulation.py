"""Where each frame of encapsulated Pixel Data lies in its file (PS3.5 A.4)."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO

from pydicom import Dataset

from allpacs.domain.errors import UndecodablePixels

#: End of a JPEG, JPEG-LS or JPEG 2000 codestream; a byte of padding may follow, some encoders write more.
_END_OF_IMAGE = b"\xff\xd9"
_TAIL_BYTES = 10


class EncapsulatedFrames:
    """The fragments of every frame; each frame is read from the file when it is asked for.

    The walk over all items, once, checks that each lies within the file. Which fragments are a frame's is then told by
    the Extended Offset Table, the Basic Offset Table or, where there is none or what it says is not so, by the counts
    (as many fragments as frames) or the ends of the codestreams.

    Parameters
    ----------
    stream:
        At the value of the Pixel Data element.
    header:
        With the Extended Offset Table, if there is one.
    frames:
        As Number of Frames states it.

    Raises
    ------
    UndecodablePixels
        The items are cut off or broken, or cannot be shared out among so many frames.
    """

    def __init__(self, stream: BinaryIO, header: Dataset, frames: int) -> None:
        self._stream = stream
        basic, self._starts, self._lengths = _walk(stream)
        if len(self._starts) < frames:
            raise UndecodablePixels(f"{frames} frames were stated, {len(self._starts)} fragments are there")
        self._first = self._shared_out(_extended(header, frames) or _basic(basic, frames), frames)

    def __getitem__(self, index: int) -> bytes:
        """Return the encoded frame; the index counts from 0."""
        pieces = []
        for fragment in range(self._first[index], self._first[index + 1]):
            self._stream.seek(self._starts[fragment])
            pieces.append(self._stream.read(self._lengths[fragment]))
        return b"".join(pieces)

    def _shared_out(self, offsets: Sequence[int], frames: int) -> Sequence[int]:
        """Return the first fragment of each frame, and one past the last fragment of all."""
        count = len(self._starts)
        if offsets:
            # Offsets count from the first byte of the first fragment's item tag, 8 bytes before its value.
            base = self._starts[0] - 8
            by_place = {start - 8 - base: fragment for fragment, start in enumerate(self._starts)}
            first = [by_place.get(offset, -1) for offset in offsets]
            if first[0] == 0 and all(one < other for one, other in pairwise(first)):
                return array("q", [*first, count])
        if count == frames:
            return range(count + 1)
        if frames == 1:
            return [0, count]
        ends = [fragment + 1 for fragment in range(count) if self._ends_here(fragment)]
        if len(ends) < frames:
            raise UndecodablePixels(f"{count} fragments cannot be shared out among {frames} frames")
        return array("q", [0, *ends[:frames]])

    def _ends_here(self, fragment: int) -> bool:
        length = self._lengths[fragment]
        tail = min(length, _TAIL_BYTES)
        self._stream.seek(self._starts[fragment] + length - tail)
        return _END_OF_IMAGE in self._stream.read(tail)


def _walk(stream: BinaryIO) -> tuple[bytes, array[int], array[int]]:
    """Return the Basic Offset Table's bytes, and the places and lengths of all fragments."""
    start = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    basic: bytes | None = None
    starts, lengths = array("q"), array("q")
    while len(item := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        here = stream.tell()
        if (group, element) != (0xFFFE, 0xE000) or length > end - here:
            items = len(starts) + (basic is not None)
            raise UndecodablePixels(f"the encapsulated Pixel Data is cut off or broken after {items} items")
        if basic is None:
            basic = stream.read(length)
        else:
            starts.append(here)
            lengths.append(length)
            stream.seek(length, os.SEEK_CUR)
    return basic or b"", starts, lengths


def _basic(table: bytes, frames: int) -> Sequence[int]:
    return array("q", struct.unpack(f"<{frames}L", table)) if len(table) == 4 * frames else ()


def _extended(header: Dataset, frames: int) -> Sequence[int]:
    table = header.get("ExtendedOffsetTable")
    if not isinstance(table, bytes) or len(table) != 8 * frames:
        return ()
    offsets = struct.unpack(f"<{frames}Q", table)
    return array("q", offsets) if max(offsets) < 1 << 63 else ()
