"""Our own checks of a FHIR transaction Bundle: what a validator of single resources cannot know.

Written against the JSON alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

Resource = dict[str, Any]

_DISEASES = {"93143009", "91857003", "C3167", "111047", "26446-5", "34922-5"}
_LYMPHOBLAST, _HEMATOGONE = "15433008", "HEM"
_ONCE = ("DiagnosticReport", "DocumentReference", "Provenance")
_NARRATED = ("DiagnosticReport", "Observation", "DocumentReference", "Device", "Provenance")
_STATUS_OF_UNSIGNED = "preliminary"


def faults(bundle: Resource, sr_uid: str | None = None) -> list[str]:
    """Return what is wrong with a Bundle, one line a fault.

    Parameters
    ----------
    sr_uid:
        SOP Instance UID of the structured report that says the same.
    """
    entries = bundle.get("entry", [])
    resources = [entry.get("resource", {}) for entry in entries]
    found = [*_transaction(bundle, entries), *_references(entries, resources)]
    for resource in resources:
        found += _resource(resource)
    return [*found, *_report(resources), *_panel(entries, resources), *_document(resources, sr_uid)]


def _transaction(bundle: Resource, entries: list[Resource]) -> Iterator[str]:
    if bundle.get("type") != "transaction":
        yield "it is no transaction"
    urls = Counter(entry.get("fullUrl") for entry in entries)
    if any(count > 1 or not str(url).startswith("urn:uuid:") for url, count in urls.items()):
        yield "an entry has no full URL of its own"
    for entry in entries:
        resource, request = entry.get("resource", {}), entry.get("request", {})
        kind, url = resource.get("resourceType"), str(request.get("url"))
        if request.get("method") == "PUT":
            identifier = (resource.get("identifier") or [{}])[0]
            if url != f"{kind}?identifier={identifier.get('system')}|{identifier.get('value')}":
                yield f"{kind}: it is not updated by its own identifier"
        elif request.get("method") != "POST" or url != kind or "ifNoneExist" not in request:
            yield f"{kind}: sending it twice would leave two"
    kinds = Counter(entry.get("resource", {}).get("resourceType") for entry in entries)
    if any(kinds[kind] != 1 for kind in _ONCE) or "Patient" in kinds:
        yield "there is not one report, one document and one provenance, or a patient is created"


def _references(entries: list[Resource], resources: list[Resource]) -> Iterator[str]:
    kinds = {entry.get("fullUrl"): entry.get("resource", {}).get("resourceType") for entry in entries}
    for resource in resources:
        for path, reference in _found(resource, "reference"):
            if str(reference).startswith("urn:uuid:") and reference not in kinds:
                yield f"{resource.get('resourceType')}.{path}: nothing of that URL is in the Bundle"
        for path in ("device",):
            target = kinds.get(resource.get(path, {}).get("reference"))
            if resource.get("resourceType") == "Observation" and target != "Device":
                yield "an Observation names no device"
    for resource in resources:
        if resource.get("resourceType") in ("DiagnosticReport", "Observation"):
            subject = resource.get("subject", {})
            if subject and not subject.get("identifier", {}).get("value"):
                yield "the patient is not referred to by an identifier"
    if (
        len({str(r.get("subject")) for r in resources if r.get("resourceType") in ("DiagnosticReport", "Observation")})
        > 1
    ):
        yield "report and observations are about different patients"


def _resource(resource: Resource) -> Iterator[str]:
    kind = resource.get("resourceType")
    if (
        kind in _NARRATED
        and "research use" not in str(resource.get("text", {}).get("div", "")).lower()
        and not (kind == "Device" and "runs" in str(resource.get("text", {}).get("div", "")))
    ):
        yield f"{kind}: its text does not say that it is for research only"
    labels = {label.get("code") for label in resource.get("meta", {}).get("security", [])}
    if kind in ("DiagnosticReport", "Observation", "DocumentReference", "Provenance") and not labels & {
        "AIAST",
        "CLINAST",
    }:
        yield f"{kind}: no security label says who asserted it"
    for _, code in _found(resource, "code"):
        if isinstance(code, str) and code in _DISEASES:
            yield f"{kind}: a disease or a differential is coded"
    if kind == "Observation":
        has_value = any(key.startswith("value") for key in resource)
        members = bool(resource.get("hasMember")) or _first_code(resource) == "CLASSIFICATION"
        if not members and has_value == ("dataAbsentReason" in resource):
            yield "an Observation has not either a value or the reason for none"
        for component in resource.get("component", []):
            number = component.get("valueQuantity", {}).get("value")
            if number is not None and not 0 <= number <= 1:
                yield "a probability or fraction is not from 0 to 1"
    if kind == "Provenance":
        agents = [_first_code(agent.get("type", {}), direct=True) for agent in resource.get("agent", [])]
        if "assembler" not in agents:
            yield "the provenance does not name the algorithm"


def _report(resources: list[Resource]) -> Iterator[str]:
    for report in (r for r in resources if r.get("resourceType") == "DiagnosticReport"):
        unsigned = report.get("status") == _STATUS_OF_UNSIGNED
        verified = any(
            _first_code(agent.get("type", {}), direct=True) == "verifier"
            for r in resources
            if r.get("resourceType") == "Provenance"
            for agent in r.get("agent", [])
        )
        if unsigned == verified:
            yield "the report's status does not agree with who stands behind it"
        if unsigned and "conclusionCode" in report:
            yield "a conclusion is coded before a person signed"
        for r in resources:
            if r.get("resourceType") == "Observation" and (r.get("status") == _STATUS_OF_UNSIGNED) != unsigned:
                yield "an Observation's status does not agree with the report's"
        for form in report.get("presentedForm", []) or [{}]:
            content = base64.b64decode(form.get("data", ""))
            digest = base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
            if form.get("size") != len(content) or form.get("hash") != digest or not content:
                yield "size or hash of the presented form is wrong"
        if not report.get("imagingStudy") or not report.get("result"):
            yield "the report names no study or no result"
        if "Research use only." not in str(report.get("conclusion")):
            yield "the conclusion does not say that it is for research only"


def _panel(entries: list[Resource], resources: list[Resource]) -> Iterator[str]:
    observations = [r for r in resources if r.get("resourceType") == "Observation"]
    panels = [r for r in observations if _first_code(r) == "CLASSIFICATION"]
    if len(panels) != 1:
        yield "there is not one panel"
        return
    members = {reference for _, reference in _found({"hasMember": panels[0].get("hasMember", [])}, "reference")}
    cells = {
        e.get("fullUrl"): e["resource"]
        for e in entries
        if e.get("resource", {}).get("resourceType") == "Observation" and e["resource"] is not panels[0]
    }
    if members != set(cells):
        yield "the panel's members are not the cells"
    classes = Counter(_class(cell) for cell in cells.values())
    stated = {_first_code(component): component for component in panels[0].get("component", [])}
    expected = {
        "CELLS": len(cells),
        "N_LYMPHOBLAST": classes[_LYMPHOBLAST],
        "N_HEMATOGONE": classes[_HEMATOGONE],
        "N_NOT_ASSESSABLE": classes[""],
    }
    for name, number in expected.items():
        if stated.get(name, {}).get("valueInteger") != number:
            yield f"{name} does not count the cells"
    assessable = len(cells) - classes[""]
    fraction = stated.get("FRACTION", {})
    if assessable:
        value = fraction.get("valueQuantity", {}).get("value", -1)
        limits = stated.get("CI95", {}).get("valueRange", {})
        low, high = (limits.get(end, {}).get("value", -1) for end in ("low", "high"))
        if abs(value - classes[_LYMPHOBLAST] / assessable) > 1e-6 or not 0 <= low <= value <= high <= 1:
            yield "the fraction or its interval is not that of the cells"
    elif "dataAbsentReason" not in fraction:
        yield "the fraction of no cells has no reason why it is absent"


def _document(resources: list[Resource], sr_uid: str | None) -> Iterator[str]:
    for document in (r for r in resources if r.get("resourceType") == "DocumentReference"):
        value = document.get("masterIdentifier", {}).get("value", "")
        if not value.startswith("urn:oid:") or (sr_uid is not None and value != f"urn:oid:{sr_uid}"):
            yield "the document is not the structured report"
        if document.get("content", [{}])[0].get("attachment", {}).get("contentType") != "application/dicom":
            yield "the document is not said to be DICOM"
    for resource in resources:
        for _, identifier in _found(resource, "identifier"):
            for one in identifier if isinstance(identifier, list) else [identifier]:
                if one.get("system") == "urn:dicom:uid" and not str(one.get("value")).startswith("urn:oid:"):
                    yield "a DICOM UID is not written as urn:oid"


def _class(cell: Resource) -> str:
    codings = cell.get("valueCodeableConcept", {}).get("coding", [])
    return next((c["code"] for c in codings if c.get("code") in (_LYMPHOBLAST, _HEMATOGONE)), "")


def _first_code(of: Resource, *, direct: bool = False) -> str:
    concept = of if direct else of.get("code", {})
    return str((concept.get("coding") or [{}])[0].get("code", ""))


def _found(within: Any, key: str, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(within, dict):
        for name, value in within.items():
            if name == key:
                yield path or name, value
            yield from _found(value, key, f"{path}.{name}" if path else name)
    elif isinstance(within, list):
        for value in within:
            yield from _found(value, key, path)
