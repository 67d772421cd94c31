"""The HL7 v2 message: valid by a library that did not write it, and saying what the other reports say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom import Dataset

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import NotAssessable
from allpacs.domain.review import Review, Reviewer
from allpacs.report.hl7v2 import oru_message
from allpacs.study.signing import signed_results
from conformance.support.report_samples import (
    CONTEXT,
    PRIOR,
    SERIES,
    cell,
    header,
    inputs_after,
    instance,
    study,
    usual_headers,
    usual_study,
)

SR_UID = "2.25.4711"


def made(**changes: object) -> Artefact:
    headers = usual_headers()
    if changes:
        headers = {uid: header(number, **changes) for number, uid in enumerate(headers, start=1)}
    return oru_message(inputs_after(SR_UID, usual_study(), headers, CONTEXT))


def read(artefact: Artefact) -> hl7.Message:
    return hl7.parse(artefact.content.decode())


def field(message: hl7.Message, segment: str, number: int) -> str:
    return str(message.segment(segment)[number])


def signed() -> Artefact:
    reviewer = Reviewer("Haddad^Layla", "Taleb Hospital", "lh^1")
    review = Review(reviewer, datetime(2026, 3, 5, 9, 30, tzinfo=UTC), comment="Smudged | thick.\nRepeat.")
    results = signed_results(usual_study(), usual_headers(), replace(CONTEXT, predecessor=PRIOR), review)
    return next(one for one in results if one.kind is ArtefactKind.HL7V2)


@pytest.mark.parametrize("artefact", [made(), made(PatientName="A^B^C^D^E", AccessionNumber=None), signed()])
def test_valid_by_hl7apy(artefact: Artefact) -> None:
    message = parse_message(artefact.content.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    assert message.validate()


def test_says_who_and_what() -> None:
    message = read(made())
    assert field(message, "MSH", 9) == "ORU^R01^ORU_R01"
    assert field(message, "MSH", 18) == "UNICODE UTF-8"
    assert field(message, "PID", 3) == "P-17^^^HOSP^MR"
    assert field(message, "PID", 5) == "Müller^Änne"
    assert (field(message, "PID", 7), field(message, "PID", 8)) == ("20190304", "F")
    assert (field(message, "OBR", 3), field(message, "OBR", 18), field(message, "OBR", 25)) == ("ACC-9", "ACC-9", "P")
    assert field(message, "OBR", 7) == "20260303101112"
    assert field(message, "NTE", 3).startswith("Research use only.")


def qualifiers(universal_id: str, kind: str | None) -> list[Dataset]:
    one = Dataset()
    one.UniversalEntityID = universal_id
    if kind is not None:
        one.UniversalEntityIDType = kind
    return [one]


@pytest.mark.parametrize(
    ("issuer", "universal_id", "kind", "expected"),
    [
        ("HOSP", "1.2.3.4.5", "ISO", "HOSP&1.2.3.4.5&ISO"),
        (None, "1.2.3.4.5", "ISO", "&1.2.3.4.5&ISO"),
        ("HOSP", "1.2.3.4.5", None, "HOSP&1.2.3.4.5&ISO"),
        ("HOSP", "hosp.example", "DNS", "HOSP&hosp.example&DNS"),
        ("HOSP", "unknown scheme", None, "HOSP"),  # an ID without its type is no universal one
        ("1.2.3.4.5", None, None, "&1.2.3.4.5&ISO"),
        ("A&B", "1.2.3", "ISO", "A\\T\\B&1.2.3&ISO"),
        (None, None, None, ""),
    ],
)
def test_who_issued_the_patient_id_is_a_name_space_and_a_universal_id(
    issuer: str | None, universal_id: str | None, kind: str | None, expected: str
) -> None:
    changes: dict[str, object] = {"IssuerOfPatientID": issuer}
    if universal_id is not None:
        changes["IssuerOfPatientIDQualifiersSequence"] = qualifiers(universal_id, kind)
    artefact = made(**changes)
    pid = next(line for line in artefact.content.decode().split("\r") if line.startswith("PID"))
    assert pid.split("|")[3] == f"P-17^^^{expected}^MR"
    assert parse_message(artefact.content.decode(), validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_a_patient_without_an_identifier_gets_none() -> None:
    message = read(made(PatientID=None, PatientName=None))
    assert field(message, "PID", 3) == field(message, "PID", 5) == ""


def test_states_the_numbers_of_the_findings() -> None:
    values = {str(one[3]).split("^")[0]: str(one[5]) for one in read(made()).segments("OBX")}
    assert "2 lymphoblasts, 1 hematogone" in values.pop("121111")
    assert values == {
        "CELLS": "10",
        "N_LYMPHOBLAST": "2",
        "N_HEMATOGONE": "1",
        "N_NOT_ASSESSABLE": "7",
        "FRACTION": "66.7",
        "CI95": "^45.7^-^85.7",
        "110180": f"^{usual_study().study_uid}^ISO",
        "SR_UID": f"^{SR_UID}^ISO",
    }
    assert {str(one[11]) for one in read(made()).segments("OBX")} == {"P"}


def test_no_fraction_of_no_cells() -> None:
    findings = study([instance(1, [cell(f"{SERIES}.1", 1, reason=NotAssessable.BLURRED)])])
    codes = [
        str(one[3])
        for one in read(oru_message(inputs_after(SR_UID, findings, usual_headers(), CONTEXT))).segments("OBX")
    ]
    assert not any(code.startswith(("FRACTION", "CI95")) for code in codes)


def test_signed_is_final_and_names_the_person() -> None:
    message = read(signed())
    assert field(message, "OBR", 25) == "F"
    assert {str(one[11]) for one in message.segments("OBX")} == {"F"}
    assert field(message, "OBR", 32) == "lh\\S\\1&Haddad&Layla"
    assert "signed by a person" in field(message, "NTE", 3)
    (said,) = [str(one[5]) for one in message.segments("OBX") if str(one[3]).startswith("121106")]
    assert said.endswith("~Smudged \\F\\ thick. Repeat.")


def test_same_report_same_message_and_another_one_another() -> None:
    assert made() == made()
    assert field(read(made()), "MSH", 10) != field(read(signed()), "MSH", 10)
    assert len(field(read(made()), "MSH", 10)) == 20


@pytest.mark.parametrize("name", ["A|B^C~D&E", "back\\slash^x", "line\rMSH|^~\\&|X"])
def test_delimiters_in_a_name_do_not_break_the_message(name: str) -> None:
    # DICOM forbids some of these; a header may hold them all the same.
    content = made(PatientName=name).content.decode()
    assert [line[:3] for line in content.split("\r")[:4]] == ["MSH", "PID", "ORC", "OBR"]
    assert len(content.split("\r")[1].split("|")) == 9


def test_a_sex_that_is_none_does_not_add_fields() -> None:
    assert len(made(PatientSex="F||||||||||ACCT").content.decode().split("\r")[1].split("|")) == 9


def test_the_disease_is_never_named() -> None:
    assert b"leuk" not in made().content.lower()


def test_each_result_says_when_by_whom_with_what_and_where() -> None:
    """OBX-14, 16, 17, 18, 19 and 23 (HL7 v2.5.1 7.4.2)."""
    line = next(one for one in signed().content.decode().split("\r") if one.startswith("OBX|2|")).split("|")
    assert line[14] == "20260303101112", "when the images were acquired"
    assert line[16] == "lh\\S\\1^Haddad^Layla"
    assert line[17].startswith("CLASSIFICATION^cnmc-b3 1.0.0^")
    assert line[18] == f"cnmc-b3^^{usual_study().model.device_uid}^ISO"
    assert line[19] == "20260304150607+0330", "when they were analysed"
    assert line[23] == "Taleb Hospital"


def test_the_message_links_to_the_viewer_and_holds_the_pages_if_asked() -> None:
    inputs = inputs_after(
        SR_UID, usual_study(), usual_headers(), replace(CONTEXT, viewer_url="https://v.example/?s={study}")
    )
    message = oru_message(inputs).content.decode()
    (link,) = [one.split("|")[5] for one in message.split("\r") if one.startswith("OBX") and "|RP|" in one]
    assert link == f"https://v.example/?s={usual_study().study_uid}^ALLPACS^AP^HTML"
    assert "|ED|" not in message


def test_a_visit_is_named_where_the_images_name_it() -> None:
    assert "PV1" not in made().content.decode()
    visit = next(one for one in made(AdmissionID="V-1").content.decode().split("\r") if one.startswith("PV1"))
    assert visit.split("|")[2] == "U"
    assert visit.split("|")[19] == "V-1"
