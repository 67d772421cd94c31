"""Whatever bytes a stranger sends: an identity, or one named refusal."""

from __future__ import annotations

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from allpacs.domain.errors import InstanceRefused
from allpacs.domain.instance import InstanceIdentity
from allpacs.receive.admit import admit
from allpacs.receive.header import read_header

TRANSFER_SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"),
    "1.2.840.10008.1.2.1.99",
)


def _whole() -> bytes:
    data_set = Dataset()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data_set.SOPInstanceUID = "1.2.3.4"
    data_set.PatientName = "A^B"
    item = Dataset()
    item.CodeValue = "1"
    data_set.SpecimenDescriptionSequence = [item, item]
    data_set["SpecimenDescriptionSequence"].is_undefined_length = True
    data_set.StudyInstanceUID = "1.2.3"
    data_set.SeriesInstanceUID = "1.2.5"
    data_set.add_new(0x7FE00010, "OB", bytes(range(64)))
    return encode(data_set, False, True) or b""


WHOLE = _whole()


def receive(content: bytes, transfer_syntax_uid: str) -> InstanceIdentity:
    return admit(
        read_header(BytesIO(content), transfer_syntax_uid),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid=transfer_syntax_uid,
    )


@given(st.binary(max_size=400), st.sampled_from(TRANSFER_SYNTAXES))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_are_refused(content: bytes, transfer_syntax_uid: str) -> None:
    with pytest.raises(InstanceRefused):
        receive(content, transfer_syntax_uid)


@given(st.data(), st.sampled_from(TRANSFER_SYNTAXES))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_instance_is_an_identity_or_a_refusal(data: st.DataObject, transfer_syntax_uid: str) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InstanceRefused):  # and nothing else
        assert receive(bytes(content), transfer_syntax_uid).sop_instance_uid == "1.2.3.4"


@given(st.integers(0, len(WHOLE) - 1))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_instance_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(InstanceRefused) as refused:
        receive(WHOLE[:length], "1.2.840.10008.1.2.1")
    assert refused.value.status == 0xC000
    assert receive(WHOLE, "1.2.840.10008.1.2.1").study_uid == "1.2.3"
