"""Elements of a source header. Any may be missing, empty, corrupt or of the wrong type: reading one never raises."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

#: What pydicom raises if an element of a header is corrupt.
CORRUPT = (
    *(ValueError, TypeError, LookupError, NotImplementedError, AttributeError, OSError, EOFError),
    *(struct.error, BytesLengthException),
)


def text(header: Dataset, keyword: str) -> str:
    """Return an element as one line of clean text; empty where it is missing or cannot be read."""
    value = _value(header, keyword)
    if isinstance(value, MultiValue):
        value = "\\".join(str(part) for part in value)
    return "" if value is None or isinstance(value, Sequence | bytes) else clean(str(value))


def clean(value: str) -> str:
    """Return the text on one line without control characters or surrounding spaces."""
    spaced = (" " if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp", "Cn"} else char for char in value)
    return " ".join("".join(spaced).split())


def items(header: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence; none where it is missing or not a sequence."""
    value = _value(header, keyword)
    if isinstance(value, Sequence):
        yield from value


def coded_concepts(header: Dataset, keyword: str) -> Iterator[Code]:
    """Yield the complete codes (value, scheme and meaning) of a code sequence."""
    for item in items(header, keyword):
        parts = [text(item, part) for part in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(parts) and len(parts[2]) <= 64:
            yield Code(*parts)


def _value(header: Dataset, keyword: str) -> object:
    try:
        return header.get(keyword)
    except CORRUPT:
        return None


def encoded(element: DataElement, encodings: list[str]) -> bytes:
    """Return one element as it is written in Explicit VR Little Endian; raises one of `CORRUPT` where it cannot be."""
    alone, buffer = Dataset(), DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    alone.add(element)
    write_dataset(buffer, alone, encodings)
    return buffer.getvalue()
