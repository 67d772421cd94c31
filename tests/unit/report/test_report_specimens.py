"""Specimens: named in every report, and never counted together."""

from __future__ import annotations

import json
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from allpacs.domain.findings import CellLabel, StudyFindings
from allpacs.report.fhir import fhir_bundle
from allpacs.report.hl7v2 import oru_message
from allpacs.report.html import html_page
from allpacs.report.inputs import FormatInputs, format_inputs
from allpacs.report.sr import structured_report
from conformance.judges import own_bundle, own_sr
from conformance.support.report_samples import CONTEXT, SERIES, cell, header, inputs_after, instance, study

MARROW = ("119359002", "Bone marrow specimen")
BLOOD = ("119297000", "Blood specimen")


def specimen(identifier: str, uid: str, kind: tuple[str, str]) -> list[Dataset]:
    item = Dataset()
    item.SpecimenIdentifier, item.SpecimenUID = identifier, uid
    code = Dataset()
    code.CodeValue, code.CodeMeaning = kind
    code.CodingSchemeDesignator = "SCT"
    item.SpecimenTypeCodeSequence = [code]
    return [item]


def two_specimens(second: str = "SP-2", uid: str = "1.2.9.2") -> tuple[StudyFindings, dict[str, Dataset]]:
    """Return three lymphoblasts of a marrow and one hematogone of a blood, in one study."""
    marrow = [cell(f"{SERIES}.1", n, label=CellLabel.ALL, probability_all=0.9) for n in (1, 2, 3)]
    blood = [cell(f"{SERIES}.2", 1, label=CellLabel.HEM, probability_all=0.1)]
    headers = {
        f"{SERIES}.1": header(1, SpecimenDescriptionSequence=specimen("SP-1", "1.2.9.1", MARROW)),
        f"{SERIES}.2": header(
            2, SpecimenDescriptionSequence=specimen(second, uid, BLOOD), ContainerIdentifier="SLIDE-2"
        ),
    }
    return study([instance(1, marrow), instance(2, blood)]), headers


def inputs(second: str = "SP-2", uid: str = "1.2.9.2") -> FormatInputs:
    return inputs_after("2.25.1", *two_specimens(second, uid), CONTEXT)


def walk(item: Dataset) -> list[Dataset]:
    return [found for child in item.get("ContentSequence", []) for found in (child, *walk(child))]


def named(item: Dataset, value: str) -> list[Dataset]:
    return [
        child
        for child in item.get("ContentSequence", [])
        if "ConceptNameCodeSequence" in child and child.ConceptNameCodeSequence[0].CodeValue == value
    ]


def test_each_specimen_has_its_own_counts_and_fraction() -> None:
    marrow, blood = inputs().parts
    assert (marrow.name, blood.name) == ("Bone marrow specimen SP-1", "Blood specimen SP-2")
    assert (marrow.findings.counts.all, marrow.findings.counts.hem) == (3, 0)
    assert marrow.findings.fraction is not None
    assert blood.findings.fraction is not None
    assert (marrow.findings.fraction.value, blood.findings.fraction.value) == (1.0, 0.0)


def test_the_structured_report_counts_them_apart_and_says_of_which_each_cell_is() -> None:
    findings, headers = two_specimens()
    report = pydicom.dcmread(BytesIO(structured_report(format_inputs(findings, headers, CONTEXT)).content))
    derived = named(report, "126011")
    stated = {
        named(one, "121039")[0].UID: float(named(one, "FRACTION")[0].MeasuredValueSequence[0].NumericValue)
        for one in derived
    }
    assert stated == {"1.2.9.1": 1.0, "1.2.9.2": 0.0}
    groups = named(named(report, "126010")[0], "125007")
    assert [named(group, "121041")[0].TextValue for group in groups] == ["SP-1"] * 3 + ["SP-2"]
    assert own_sr.faults(report, list(headers.values())) == []
    (summary,) = [one.TextValue for one in walk(report) if one in named(named(report, "C0034375")[0], "121111")]
    assert summary.startswith("Bone marrow specimen SP-1: 3 white cells found")
    assert "Blood specimen SP-2: 1 white cell found" in summary


def test_one_specimen_is_the_subject_of_the_whole_report() -> None:
    findings = study([instance(1, [cell(f"{SERIES}.1", 1, label=CellLabel.ALL, probability_all=0.9)])])
    source = header(1, SpecimenDescriptionSequence=specimen("SP-1", "1.2.9.1", MARROW))
    inputs = format_inputs(findings, {source.SOPInstanceUID: source}, CONTEXT)
    report = pydicom.dcmread(BytesIO(structured_report(inputs).content))
    assert [one.UID for one in named(report, "121039")] == ["1.2.9.1"]
    assert named(report, "121024")[0].ConceptCodeSequence[0].CodeValue == "121027"
    assert [one.TextValue for one in named(report, "111700")] == ["SLIDE-1"]
    (group,) = named(named(report, "126010")[0], "125007")
    assert named(group, "121039") == []


def test_the_ehr_gets_a_panel_for_each_specimen() -> None:
    bundle = json.loads(fhir_bundle(inputs()).content)
    assert own_bundle.faults(bundle, "2.25.1") == []
    observations = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation"]
    panels = {one["specimen"]["identifier"]["value"]: one for one in observations if "hasMember" in one}
    assert {uid: len(panel["hasMember"]) for uid, panel in panels.items()} == {
        "urn:oid:1.2.9.1": 3,
        "urn:oid:1.2.9.2": 1,
    }
    (report,) = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport"]
    assert len(report["result"]) == len(report["specimen"]) == 2


def test_the_message_has_a_group_for_each_specimen() -> None:
    segments = [line.split("|") for line in oru_message(inputs()).content.decode().split("\r")]
    assert [one[2] for one in segments if one[0] == "SPM"] == ["^SP-1&&1.2.9.1&ISO", "^SP-2&&1.2.9.2&ISO"]
    fractions = [one[5] for one in segments if one[0] == "OBX" and one[3].startswith("FRACTION")]
    assert fractions == ["100.0", "0.0"]


def test_the_page_states_no_common_fraction() -> None:
    findings, headers = two_specimens()
    page = html_page(format_inputs(findings, headers, CONTEXT))
    assert "Bone marrow specimen SP-1" in page
    assert "75.0" not in page


def test_two_specimens_of_one_identifier_are_told_and_kept_apart() -> None:
    same = inputs(second="SP-1")
    assert [part.name for part in same.parts] == [
        "Bone marrow specimen SP-1",
        "Blood specimen SP-1",
    ]
    assert same.contradictions == (
        "The images name 2 different specimens with the identifier SP-1: their cells are counted apart.",
    )
    stained = inputs(second="SP-1", uid="1.2.9.1").parts
    assert len(stained) == 2, "one UID, but marrow and blood"


def test_images_without_a_specimen_are_a_part_of_their_own() -> None:
    findings, headers = two_specimens()
    headers[f"{SERIES}.2"] = header(2, SpecimenDescriptionSequence=None)
    parts = format_inputs(findings, headers, CONTEXT).parts
    assert [part.name for part in parts] == ["Bone marrow specimen SP-1", "Specimen not stated"]
