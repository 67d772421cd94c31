"""The FHIR bundle: valid R4, updated and never doubled, and never a patient made."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset

from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.findings import CellLabel, NotAssessable, StudyFindings
from allpacs.report import fhir, fhir_shared
from allpacs.report.context import FhirOptions, ReportContext, sr_series_uid
from allpacs.report.fhir import InvalidBundle, fhir_bundle
from allpacs.report.html import html_report
from allpacs.report.inputs import format_inputs
from conformance.support.report_samples import (
    CONTEXT,
    MADE_AT,
    MODEL,
    PRIOR,
    SERIES,
    STUDY,
    cell,
    header,
    inputs_after,
    instance,
    many_cells,
    study,
    usual_headers,
    usual_study,
)

SR_UID = "2.25.4711"
Resource = dict[str, Any]


def made(findings: StudyFindings, headers: dict[str, Dataset], context: ReportContext = CONTEXT) -> Resource:
    bundle: Resource = json.loads(fhir_bundle(inputs_after(SR_UID, findings, headers, context)).content)
    return bundle


def resources(bundle: Resource, kind: str) -> list[Resource]:
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def cells_of(bundle: Resource) -> list[Resource]:
    return [r for r in resources(bundle, "Observation") if "hasMember" not in r and len(r["component"]) < 6]


def panel_of(bundle: Resource) -> Resource:
    return next(r for r in resources(bundle, "Observation") if len(r["component"]) == 6)


def codes_of(concept: Resource) -> list[tuple[str, str]]:
    return [(coding["system"], coding["code"]) for coding in concept["coding"]]


@pytest.fixture(scope="module")
def bundle() -> Resource:
    return made(usual_study(2), usual_headers(), replace(CONTEXT, predecessor=PRIOR))


SAMPLES = {
    "usual": (usual_study(), usual_headers(), CONTEXT),
    "superseding": (usual_study(2), usual_headers(), replace(CONTEXT, predecessor=PRIOR)),
    "nothing known": (
        study([instance(1, fault="truncated")]),
        {},
        ReportContext(made_at=MADE_AT),
    ),
    "no instances": (study([]), {}, ReportContext(made_at=MADE_AT)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_valid_by_the_models_of_fhir_resources(name: str) -> None:
    bundle = made(*SAMPLES[name])
    for entry in bundle["entry"]:
        kind = entry["resource"]["resourceType"]
        model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
        model.model_validate(entry["resource"])


@pytest.mark.parametrize("name", SAMPLES)
def test_valid_r4(name: str) -> None:
    fhirkit = pytest.importorskip("fhirkit", reason="fhirkit-rs, an R4 4.0.1 validator, is not installed")
    assert fhirkit.FHIR_VERSION == "4.0.1"
    bundle = made(*SAMPLES[name])
    assert [str(issue) for issue in fhirkit.validate(bundle)] == []
    del bundle["entry"][-1]["resource"]["recorded"]
    assert fhirkit.validate(bundle), "the validator notices a missing element"


def test_same_inputs_give_the_same_bytes() -> None:
    first = fhir_bundle(inputs_after(SR_UID, usual_study(), usual_headers(), CONTEXT))
    assert first == fhir_bundle(inputs_after(SR_UID, usual_study(), usual_headers(), CONTEXT))
    assert first.kind is ArtefactKind.FHIR


def test_an_invalid_bundle_is_stopped_and_names_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_shared, "instant", lambda _: "a secret")
    with pytest.raises(InvalidBundle) as caught:
        fhir_bundle(inputs_after(SR_UID, usual_study(), usual_headers(), CONTEXT))
    assert "issued" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


# --- Sending ---


def test_everything_is_an_update_on_its_own_identifier(bundle: Resource) -> None:
    assert bundle["type"] == "transaction"
    for entry in bundle["entry"]:
        request, resource = entry["request"], entry["resource"]
        assert entry["fullUrl"].startswith("urn:uuid:")
        if resource["resourceType"] == "Provenance":
            tag = resource["meta"]["tag"][0]
            assert request["method"] == "POST"
            assert request["ifNoneExist"] == f"_tag={tag['system']}|{tag['code']}"
        else:
            identifier = resource["identifier"][0]
            query = f"identifier={identifier['system']}|{identifier['value']}"
            assert request == {"method": "PUT", "url": f"{resource['resourceType']}?{query}"}
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(urls) == len(set(urls))


def test_every_reference_within_the_bundle_resolves(bundle: Resource) -> None:
    urls = {entry["fullUrl"] for entry in bundle["entry"]}

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["reference"]] if isinstance(value.get("reference"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    contained = {f"#{one['id']}" for one in resources(bundle, "DiagnosticReport")[0]["contained"]}
    assert set(references(bundle)) <= urls | contained
    assert references(bundle)


def test_a_revision_updates_the_same_report_and_cells(bundle: Resource) -> None:
    first = made(usual_study(1), usual_headers())
    for kind in ("DiagnosticReport", "Observation", "Device"):
        before = [r["identifier"] for r in resources(first, kind)]
        assert before == [r["identifier"] for r in resources(bundle, kind)]
    assert first["identifier"] != bundle["identifier"]
    replaced = resources(bundle, "DocumentReference")[0]["relatesTo"][0]
    assert replaced["code"] == "replaces"
    assert replaced["target"]["identifier"]["value"] == f"urn:oid:{PRIOR.sop_instance_uid}"
    assert "relatesTo" not in resources(first, "DocumentReference")[0]


def test_nothing_of_the_hospital_is_created(bundle: Resource) -> None:
    kinds = {entry["resource"]["resourceType"] for entry in bundle["entry"]}
    assert kinds == {"Device", "Observation", "DiagnosticReport", "DocumentReference", "Provenance"}


# --- The report ---


def test_report_is_preliminary_and_refers_by_identifier(bundle: Resource) -> None:
    report = resources(bundle, "DiagnosticReport")[0]
    assert report["status"] == "preliminary"
    assert report["subject"]["identifier"]["value"] == "P-17"
    assert report["subject"]["identifier"]["assigner"] == {"display": "HOSP"}
    assert report["basedOn"][0]["identifier"]["value"] == "ACC-9"
    assert codes_of(report["basedOn"][0]["identifier"]["type"])[0][1] == "ACSN"
    assert report["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}
    assert report["specimen"][0]["identifier"]["value"] == "urn:oid:1.2.826.0.1.3680043.10.999.7"
    assert report["effectiveDateTime"] == "2026-03-03T10:11:12+03:30"
    assert report["issued"] == "2026-03-04T15:06:07+03:30"
    assert "Research use only" in report["conclusion"]
    assert "conclusionCode" not in report
    assert len(report["result"]) == 1


def test_issuer_that_is_a_uid_or_uri_becomes_the_system() -> None:
    for issuer, system in (
        ("1.2.3.4", "urn:oid:1.2.3.4"),
        ("https://hospital.example/id", "https://hospital.example/id"),
    ):
        source = header(1, IssuerOfPatientID=issuer)
        report = resources(made(study([instance(1)]), {source.SOPInstanceUID: source}), "DiagnosticReport")[0]
        assert report["subject"]["identifier"]["system"] == system


def test_without_patient_and_order_there_is_no_reference_to_them() -> None:
    source = header(1, PatientID=None, AccessionNumber="", StudyDate=None)
    bundle = made(study([instance(1)]), {source.SOPInstanceUID: source})
    for resource in (*resources(bundle, "DiagnosticReport"), *resources(bundle, "Observation")):
        assert not {"subject", "basedOn", "effectiveDateTime"} & set(resource)


def test_all_says_that_a_machine_asserted_it(bundle: Resource) -> None:
    for entry in bundle["entry"]:
        resource = entry["resource"]
        assert "Research use only" in json.dumps(resource) or resource["resourceType"] == "Device"
        if resource["resourceType"] != "Device":
            assert "AIAST" in {label["code"] for label in resource["meta"]["security"]}
    assert "leuk" not in json.dumps(bundle).lower()


def test_presented_form_is_the_html_report(bundle: Resource) -> None:
    form = resources(bundle, "DiagnosticReport")[0]["presentedForm"][0]
    page = base64.b64decode(form["data"])
    context = replace(CONTEXT, predecessor=PRIOR)
    assert page == html_report(format_inputs(usual_study(2), usual_headers(), context)).content
    assert form["size"] == len(page)
    assert base64.b64decode(form["hash"]) == hashlib.sha1(page, usedforsecurity=False).digest()


def test_presented_form_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    findings, headers = many_cells(40)
    picture = b"\xff\xd8\xff" + bytes(3_000)
    context = replace(CONTEXT, thumbnails={found.tracking_uid: picture for found in findings.cells})

    def form() -> str:
        report = resources(made(findings, headers, context), "DiagnosticReport")[0]
        return base64.b64decode(report["presentedForm"][0]["data"]).decode()

    assert "data:image/jpeg" in form()
    monkeypatch.setattr(fhir, "PRESENTED_FORM_LIMIT", 60_000)
    assert "data:image" not in form()
    assert "image 40" in form()
    monkeypatch.setattr(fhir, "PRESENTED_FORM_LIMIT", 100)
    assert "single cells are left out" in form()


def test_structured_report_is_found_at_the_archive(bundle: Resource) -> None:
    document = resources(bundle, "DocumentReference")[0]
    assert document["masterIdentifier"] == {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{SR_UID}"}
    url = document["content"][0]["attachment"]["url"]
    series = sr_series_uid(usual_study(2))
    assert url == f"https://pacs.example/studies/{STUDY}/series/{series}/instances/{SR_UID}"
    bare = made(usual_study(), usual_headers(), replace(CONTEXT, fhir=FhirOptions()))
    assert "url" not in resources(bare, "DocumentReference")[0]["content"][0]["attachment"]


def test_device_is_the_model_on_its_host(bundle: Resource) -> None:
    host, model = resources(bundle, "Device")
    assert model["identifier"][0]["value"] == f"urn:oid:{MODEL.device_uid}"
    assert model["identifier"][1]["value"] == MODEL.digest
    assert model["version"][0]["value"] == MODEL.version
    assert host["deviceName"][0]["name"] == "node-1"
    devices = [entry for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Device"]
    urls = {entry["resource"]["deviceName"][0]["name"]: entry["fullUrl"] for entry in devices}
    assert model["parent"]["reference"] == urls["node-1"]


# --- The numbers ---


def test_panel_states_counts_fraction_and_interval(bundle: Resource) -> None:
    panel = panel_of(bundle)
    said = {codes_of(c["code"])[0][1]: c for c in panel["component"]}
    counts = {
        code: component["valueQuantity"]["value"]
        for code, component in said.items()
        if component.get("valueQuantity", {}).get("code") == "{cells}"
    }
    assert counts == {"CELLS": 10, "N_LYMPHOBLAST": 2, "N_HEMATOGONE": 1, "N_NOT_ASSESSABLE": 7}
    assert said["FRACTION"]["valueQuantity"]["value"] == 66.7
    assert said["FRACTION"]["valueQuantity"]["code"] == "%"
    assert said["CI95"]["valueRange"]["low"]["value"] == 45.7
    assert said["CI95"]["valueRange"]["high"]["value"] == 85.7
    assert len(panel["hasMember"]) == 10
    assert panel["note"] == [
        {"text": f"Instance that could not be read: {SERIES}.5: JPEG 2000 code stream ends too early"}
    ]


def test_no_fraction_is_absent_not_zero() -> None:
    panel = panel_of(made(study([instance(1)]), {}))
    said = {codes_of(c["code"])[0][1]: c for c in panel["component"]}
    for code in ("FRACTION", "CI95"):
        assert codes_of(said[code]["dataAbsentReason"])[0][1] == "not-applicable"
    assert "hasMember" not in panel


def test_cell_has_a_class_or_a_reason(bundle: Resource) -> None:
    cells = cells_of(bundle)
    assert len(cells) == 10
    assert codes_of(cells[0]["valueCodeableConcept"]) == [("http://snomed.info/sct", "15433008")]
    hematogone = cells[1]["valueCodeableConcept"]
    assert [code for _, code in codes_of(hematogone)] == ["HEM", "127910003"]
    assert "broader" in hematogone["text"]
    absent = [codes_of(found["dataAbsentReason"])[0][1] for found in cells[2:9]]
    assert absent == ["not-performed"] * 4 + ["unknown", "unknown", "error"]
    for found in cells:
        assert ("valueCodeableConcept" in found) != ("dataAbsentReason" in found)
        assert codes_of(found["bodySite"])[0][1] == "14016003"
    assert cells[9]["component"][-1]["valueString"] == f"urn:oid:{SERIES}.3#frame=2&xywh=140,50,80,80"


@pytest.mark.parametrize(
    ("reason", "absent", "text"),
    [
        (NotAssessable.NEUTROPHIL, "unknown", "Neutrophil"),
        (NotAssessable.IMMATURE_GRANULOCYTE, "unknown", "Immature granulocyte"),
        (NotAssessable.ARTEFACT, "unknown", "Artefact, smudge cell or debris"),
        (NotAssessable.SCALE_UNKNOWN, "not-performed", "Pixel size unknown"),
    ],
)
def test_a_cell_of_another_type_is_named(reason: NotAssessable, absent: str, text: str) -> None:
    findings = study([instance(1, [cell(f"{SERIES}.1", 1, reason=reason)])])
    found = cells_of(made(findings, {}))[0]
    assert "valueCodeableConcept" not in found
    assert codes_of(found["dataAbsentReason"])[0][1] == absent
    assert found["dataAbsentReason"]["text"] == text


def test_cell_without_a_reason_is_unknown() -> None:
    findings = study([instance(1, [cell(f"{SERIES}.1", 1)])])
    assert codes_of(cells_of(made(findings, {}))[0]["dataAbsentReason"]) == [
        ("http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown")
    ]


def test_odd_headers_do_not_spoil_the_bundle() -> None:
    source = header(
        1,
        PatientID=" \u0000a|b&c\u2028 ",
        AccessionNumber="x y",
        IssuerOfPatientID="http:// broken",
        InstitutionName="Ward\tA",
        StudyDate="",
        TimezoneOffsetFromUTC="nonsense",
    )
    bundle = made(study([instance(1)]), {source.SOPInstanceUID: source}, replace(CONTEXT, host_name="node | 1"))
    report = resources(bundle, "DiagnosticReport")[0]
    assert report["subject"]["identifier"]["value"] == "a|b&c"
    assert report["performer"] == [{"type": "Organization", "display": "Ward A"}]
    assert all(" " not in entry["request"]["url"] for entry in bundle["entry"])


def test_a_thousand_cells_are_quick() -> None:
    findings, headers = many_cells(1_000)
    started = time.process_time()
    artefact = fhir_bundle(inputs_after(SR_UID, findings, headers, CONTEXT))
    assert time.process_time() - started < 3.0
    assert len(cells_of(json.loads(artefact.content))) == 1_000


def test_labels_of_the_cells_are_those_of_the_findings() -> None:
    name = f"{SERIES}.1"
    findings = study(
        [
            instance(
                1,
                [
                    cell(name, 1, label=CellLabel.HEM, probability_all=0.1),
                    cell(name, 2, reason=NotAssessable.INDETERMINATE, probability_all=0.5),
                ],
            )
        ]
    )
    first, second = cells_of(made(findings, {}))
    numbers = [(codes_of(one["code"])[0][1], one["valueQuantity"]["value"]) for one in first["component"][:2]]
    assert numbers == [("122157", 90.0), ("P_LYMPHOBLAST", 10.0)]
    assert codes_of(second["component"][0]["code"])[0][1] == "P_LYMPHOBLAST", "there is no finding that it would be of"
    assert second["component"][0]["valueQuantity"]["value"] == 50.0
    assert [code for _, code in codes_of(second["dataAbsentReason"])] == ["unknown", "82334004", "BETWEEN"]
