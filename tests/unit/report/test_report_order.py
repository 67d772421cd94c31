"""The orders that images name: read whole, each once, and carried into every report."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from allpacs.report.fhir import fhir_bundle
from allpacs.report.hl7v2 import oru_message
from allpacs.report.inputs import format_inputs
from allpacs.report.order import Authority, Order, contradictions, read_orders
from allpacs.report.sr import structured_report
from conformance.support.report_samples import CONTEXT, SERIES, header, inputs_after, instance, study


def issuer(namespace: str, universal_id: str = "", kind: str = "") -> list[Dataset]:
    item = Dataset()
    item.LocalNamespaceEntityID = namespace
    if universal_id:
        item.UniversalEntityID, item.UniversalEntityIDType = universal_id, kind
    return [item]


def request(accession: str | None, procedure: str, **more: object) -> Dataset:
    item = Dataset()
    item.AccessionNumber = accession
    item.RequestedProcedureID = procedure
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "SMEAR", "99HOSP", "Marrow smear"
    item.RequestedProcedureCodeSequence = [code]
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


#: The IHE group case: the study level names no accession number, because the images answer two requests.
GROUP = header(
    1,
    AccessionNumber="",
    RequestAttributesSequence=[
        request("A-1", "RP-1", IssuerOfAccessionNumberSequence=issuer("LAB", "1.2.36.7", "ISO")),
        request("A-2", "RP-2", PlacerOrderNumberImagingServiceRequest="P-66"),
    ],
)
#: One order, its numbers at the study level and in its item.
SINGLE = header(
    1,
    AccessionNumber="A-1",
    IssuerOfAccessionNumberSequence=issuer("LAB"),
    PlacerOrderNumberImagingServiceRequest="P-66",
    OrderPlacerIdentifierSequence=issuer("CPOE", "1.2.36.8", "ISO"),
    FillerOrderNumberImagingServiceRequest="F-77",
    RequestAttributesSequence=[request(None, "RP-1", RequestedProcedureDescription="Smear")],
)


def test_one_order_is_read_from_the_study_level_and_its_item_together() -> None:
    (order,) = read_orders([SINGLE, SINGLE])
    assert order == Order(
        accession="A-1",
        accession_issuer=Authority("LAB"),
        placer="P-66",
        placer_issuer=Authority("CPOE", "1.2.36.8", "ISO"),
        filler="F-77",
        procedure_id="RP-1",
        procedure="Smear",
        procedure_codes=(Code("SMEAR", "99HOSP", "Marrow smear"),),
    )


def test_the_group_case_is_several_orders() -> None:
    first, second = read_orders([GROUP])
    assert (first.accession, first.accession_issuer.universal_id, first.procedure_id) == ("A-1", "1.2.36.7", "RP-1")
    assert (second.accession, second.placer, second.procedure_id) == ("A-2", "P-66", "RP-2")
    assert contradictions([GROUP]) == []


def test_images_of_other_orders_add_theirs() -> None:
    other = header(2, AccessionNumber="A-9")
    assert [order.accession for order in read_orders([SINGLE, other, SINGLE])] == ["A-1", "A-9"]


def test_contradicting_accession_numbers_are_both_kept_and_told() -> None:
    odd = header(1, AccessionNumber="A-9", RequestAttributesSequence=[request("A-1", "RP-1")])
    assert [order.accession for order in read_orders([odd])] == ["A-1", "A-9"]
    (line,) = contradictions([odd])
    assert "A-1" not in line and "A-9" not in line  # noqa: PT018
    inputs = format_inputs(study([instance(1)]), {odd.SOPInstanceUID: odd}, CONTEXT)
    report = pydicom.dcmread(BytesIO(structured_report(inputs).content))
    assert line in [item.TextValue for item in walk(report) if item.get("ValueType") == "TEXT"]
    assert line in message(odd)
    assert line in json.dumps(bundle(odd))


@pytest.mark.parametrize(
    ("study", "item", "kept", "name"),
    [
        (
            {"AccessionNumber": "", "PlacerOrderNumberImagingServiceRequest": "P-S"},
            request("", "RP-1", PlacerOrderNumberImagingServiceRequest="P-R"),
            [("", "P-R"), ("", "P-S")],
            "placer order number",
        ),
        (
            {"AccessionNumber": "A", "IssuerOfAccessionNumberSequence": issuer("X", "1.2.3", "ISO")},
            request("A", "RP-1", IssuerOfAccessionNumberSequence=issuer("Y", "1.2.4", "ISO")),
            [("A", ""), ("A", "")],
            "accession number",
        ),
    ],
)
def test_other_numbers_and_issuers_contradict_too(
    study: dict[str, object], item: Dataset, kept: list[tuple[str, str]], name: str
) -> None:
    odd = header(1, RequestAttributesSequence=[item], **study)
    assert [(order.accession, order.placer) for order in read_orders([odd])] == kept
    (line,) = contradictions([odd])
    assert name in line


def test_images_with_different_accession_numbers_are_told() -> None:
    headers = [header(1, AccessionNumber="A-1"), header(2, AccessionNumber="A-2"), header(3, AccessionNumber="A-1")]
    assert [order.accession for order in read_orders(headers)] == ["A-1", "A-2"]
    assert contradictions(headers) == ["The images name different accession numbers: the report names all of them."]


def test_an_image_that_names_two_known_numbers_makes_them_one_order() -> None:
    placer = "PlacerOrderNumberImagingServiceRequest"
    headers = [
        header(1, AccessionNumber="A"),
        header(2, AccessionNumber="", **{placer: "P"}),
        header(3, AccessionNumber="A", **{placer: "P"}),
    ]
    (order,) = read_orders(headers)
    assert (order.accession, order.placer) == ("A", "P")


@pytest.mark.parametrize(
    "changes",
    [
        {"RequestAttributesSequence": [Dataset()]},
        {},
        {"RequestAttributesSequence": [request("", "")]},
    ],
)
def test_an_item_that_names_nothing_is_no_order(changes: dict[str, object]) -> None:
    assert [order.accession for order in read_orders([header(1, AccessionNumber="A-1", **changes)])] == ["A-1"]
    assert read_orders([header(1, AccessionNumber="", **changes)]) == ()


def walk(item: Dataset) -> list[Dataset]:
    return [found for child in item.get("ContentSequence", []) for found in (child, *walk(child))]


def bundle(source: Dataset) -> dict[str, Any]:
    inputs = inputs_after("2.25.1", study([instance(1)]), {source.SOPInstanceUID: source}, CONTEXT)
    made: dict[str, Any] = json.loads(fhir_bundle(inputs).content)
    return made


def message(source: Dataset) -> str:
    inputs = inputs_after("2.25.1", study([instance(1)]), {source.SOPInstanceUID: source}, CONTEXT)
    return oru_message(inputs).content.decode()


def test_the_structured_report_has_an_item_for_each_order() -> None:
    inputs = format_inputs(study([instance(1)]), {GROUP.SOPInstanceUID: GROUP}, CONTEXT)
    report = pydicom.dcmread(BytesIO(structured_report(inputs).content))
    first, second = report.ReferencedRequestSequence
    assert (first.AccessionNumber, second.AccessionNumber) == ("A-1", "A-2")
    assert first.IssuerOfAccessionNumberSequence[0].UniversalEntityID == "1.2.36.7"
    assert second.PlacerOrderNumberImagingServiceRequest == "P-66"
    assert [one.RequestedProcedureCodeSequence[0].CodeValue for one in (first, second)] == ["SMEAR", "SMEAR"]
    assert first.PlacerOrderNumberImagingServiceRequest in ("", None)
    assert first.StudyInstanceUID == report.StudyInstanceUID


def test_the_fhir_report_is_based_on_each_order_with_all_its_identifiers() -> None:
    resources = [entry["resource"] for entry in bundle(SINGLE)["entry"]]
    (report,) = [one for one in resources if one["resourceType"] == "DiagnosticReport"]
    (reference,) = report["basedOn"]
    (ordered,) = report["contained"]
    assert reference["reference"] == "#" + ordered["id"]
    kinds = {one["type"]["coding"][0]["code"]: one for one in ordered["identifier"]}
    assert {kind: one["value"] for kind, one in kinds.items()} == {"ACSN": "A-1", "PLAC": "P-66", "FILL": "F-77"}
    assert kinds["PLAC"]["system"] == "urn:oid:1.2.36.8"
    assert kinds["ACSN"]["assigner"] == {"display": "LAB"}
    assert ordered["code"] == {"text": "Smear"}, "a local code has no system that FHIR knows"
    group = [entry["resource"] for entry in bundle(GROUP)["entry"]]
    panel = next(one for one in group if one["resourceType"] == "Observation")
    assert [one["identifier"]["value"] for one in panel["basedOn"]] == ["A-1", "A-2"]


def test_the_message_answers_each_order_with_its_numbers() -> None:
    segments = [line.split("|") for line in message(SINGLE).split("\r")]
    (order,) = [one for one in segments if one[0] == "ORC"]
    (request_,) = [one for one in segments if one[0] == "OBR"]
    assert order[1:4] == ["RE", "P-66^CPOE^1.2.36.8^ISO", "F-77"]
    assert (request_[2], request_[3], request_[18], request_[19]) == (order[2], "F-77", "A-1", "RP-1")
    assert request_[44] == "SMEAR^Marrow smear^99HOSP"
    group = [line.split("|") for line in message(GROUP).split("\r")]
    answered = [one for one in group if one[0] == "OBR"]
    assert [(one[1], one[2], one[3], one[18]) for one in answered] == [
        ("1", "", "A-1^LAB^1.2.36.7^ISO", "A-1"),
        ("2", "P-66", "A-2", "A-2"),
    ]
    assert len({one[10] if len(one) > 10 else "" for one in group if one[0] == "MSH"}) == 1
    assert SERIES not in message(GROUP).split("OBR")[0]
