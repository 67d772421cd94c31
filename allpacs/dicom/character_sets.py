"""Texts of headers whose bytes are not what the header says of them.

Senders declare one Specific Character Set (0008,0005) and send another, or leave it out: then most often the bytes are
UTF-8. pydicom also leaves the escape sequences of some code extensions (ISO 2022 IR 58, for Chinese) within the text.

Source: PS3.5 section 6.1 and Annexes H to K, PS3.3 C.12.1.1.2, RFC 1922 (designation of GB 2312).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

_SPECIFIC_CHARACTER_SET: Final = Tag(0x00080005)
#: Value representations whose bytes Specific Character Set speaks of (PS3.5 section 6.1.2.3).
_TEXT: Final = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
#: These hold no backslash-separated values.
_ONE_VALUE: Final = frozenset({"ST", "LT", "UT"})
#: An escape sequence (ISO/IEC 2022): escape, intermediate bytes, a final byte.
_ESCAPE_BYTES: Final = re.compile(rb"\x1b[\x20-\x2f]*[\x30-\x7e]")
_ESCAPE: Final = re.compile("\x1b[\x20-\x2f]*[\x30-\x7e]")
#: Designates GB 2312 (ISO-IR 58) as G1.
_GB2312: Final = b"\x1b$)A"
#: Declarations under which bytes that are valid UTF-8 are UTF-8: the text would make no sense otherwise.
_MAYBE_UTF8: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6", "ISO_IR 100", "ISO 2022 IR 100", "GB18030", "GBK"})


def read_text(value: bytes, declared: Sequence[str]) -> str | None:
    """Return a text whose bytes are not in the declared character set as a reader needs it.

    Parameters
    ----------
    declared:
        Values of Specific Character Set; empty if there is none.

    Returns
    -------
    None if the declaration can be trusted.
    """
    if _GB2312 in value and not any(
        escape != _GB2312 and escape[1:2] == b"$" for escape in _ESCAPE_BYTES.findall(value)
    ):
        return _ESCAPE_BYTES.sub(b"", value).decode("gb18030", "replace")
    if value.isascii() or b"\x1b" in value:
        return None
    if all(name in _MAYBE_UTF8 for name in declared):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass
    if any(name == "ISO 2022 IR 58" for name in declared[1:]):  # the escape sequences are missing
        try:
            return value.decode("gb18030")
        except UnicodeDecodeError:
            pass
    return None


def repair(header: Dataset, tag: BaseTag, declared: Sequence[str]) -> None:
    """Convert one element of a header, with the text that its bytes hold; other elements are left as they are.

    Parameters
    ----------
    declared:
        Values of Specific Character Set in force for this data set.

    Raises
    ------
    Exception
        Anything that pydicom raises for a value that cannot be converted.
    """
    raw: Any = header.get_item(tag)  # raw or converted, whatever its annotation says
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        vr = raw.VR if raw.VR not in (None, "UN") else _vr_of(tag)
        text = read_text(raw.value, declared) if vr in _TEXT else None
        if text is not None:
            text = text.rstrip("\0 ")
            header[tag] = DataElement(tag, vr, text if vr in _ONE_VALUE else text.split("\\"))
            return
    element = header[tag]
    if element.VR in _TEXT and "\x1b" in str(element.value):
        values = [_ESCAPE.sub("", str(value)) for value in (element.value if element.VM > 1 else [element.value])]
        header[tag] = DataElement(tag, element.VR, values)


def declared_sets(header: Dataset) -> list[str] | None:
    """Return the values of Specific Character Set, or None if this data set does not state it."""
    raw: Any = header.get_item(_SPECIFIC_CHARACTER_SET)
    if raw is None:
        return None
    value = raw.value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").split("\\")
    names = [value] if isinstance(value, str) else list(value or [])
    return [str(name).strip("\0 ") for name in names]


def _vr_of(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
