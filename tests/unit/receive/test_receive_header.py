"""Headers with sequences of every kind: read to the pixels, and nothing built of what is not looked at."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID

from allpacs.domain.errors import InstanceRefused
from allpacs.receive.header import read_header
from receive_peer import TRANSFER_SYNTAXES, encoded, make_instance

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
RLE = "1.2.840.10008.1.2.5"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

BEGIN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
END_ITEM = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
END_SEQUENCE = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
BEGIN_SEQUENCE = struct.pack("<HH2s2xL", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF)
BEGIN_UNKNOWN = struct.pack("<HH2s2xL", 0x0009, 0x1001, b"UN", 0xFFFFFFFF)


def undefined(sequence_of: Dataset, keyword: str, *items: Dataset, item_lengths: bool = False) -> None:
    """Add a sequence of undefined length; its items have none either, unless said otherwise."""
    for item in items:
        item.is_undefined_length_sequence_item = not item_lengths
    setattr(sequence_of, keyword, Sequence(items))
    sequence_of[keyword].is_undefined_length = True


def with_sequences(transfer_syntax: str, *, item_lengths: bool) -> Dataset:
    """Return an image with sequences before, between and after what is looked at, the last right before its pixels."""
    instance = make_instance(1)
    code, empty, reference, frame = Dataset(), Dataset(), Dataset(), Dataset()
    code.CodeValue = "1"
    code.LongCodeValue = "x" * 0x4142  # its length reads as a VR
    code.add_new(0x00091001, "OB", b"\xfe\xff\xdd\xe0\0\0\0\0")  # reads as an end
    undefined(reference, "PurposeOfReferenceCodeSequence", code, empty, item_lengths=item_lengths)
    undefined(instance, "ReferencedImageSequence", reference, empty, item_lengths=item_lengths)
    undefined(instance, "SpecimenDescriptionSequence")
    if transfer_syntax != BIG_ENDIAN:  # which pydicom cannot write
        icon = Dataset()
        icon.add_new(0x7FE00010, "OB", encapsulate([b"\xff\xd8icon\xff\xd9"]))
        icon["PixelData"].is_undefined_length = True
        undefined(instance, "IconImageSequence", icon, item_lengths=item_lengths)
    frame.PlanePositionSlideSequence = Sequence([code])
    undefined(instance, "PerFrameFunctionalGroupsSequence", frame, frame, item_lengths=item_lengths)
    if UID(transfer_syntax).is_encapsulated:
        instance.PixelData = encapsulate([b"\xff\xd8one\xff\xd9"])
        instance["PixelData"].is_undefined_length = True
    return instance


def before_the_patient(*parts: bytes) -> bytes:
    """Return an explicit VR image with further elements before its patient's name."""
    whole = encoded(make_instance(1))
    at = whole.index(b"\x10\x00\x10\x00PN")
    return b"".join((whole[:at], *parts, whole[at:]))


def study_of(content: bytes, transfer_syntax: str = EXPLICIT) -> str:
    header = read_header(BytesIO(content), transfer_syntax)
    assert header.SOPInstanceUID == "1.2.3.5.1"
    return str(header.StudyInstanceUID)


@pytest.mark.parametrize("item_lengths", [False, True])
@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_sequences_of_undefined_length_are_passed(transfer_syntax: str, item_lengths: bool) -> None:
    instance = with_sequences(transfer_syntax, item_lengths=item_lengths)
    assert study_of(encoded(instance, transfer_syntax), transfer_syntax) == "1.2.3"


def test_items_of_a_sequence_of_unknown_vr_are_of_implicit_vr() -> None:
    value = struct.pack("<HHL", 0x0009, 0x1002, 4) + b"abcd"
    long_value = struct.pack("<HHL", 0x0009, 0x1003, 0x4142) + bytes(0x4142)
    within = struct.pack("<HHL", 0x0009, 0x1004, 0xFFFFFFFF)
    item = BEGIN_ITEM + value + long_value + within + EMPTY_ITEM + END_SEQUENCE + END_ITEM
    assert study_of(before_the_patient(BEGIN_UNKNOWN, item, item, END_SEQUENCE)) == "1.2.3"


def test_nothing_is_built_of_a_sequence_that_is_not_looked_at() -> None:
    items = (EMPTY_ITEM + BEGIN_ITEM + BEGIN_SEQUENCE + EMPTY_ITEM + END_SEQUENCE + END_ITEM) * 10_000
    content = before_the_patient(BEGIN_SEQUENCE, items, END_SEQUENCE)
    tracemalloc.start()
    try:
        assert study_of(content) == "1.2.3"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(content) + 500_000


@pytest.mark.parametrize(
    "parts",
    [
        (BEGIN_SEQUENCE, EMPTY_ITEM),  # without an end
        (BEGIN_SEQUENCE, BEGIN_ITEM, END_SEQUENCE),
        (BEGIN_SEQUENCE, struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFF00)),
        (BEGIN_SEQUENCE, b"no item."),
        (BEGIN_SEQUENCE + BEGIN_ITEM,) * 3000,
    ],
)
def test_sequences_that_do_not_end_are_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(InstanceRefused) as refused:
        study_of(before_the_patient(*parts))
    assert refused.value.status == 0xC000


def test_a_name_of_megabytes_is_not_read() -> None:
    manufacturer = struct.pack("<HH2s2xL", 0x0008, 0x0070, b"UT", 1_000_000) + bytes(1_000_000)
    with pytest.raises(InstanceRefused) as refused:
        study_of(before_the_patient(manufacturer))
    assert refused.value.status == 0xC000


@pytest.mark.parametrize("stated", TRANSFER_SYNTAXES)
@pytest.mark.parametrize("actual", [EXPLICIT, IMPLICIT])
def test_a_data_set_is_read_as_it_is_encoded(stated: str, actual: str) -> None:
    """Pydicom before 2.3 wrote implicit VR under explicit and compressed transfer syntaxes."""
    content = encoded(make_instance(1), actual)
    if UID(stated).is_deflated:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = packer.compress(content) + packer.flush()
    assert study_of(content, stated) == "1.2.3"


@pytest.mark.parametrize("item_lengths", [False, True])
@pytest.mark.parametrize("stated", [EXPLICIT, RLE])
def test_sequences_of_implicit_vr_under_another_syntax(stated: str, item_lengths: bool) -> None:
    content = encoded(with_sequences(IMPLICIT, item_lengths=item_lengths), IMPLICIT)
    assert study_of(content, stated) == "1.2.3"


@pytest.mark.parametrize("stated", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_what_is_encoded_in_no_form_is_refused(stated: str) -> None:
    content = encoded(make_instance(1))
    with pytest.raises(InstanceRefused, match="neither explicit nor implicit VR") as refused:
        study_of(content[:4] + b"\x01\x02\x03\x7f" + content[8:], stated)
    assert refused.value.status == 0xC000


def test_pixels_cut_short_are_told_in_the_other_form_too() -> None:
    with pytest.raises(InstanceRefused, match="cut short"):
        study_of(encoded(make_instance(1), IMPLICIT)[:-2], EXPLICIT)
