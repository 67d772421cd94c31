"""How a data set is encoded, whatever its transfer syntax says.

pydicom before 2.3, and other writers, wrote data sets in implicit VR under an explicit transfer syntax, or the other
way round. Read by the transfer syntax alone, such a file loses elements or has its pixels shifted by four bytes. So
the first element decides, here for every part of allpacs that reads a data set.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from allpacs.domain.errors import InputFault

#: Value representations with a length of four bytes (PS3.5 section 7.1.2).
LONG_VRS: Final = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
#: First bytes of a file that suffice for `looks_like_part10`.
HEAD_BYTES: Final = 144

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
#: No first element of a data set (group length, character set, image type, a UID) is longer.
_LONGEST_FIRST: Final = 1 << 14


class Encoding(NamedTuple):
    """How the elements of a data set are encoded.

    Attributes
    ----------
    transfer_syntax:
        UID as stated: it decides how frames are encoded.
    implicit:
        Implicit VR, whatever the transfer syntax says.
    little:
        Little endian.
    """

    transfer_syntax: str
    implicit: bool
    little: bool

    @property
    def native_syntax(self) -> str:
        """UID of the transfer syntax that uncompressed pixels of this encoding have."""
        if self.implicit:
            return str(ImplicitVRLittleEndian)
        return str(ExplicitVRLittleEndian if self.little else ExplicitVRBigEndian)

    @property
    def order(self) -> str:
        """Byte order as the `struct` module names it."""
        return "<" if self.little else ">"


def looks_like_part10(head: bytes) -> bool:
    """Return whether the first `HEAD_BYTES` bytes are those of a DICOM file, with a preamble or without.

    Without a preamble, the file starts with File Meta Information or with a known element of group 0008, in a form that
    no other file is likely to start with.

    Source: PS3.10 section 7.1.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    if head[:2] == b"\x02\x00":
        return is_vr(head[4:6])
    for order, group in (("<", b"\x08\x00"), (">", b"\x00\x08")):
        if head[:2] == group:
            (element,) = struct.unpack(f"{order}H", head[2:4])
            length, _ = _lengths(head, order)
            usual = 0 <= length <= _LONGEST_FIRST and (element or length == 4)
            return bool(usual and (element == 0 or dictionary_has_tag(0x00080000 | element)))
    return False


def is_part10(path: Path) -> bool:
    """Return whether a file starts as a DICOM file does; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return looks_like_part10(file.read(HEAD_BYTES))
    except OSError:
        return False


def pass_preamble(file: BinaryIO) -> None:
    """Move a file that is at its beginning to its first element, behind preamble and prefix if it has them."""
    file.seek(132 if file.read(132)[128:] == b"DICM" else 0)


def read_file_meta(file: BinaryIO) -> FileMetaDataset:
    """Return the File Meta Information of a file that is at its beginning; leave it at the data set's first element.

    Source: PS3.10 section 7.1: it is always explicit VR little endian.
    """
    pass_preamble(file)
    return FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2))


def found_encoding(stream: BinaryIO, transfer_syntax: str | None) -> Encoding:
    """Return how the data set that begins here is encoded; leave the stream where it is.

    Parameters
    ----------
    stream:
        At the first element; plain, where the transfer syntax is a deflated one.
    transfer_syntax:
        UID as stated; None where nothing states it, which makes it that of uncompressed pixels.

    Raises
    ------
    InputFault
        The first element fits no encoding.

    Source: PS3.5 sections 7.1.2 (explicit VR), 7.1.3 (implicit VR), 7.3 (byte order).
    """
    start = stream.tell()
    head = stream.read(12)
    left = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    if len(head) < 8:
        raise InputFault("the data set is empty or cut off within its first element")
    # A data set starts with a small group number (0008): read in the wrong byte order it is a large one.
    (as_little,), (as_big,) = struct.unpack("<H", head[:2]), struct.unpack(">H", head[:2])
    little = as_little < as_big or (as_little == as_big and transfer_syntax != ExplicitVRBigEndian)
    length, explicit = _lengths(head, "<" if little else ">")
    fits = length == _UNDEFINED_LENGTH or length <= left - 8
    if not fits or not (explicit or little):
        raise InputFault("its first element fits neither explicit nor implicit VR: send the file as it was written")
    found = Encoding("", not explicit, little)
    return found._replace(transfer_syntax=str(transfer_syntax or found.native_syntax))


def _lengths(head: bytes, order: str) -> tuple[int, bool]:
    """Return the first element's length, and whether it has an explicit VR."""
    if not is_vr(head[4:6]):
        return struct.unpack(f"{order}L", head[4:8])[0], False
    if head[4:6] in LONG_VRS:
        return (struct.unpack(f"{order}L", head[8:12])[0] if len(head) >= 12 else -1), True
    return struct.unpack(f"{order}H", head[6:8])[0], True


def is_vr(two: bytes) -> bool:
    """Return whether two bytes may be a VR: as the length of a first element they would be more than 16,000."""
    return len(two) == 2 and all(0x41 <= letter <= 0x5A for letter in two)
