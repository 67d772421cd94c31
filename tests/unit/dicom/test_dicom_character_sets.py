"""Texts whose bytes are not what Specific Character Set says."""

from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from allpacs.dicom.character_sets import declared_sets, repair

_CHARACTER_SET, _NAME, _DESCRIPTION = Tag(0x00080005), Tag(0x00100010), Tag(0x00081030)
_GB = "Wang^XiaoDong=\x1b$)A王^\x1b$)A小东="
_JAPANESE = b"Yamada^Tarou=" + "山田".encode("iso2022_jp") + b"^" + "太郎".encode("iso2022_jp")
_KOREAN = b"Hong^Gildong=\x1b$)C" + "洪".encode("euc_kr") + b"^\x1b$)C" + "吉洞".encode("euc_kr")


def read(declared: str | None, tag: Tag, vr: str, value: bytes) -> str:
    elements = {tag: RawDataElement(tag, vr, len(value), value, 0, False, True)}
    if declared is not None:
        code = declared.encode()
        elements[_CHARACTER_SET] = RawDataElement(_CHARACTER_SET, "CS", len(code), code, 0, False, True)
    header = Dataset(elements)
    sets = declared_sets(header) or []
    header.set_original_encoding(False, True, convert_encodings(sets or [""]))
    repair(header, tag, sets)
    return str(header[tag].value)


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        # As declared: nothing to mend.
        ("ISO_IR 192", "王^小东".encode(), "王^小东"),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        ("ISO_IR 144", "Иванова^Анна".encode("iso8859-5"), "Иванова^Анна"),
        ("\\ISO 2022 IR 87", _JAPANESE, "Yamada^Tarou=山田^太郎"),
        ("\\ISO 2022 IR 149", _KOREAN, "Hong^Gildong=洪^吉洞"),
        # Escape sequences that stayed within the text.
        ("\\ISO 2022 IR 58", _GB.encode("gb2312"), "Wang^XiaoDong=王^小东="),
        ("ISO 2022 IR 6\\ISO 2022 IR 58", _GB.encode("gb2312"), "Wang^XiaoDong=王^小东="),
        ("ISO_IR 100", _GB.encode("gb2312"), "Wang^XiaoDong=王^小东="),
        ("GB18030", _GB.encode("gb2312"), "Wang^XiaoDong=王^小东="),
        (None, _GB.encode("gb2312"), "Wang^XiaoDong=王^小东="),
        # Escape sequences that are missing.
        ("\\ISO 2022 IR 58", "王^小东".encode("gb2312"), "王^小东"),
        # UTF-8 under another name, or none.
        ("GB18030", "王^小东".encode(), "王^小东"),
        ("ISO_IR 100", "Müller^Jörg".encode(), "Müller^Jörg"),
        ("", "王^小东".encode(), "王^小东"),
        (None, "Иванова^Анна".encode(), "Иванова^Анна"),
    ],
)  # fmt: skip
def test_names_are_read_as_they_were_written(declared: str | None, value: bytes, expected: str) -> None:
    found = read(declared, _NAME, "PN", value)
    assert found.rstrip("=") == expected.rstrip("=")
    assert "\x1b" not in found


def test_descriptions_and_implicit_vrs_are_mended_too() -> None:
    assert read("\\ISO 2022 IR 58", _DESCRIPTION, "LO", b"\x1b$)A" + "骨髓".encode("gb2312") + b" abc") == "骨髓 abc"
    assert read("GB18030", _DESCRIPTION, None, "骨髓".encode()) == "骨髓"
    assert read(None, _DESCRIPTION, "UN", "骨髓".encode()) == "骨髓"
    assert read("ISO_IR 100", _DESCRIPTION, "LO", b"a\x1b$)Zb") == "ab"  # an escape sequence that nobody knows
