"""Preamble and File Meta Information of a DICOM file, encoded directly.

pydicom needs a third of a millisecond for them, for every received instance.

Source: PS3.10 section 7.1.
"""

from __future__ import annotations

import struct
from typing import Final

from allpacs.dicom.elements import explicit_element
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from allpacs.domain.instance import InstanceIdentity

#: File Meta Information Version (0002,0001).
_VERSION: Final = explicit_element(0x00020001, b"OB", b"\x00\x01")
#: Implementation Class UID (0002,0012) and Implementation Version Name (0002,0013).
_IMPLEMENTATION: Final = explicit_element(
    0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")
) + explicit_element(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))


def file_meta(identity: InstanceIdentity) -> bytes:
    """Return preamble, prefix and File Meta Information of a file that allpacs writes for an instance."""
    group = (
        _VERSION
        + explicit_element(0x00020002, b"UI", identity.sop_class_uid.encode("ascii"))
        + explicit_element(0x00020003, b"UI", identity.sop_instance_uid.encode("ascii"))
        + explicit_element(0x00020010, b"UI", identity.transfer_syntax_uid.encode("ascii"))
        + _IMPLEMENTATION
    )
    return b"\x00" * 128 + b"DICM" + explicit_element(0x00020000, b"UL", struct.pack("<L", len(group))) + group
