"""Findings, structured report and FHIR bundle state the same cells, labels and numbers, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from allpacs.domain.findings import (
    CellFinding,
    CellLabel,
    Counts,
    Fraction,
    InstanceFindings,
    ModelIdentity,
    NotAssessable,
    StudyFindings,
)
from allpacs.domain.geometry import BoxPx
from allpacs.report.context import FhirOptions, ReportContext
from allpacs.report.fhir import fhir_bundle
from allpacs.report.html import html_report
from allpacs.report.inputs import format_inputs
from allpacs.report.sr import structured_report
from conformance.support.report_samples import inputs_after

STUDY = "1.2.3.4"
CONTEXT = ReportContext(
    made_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), host_name="node", fhir=FhirOptions(cells="all")
)
probabilities = st.none() | st.floats(0, 1)
#: What a cell is said to be, by code, in either format.
SAID = {"15433008": "ALL", "HEM": "HEM"}
Cell = tuple[str, str | None, float | None]


@st.composite
def cells(draw: st.DrawFn, uid: str, frames: int) -> CellFinding:
    label = draw(st.none() | st.sampled_from(CellLabel))
    x, y = draw(st.integers(0, 60_000)), draw(st.integers(0, 60_000))
    width, height = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    points = st.tuples(st.floats(0, 60_000, width=32), st.floats(0, 60_000, width=32))
    return CellFinding(
        uid,
        draw(st.integers(1, frames)),
        0,
        BoxPx(x, y, width, height),
        tuple(draw(st.lists(points, max_size=6))),
        label,
        draw(probabilities),
        None if label else draw(st.none() | st.sampled_from(NotAssessable)),
    )


@st.composite
def studies(draw: st.DrawFn) -> StudyFindings:
    instances = []
    for number in range(draw(st.integers(0, 4))):
        uid = f"{STUDY}.1.{number + 1}"
        frames = draw(st.integers(1, 3))
        fault = draw(st.none() | st.text(min_size=1, max_size=30))
        found = [] if fault else draw(st.lists(cells(uid, frames), max_size=4))
        numbered = tuple(
            CellFinding(c.sop_instance_uid, c.frame_number, k, c.box, c.outline, c.label, c.probability_all, c.reason)
            for k, c in enumerate(found, start=1)
        )
        instances.append(InstanceFindings(uid, "1.2.840.10008.5.1.4.1.1.77.1.2", f"{STUDY}.1", frames, numbered, fault))
    every = [found for instance in instances for found in instance.cells]
    counts = Counts(
        sum(c.label is CellLabel.ALL for c in every),
        sum(c.label is CellLabel.HEM for c in every),
        sum(c.label is None for c in every),
    )
    low, value, high = sorted(draw(st.lists(st.floats(0, 1), min_size=3, max_size=3)))
    fraction = Fraction(value, low, high) if counts.assessable else None
    model = ModelIdentity(
        "bundle", "1.0", "sha256:" + "ab" * 32, draw(st.text("Net ü3", min_size=1, max_size=8).filter(str.strip))
    )
    return StudyFindings(STUDY, draw(st.integers(1, 9)), model, "sha256:cd", tuple(instances), counts, fraction)


def in_findings(findings: StudyFindings) -> list[Cell]:
    """Return each cell with the probability of its class, None if it has none."""
    return [(c.tracking_uid, str(c.label) if c.label else None, _of_class(c)) for c in findings.cells]


def _of_class(cell: CellFinding) -> float | None:
    if cell.label is None or cell.probability_all is None:
        return None
    return cell.probability_all if cell.label is CellLabel.ALL else 1 - cell.probability_all


def in_percent(cells: list[Cell]) -> list[Cell]:
    """Return the cells with their probabilities as the EHR has them: in per cent, with one decimal."""
    return [(uid, label, None if number is None else float(f"{100 * number:.1f}")) for uid, label, number in cells]


def in_structured_report(report: Dataset) -> list[Cell]:
    def children(item: Dataset, value: str) -> list[Dataset]:
        return [
            c
            for c in item.get("ContentSequence", [])
            if "ConceptNameCodeSequence" in c and c.ConceptNameCodeSequence[0].CodeValue == value
        ]

    stated = []
    for group in children(children(report, "126010")[0], "125007"):
        finding = children(group, "121071")[0].ConceptCodeSequence[0].CodeValue
        number = [float(c.MeasuredValueSequence[0].NumericValue) for c in children(group, "122157")]
        uid = children(group, "112040")[0].UID
        stated.append((str(uid), SAID.get(finding), number[0] if number else None))
    return stated


def study_numbers(report: Dataset) -> dict[str, float]:
    derived = next(c for c in report.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "126011")
    numbers = {}
    for item in derived.ContentSequence:
        for number in (item, *item.get("ContentSequence", [])):
            if number.ValueType == "NUM":
                name = number.ConceptNameCodeSequence[0].CodeValue
                numbers[name] = float(number.MeasuredValueSequence[0].NumericValue)
    return numbers


def in_bundle(bundle: Mapping[str, Any]) -> tuple[list[Cell], dict[str, float]]:
    stated = []
    numbers: dict[str, float] = {}
    for entry in bundle["entry"]:
        resource = entry["resource"]
        if resource["resourceType"] != "Observation":
            continue
        said = {c["code"]["coding"][0]["code"]: c for c in resource["component"]}
        if "CELLS" in said:
            counted = {code: c["valueQuantity"] for code, c in said.items() if "valueQuantity" in c}
            numbers |= {code: c["value"] for code, c in counted.items() if c["code"] == "{cells}"}
            if "valueQuantity" in said["FRACTION"]:
                numbers["FRACTION"] = said["FRACTION"]["valueQuantity"]["value"]
                numbers["CI95_LOW"] = said["CI95"]["valueRange"]["low"]["value"]
                numbers["CI95_HIGH"] = said["CI95"]["valueRange"]["high"]["value"]
            continue
        value = resource.get("valueCodeableConcept")
        assert (value is None) == ("dataAbsentReason" in resource)
        label = SAID[value["coding"][0]["code"]] if value else None
        probability = said["122157"]["valueQuantity"]["value"] if "122157" in said else None
        stated.append((resource["identifier"][0]["value"].removeprefix("urn:oid:"), label, probability))
    return stated, numbers


@settings(max_examples=60)
@given(studies())
def test_all_reports_state_the_same(findings: StudyFindings) -> None:
    artefact = structured_report(format_inputs(findings, {}, CONTEXT))
    report = pydicom.dcmread(BytesIO(artefact.content))
    bundle = json.loads(fhir_bundle(inputs_after(artefact.uid, findings, {}, CONTEXT)).content)
    of_bundle, numbers = in_bundle(bundle)

    of_report, shares = in_structured_report(report), ("FRACTION", "CI95_LOW", "CI95_HIGH")
    assert in_percent(of_report) == of_bundle, "the same numbers, rounded once"
    assert {
        name: float(f"{100 * number:.1f}") if name in shares else number
        for name, number in study_numbers(report).items()
    } == numbers
    for stated, found in zip(of_report, in_findings(findings), strict=True):
        assert stated[:2] == found[:2]
        assert (stated[2] is None) == (found[2] is None)
        assert stated[2] == pytest.approx(found[2], abs=1e-6)
    counts = findings.counts
    assert [numbers[name] for name in ("CELLS", "N_LYMPHOBLAST", "N_HEMATOGONE", "N_NOT_ASSESSABLE")] == [
        counts.total,
        counts.all,
        counts.hem,
        counts.not_assessable,
    ]
    if findings.fraction:
        assert numbers["FRACTION"] == pytest.approx(100 * findings.fraction.value, abs=0.051)
        assert numbers["CI95_LOW"] == pytest.approx(100 * findings.fraction.low, abs=0.051)
        assert numbers["CI95_HIGH"] == pytest.approx(100 * findings.fraction.high, abs=0.051)
    else:
        assert "FRACTION" not in numbers


lines = st.text(max_size=40)


@pytest.mark.filterwarnings("ignore:Failed to encode value:UserWarning")
@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "PatientName": lines,
            "PatientID": lines,
            "IssuerOfPatientID": lines,
            "AccessionNumber": lines,
            "StudyDescription": lines,
            "InstitutionName": lines,
            "StudyDate": st.sampled_from(["", "20260101", "2026", "not a date", "00000000", "20250229"]),
            "TimezoneOffsetFromUTC": st.sampled_from(["", "+0330", "+9999", "x"]),
            "SpecificCharacterSet": st.sampled_from(["", "ISO_IR 192", "ISO_IR 100", "ISO_IR 999"]),
        },
    )
)
def test_any_header_gives_valid_reports(values: dict[str, str]) -> None:
    """No header, however odd, stops a report; all of it can be written and read again."""
    uid = f"{STUDY}.1.1"
    header = Dataset()
    for keyword, value in values.items():
        vr = pydicom.datadict.dictionary_VR(keyword)
        header.add(pydicom.DataElement(keyword, vr, value, already_converted=vr != "PN", validation_mode=0))
    instance = InstanceFindings(uid, "1.2.840.10008.5.1.4.1.1.77.1.2", f"{STUDY}.1", 1, (), None)
    model = ModelIdentity("bundle", "1.0", "sha256:ab", "Net")
    findings = StudyFindings(STUDY, 1, model, "sha256:cd", (instance,), Counts(0, 0, 0), None)
    artefact = structured_report(format_inputs(findings, {uid: header}, CONTEXT))
    assert pydicom.dcmread(BytesIO(artefact.content)).SOPInstanceUID == artefact.uid
    bundle = json.loads(fhir_bundle(inputs_after(artefact.uid, findings, {uid: header}, CONTEXT)).content)
    assert bundle["type"] == "transaction"
    assert html_report(format_inputs(findings, {uid: header}, CONTEXT)).content.decode().endswith("</html>")


def whole_header() -> bytes:
    """Return an encoded header with the kinds of element that reports read: text, dates, numbers, sequences."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyDate, header.AccessionNumber = "20260101", "ACC-1"
    header.PatientName, header.PatientID, header.PatientWeight = "Müller^Änne", "P-1", "12.5"
    header.StudyInstanceUID, header.ContainerIdentifier = STUDY, "SLIDE"
    kind, specimen, request = Dataset(), Dataset(), Dataset()
    kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = "119359002", "SCT", "Bone marrow specimen"
    specimen.SpecimenIdentifier, specimen.SpecimenTypeCodeSequence = "SP", [kind]
    request.RequestedProcedureID = "R-1"
    header.SpecimenDescriptionSequence, header.RequestAttributesSequence = [specimen], [request]
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, header, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


HEADER = whole_header()


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_corrupt_header_gives_reports_without_what_is_corrupt(flips: list[tuple[int, int]]) -> None:
    corrupt = bytearray(HEADER)
    for place, value in flips:
        corrupt[place] = value
    try:
        header = pydicom.dcmread(BytesIO(bytes(corrupt)), force=True)
    except Exception:  # noqa: BLE001 - such a header never gets this far
        return
    uid = f"{STUDY}.1.1"
    instance = InstanceFindings(uid, "1.2.840.10008.5.1.4.1.1.77.1.2", f"{STUDY}.1", 1, (), None)
    model = ModelIdentity("bundle", "1.0", "sha256:ab", "Net")
    findings = StudyFindings(STUDY, 1, model, "sha256:cd", (instance,), Counts(0, 0, 0), None)
    artefact = structured_report(format_inputs(findings, {uid: header}, CONTEXT))
    assert pydicom.dcmread(BytesIO(artefact.content)).StudyInstanceUID == STUDY
    assert fhir_bundle(inputs_after(artefact.uid, findings, {uid: header}, CONTEXT)).content
