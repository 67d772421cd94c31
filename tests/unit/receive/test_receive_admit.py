"""Admission as a pure decision on a header."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from allpacs.domain.errors import InstanceRefused
from allpacs.domain.instance import InstanceIdentity
from allpacs.receive.admit import admit
from receive_peer import MICROSCOPIC, make_instance


def decide(header: Dataset, **request: Any) -> InstanceIdentity:
    asked = {
        "sop_class_uid": MICROSCOPIC,
        "sop_instance_uid": "1.2.3.5.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    }
    return admit(header, **{**asked, **request})


def test_the_identity_is_that_of_the_header() -> None:
    assert decide(make_instance(1)) == InstanceIdentity(
        sop_instance_uid="1.2.3.5.1",
        sop_class_uid=MICROSCOPIC,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_uid="1.2.3",
        series_uid="1.2.3.4",
    )


@pytest.mark.parametrize(
    ("elements", "request_uids", "status"),
    [
        ({}, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, 0x0122),
        ({}, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}, 0xA900),
        ({}, {"sop_instance_uid": "1.2.3.5.2"}, 0xA900),
        ({"StudyInstanceUID": None}, {}, 0xC000),
        ({"StudyInstanceUID": ""}, {}, 0xC000),
        ({"SeriesInstanceUID": " "}, {}, 0xC000),
        ({"SOPClassUID": None}, {}, 0xC000),
        ({"SOPInstanceUID": None}, {}, 0xC000),
        ({"SeriesInstanceUID": ["1.2.3", "1.2.4"]}, {}, 0x0117),
        ({"StudyInstanceUID": "1." + "2" * 63}, {}, 0x0117),
        ({"Manufacturer": "allpacs", "ManufacturerModelName": "allpacs"}, {}, 0x0124),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the wrong UIDs this test makes
def test_what_is_refused(elements: dict[str, Any], request_uids: dict[str, str], status: int) -> None:
    with pytest.raises(InstanceRefused) as refused:
        decide(make_instance(1, **elements), **request_uids)
    assert f"{refused.value.status:04X}" == f"{status:04X}"
    assert "SECRET" not in refused.value.reason


def test_other_devices_of_ours_and_of_others_are_admitted() -> None:
    decide(make_instance(1, Manufacturer="allpacs", ManufacturerModelName="allpacs import"))
    decide(make_instance(1, Manufacturer="other", ManufacturerModelName="allpacs"))
    decide(make_instance(1, PatientID=None, PatientName=None))
