"""Headers in little memory say in every report what whole ones say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from allpacs.decode.part10 import readable
from allpacs.domain.errors import InputFault
from allpacs.domain.findings import StudyFindings
from allpacs.report.headers import OF_EACH, check_one_patient, gathered
from allpacs.report.source import lead_header
from allpacs.study.results import results
from conformance.support.report_samples import CONTEXT, many_cells


def as_read(header: Dataset, *, undefined_length: bool = False) -> Dataset:
    """Return the header as it comes from a file: elements not yet decoded, but sequences of undefined length."""
    for element in header:
        element.is_undefined_length = undefined_length and element.VR == "SQ"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, header)
    buffer.seek(0)
    return read_dataset(buffer, is_implicit_VR=False, is_little_endian=True)


def gathered_study(
    changes: dict[int, dict[str, object]], *, undefined_length: bool = False
) -> tuple[StudyFindings, dict[str, Dataset], dict[str, Dataset]]:
    findings, made = many_cells(6)
    for number, header in enumerate(made.values()):
        for keyword, value in changes.get(number, {}).items():
            setattr(header, keyword, value)
    headers = {uid: as_read(header, undefined_length=undefined_length) for uid, header in made.items()}
    again = {uid: as_read(header, undefined_length=undefined_length) for uid, header in made.items()}
    lead = findings.instances[0].sop_instance_uid
    return findings, headers, gathered(again.items(), lead, readable)


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {3: {"ContainerIdentifier": "another"}},
        {2: {"SpecificCharacterSet": "ISO_IR 192"}, 4: {"SpecimenDescriptionSequence": []}},
        {5: {"InstanceNumber": 77}, 0: {"PatientName": "Doe^Jane", "StudyID": "7"}},
    ],
)
def test_reports_are_the_same_byte_for_byte(changes: dict[int, dict[str, object]], undefined_length: bool) -> None:
    findings, whole, little = gathered_study(changes, undefined_length=undefined_length)
    context = replace(CONTEXT, annotations_above=1000)
    assert list(results(findings, little, context)) == list(results(findings, whole, context))


def test_the_lead_is_whole_and_the_others_share_what_they_have_in_common() -> None:
    findings, whole, little = gathered_study(
        {1: {"InstanceNumber": 1}, 2: {"InstanceNumber": 2}, 3: {"ContainerIdentifier": "another"}}
    )
    assert lead_header(findings, little) == lead_header(findings, whole)
    lead, first, second, other = (little[one.sop_instance_uid] for one in findings.instances[:4])
    assert len(lead) > len(first)
    assert {element.keyword for element in first} <= set(OF_EACH)
    specimens, container = Tag("SpecimenDescriptionSequence"), Tag("ContainerIdentifier")
    assert first.get_item(specimens) is second.get_item(specimens) is other.get_item(specimens)
    assert first.get_item(container) is second.get_item(container)
    assert other.ContainerIdentifier == "another"
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


def test_what_cannot_be_read_is_left_out() -> None:
    header = Dataset()
    header.InstanceNumber = 1
    broken = as_read(header)
    raw = broken.get_item("InstanceNumber")
    broken._dict[Tag("InstanceNumber")] = raw._replace(VR="FL", value=b"abc")  # type: ignore[union-attr]
    assert len(gathered([("1.2", broken)], "1.1", readable)["1.2"]) == 0


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({3: {"PatientID": "P-18"}}, "Patient ID"),
        ({0: {"PatientID": "P-18"}}, "Patient ID"),
        ({2: {"PatientID": "P-18", "IssuerOfPatientID": "ELSEWHERE"}}, "Patient ID"),
        ({4: {"IssuerOfPatientID": "ELSEWHERE"}}, "Issuer of Patient ID"),
    ],
)
def test_two_patients_in_a_study_are_told_without_naming_them(
    changes: dict[int, dict[str, object]], differs: str
) -> None:
    _, _, little = gathered_study(changes)
    with pytest.raises(InputFault, match=f"name different patients .{differs} differs") as told:
        check_one_patient(little.values())
    assert not any(value in str(told.value) for value in ("P-17", "P-18", "HOSP", "ELSEWHERE"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {3: {"PatientID": " P-17 "}, 4: {"IssuerOfPatientID": "HOSP "}},
        {0: {"PatientID": ""}, 1: {"PatientID": "", "IssuerOfPatientID": "ELSEWHERE"}},
        {2: {"IssuerOfPatientID": ""}, 5: {"PatientName": "Other^Spelling"}},
    ],
)
def test_what_an_instance_does_not_say_makes_no_other_patient(changes: dict[int, dict[str, object]]) -> None:
    _, _, little = gathered_study(changes)
    check_one_patient(little.values())
    check_one_patient([*little.values(), Dataset()])  # of a file that cannot be read any more
