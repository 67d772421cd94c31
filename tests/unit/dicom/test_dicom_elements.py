"""Elements that are encoded directly are the bytes that pydicom writes."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from allpacs.dicom.elements import explicit_element, explicit_head, implicit_element, padded


def by_pydicom(keyword: str, value: object, *, implicit: bool) -> bytes:
    written, buffer = Dataset(), DicomBytesIO()
    setattr(written, keyword, value)
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, written)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "encoded"),
    [
        ("SOPInstanceUID", b"UI", "1.2.3", b"1.2.3"),
        ("SOPInstanceUID", b"UI", "1.2.34", b"1.2.34"),
        ("CodeValue", b"SH", "odd", b"odd"),
        ("PatientName", b"PN", "even", b"even"),
        ("TextValue", b"UT", "any", b"any"),
        ("Rows", b"US", 3, b"\x03\x00"),
        ("EncapsulatedDocument", b"OB", b"%PDF-1", b"%PDF-1"),
    ],
)
def test_an_element_is_what_pydicom_writes(keyword: str, vr: bytes, value: object, encoded: bytes) -> None:
    tag = int(Tag(keyword))
    assert explicit_element(tag, vr, encoded) == by_pydicom(keyword, value, implicit=False)
    assert implicit_element(tag, padded(encoded, vr)) == by_pydicom(keyword, value, implicit=True)


def test_a_value_of_odd_length_is_padded_as_its_vr_wants() -> None:
    assert padded(b"1.2", b"UI") == b"1.2\0"
    assert padded(b"abc", b"OB") == b"abc\0"
    assert padded(b"abc", b"LO") == b"abc "
    assert padded(b"", b"UI") == b""


def test_the_longest_value_of_a_short_vr() -> None:
    tag = int(Tag("GraphicData"))
    assert explicit_head(tag, b"FL", 0xFFFE)[-2:] == b"\xfe\xff"
    assert explicit_head(int(Tag("TextValue")), b"UT", 0x10000)[-4:] == b"\x00\x00\x01\x00"
    with pytest.raises(ValueError, match=r"\(0070,0022\): 65536 bytes are too long for VR FL"):
        explicit_element(tag, b"FL", b"\x00" * 0x10000)
