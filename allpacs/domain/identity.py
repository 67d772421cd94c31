"""Identifiers: derived UIDs, AE titles.

A result's UID is derived from what it was made from, so that a retry resends the *same* object and a changed
result never reuses a UID.
"""

from __future__ import annotations

import re
import uuid

#: UUIDv5 name space of every UID that allpacs derives. Never change it: UIDs would no longer be repeatable.
NAMESPACE = uuid.UUID("6f1c6d0e-6f0b-5d0a-9d55-0a11ac5b1a57")

#: Implementation Class UID (PS3.7 D.3.3.2): identifies allpacs as an implementation on every association.
IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(NAMESPACE, 'implementation').int}"
IMPLEMENTATION_VERSION_NAME = "ALLPACS_0_1"
MANUFACTURER = "allpacs"

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def derive_uid(*parts: str) -> str:
    """Return the DICOM UID derived from the parts: ``2.25.`` and a UUIDv5 (PS3.5 section B.2).

    The same parts in the same order always give the same UID; at most 44 characters.
    """
    return f"2.25.{uuid.uuid5(NAMESPACE, chr(31).join(parts)).int}"


def comprehensive_uid(sop_instance_uid: str) -> str:
    """Return the UID that a Comprehensive 3D SR has where it is sent as a Comprehensive SR."""
    return derive_uid("comprehensive", sop_instance_uid)


def derive_uuid(*parts: str) -> str:
    """Return the UUIDv5 derived from the parts, in its usual 8-4-4-4-12 form."""
    return str(uuid.uuid5(NAMESPACE, chr(31).join(parts)))


def is_uid(text: str) -> bool:
    """Whether the text is a valid DICOM UID: digits and dots, no leading zeros, at most 64 characters (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_ae_title(text: str) -> bool:
    """Whether the text is a valid AE title: 1 to 16 characters of the default repertoire, no backslash (PS3.5 6.2)."""
    stripped = text.strip(" ")
    return 1 <= len(stripped) <= 16 and all(32 <= ord(c) < 127 and c != "\\" for c in stripped)


def workflow_id(study_uid: str, revision: int) -> str:
    """Identity of the durable workflow that reads one revision of a study."""
    return f"{study_uid}@{revision}"
