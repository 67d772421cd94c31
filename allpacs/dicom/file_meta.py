"""Preamble and File Meta Information of a DICOM file, encoded directly.

pydicom needs a third of a millisecond for them, for every received instance.

Source: PS3.10 section 7.1, PS3.5 section 7.1.2.
"""

from __future__ import annotations

import struct
from typing import Final

from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from allpacs.domain.instance import InstanceIdentity

#: File Meta Information Version (0002,0001).
_VERSION: Final = struct.pack("<HH2s2xL2s", 2, 1, b"OB", 2, b"\x00\x01")


def file_meta(identity: InstanceIdentity) -> bytes:
    """Return preamble, prefix and File Meta Information of a file that allpacs writes for an instance."""
    group = (
        _VERSION
        + _element(0x0002, b"UI", identity.sop_class_uid)
        + _element(0x0003, b"UI", identity.sop_instance_uid)
        + _element(0x0010, b"UI", identity.transfer_syntax_uid)
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
    )
    return b"\x00" * 128 + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group


def _element(element: int, vr: bytes, text: str) -> bytes:
    """Return an element of group 0002: explicit VR little endian, of even length (PS3.5 section 7.1.2)."""
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
