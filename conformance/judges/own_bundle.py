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
#: The numbers of a panel, and the class that each counts; None: all cells.
_COUNTS = {"CELLS": None, "N_LYMPHOBLAST": _LYMPHOBLAST, "N_HEMATOGONE": _HEMATOGONE, "N_NOT_ASSESSABLE": ""}
_ONCE = ("DiagnosticReport", "Provenance")
_NARRATED = ("DiagnosticReport", "Observation", "DocumentReference", "Device", "Provenance")
_STATUS_OF_UNSIGNED = "preliminary"
#: Statuses of Observations by that of the report (R4 ObservationStatus): amended is what was final before.
_STATUSES = {
    "preliminary": {"preliminary", "entered-in-error"},
    "final": {"final", "entered-in-error"},
    "amended": {"final", "amended", "entered-in-error"},
}


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
    current = [r for r in _of_kind(entries, "DocumentReference") if r.get("status") == "current"]
    if any(kinds[kind] != 1 for kind in _ONCE) or len(current) != 1 or "Patient" in kinds:
        yield "there is not one report, one document and one provenance, or a patient is created"


def _references(entries: list[Resource], resources: list[Resource]) -> Iterator[str]:
    kinds = {entry.get("fullUrl"): entry.get("resource", {}).get("resourceType") for entry in entries}
    for resource in resources:
        for path, reference in _found(resource, "reference"):
            if str(reference).startswith("urn:uuid:") and reference not in kinds:
                yield f"{resource.get('resourceType')}.{path}: nothing of that URL is in the Bundle"
        for path in ("device",):
            target = kinds.get(resource.get(path, {}).get("reference"))
            person = {one.get("type") for one in resource.get("performer", [])} == {"Practitioner"}
            if resource.get("resourceType") == "Observation" and target != "Device" and not person:
                yield "an Observation names neither a device nor a person"
            if person and ("device" in resource or _labels(resource) != {"CLINAST"}):
                yield "a finding of a person is also said to be an algorithm's"
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
    labels = _labels(resource)
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
            quantity = component.get("valueQuantity", {})
            number, unit = quantity.get("value"), quantity.get("code")
            if quantity and unit not in ("%", "{cells}", "um", "um2"):
                yield "a number has no unit of the report's"
            if unit == "%" and not 0 <= number <= 100:
                yield "a probability or fraction is not from 0 to 100 %"
        if {code for c in resource.get("category", []) for code in _codes(c)} != {"laboratory"}:
            yield "an Observation is not of the category laboratory"
        yield from _probability(resource)
    if kind == "DiagnosticReport" and "LAB" not in {code for c in resource.get("category", []) for code in _codes(c)}:
        yield "the report is not of the category LAB"
    if kind in ("DiagnosticReport", "Observation"):
        yield from _orders(resource)
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
        if "conclusionCode" in report:
            yield "a conclusion is coded that no person chose"
        allowed = _STATUSES.get(str(report.get("status")), set())
        for r in resources:
            if r.get("resourceType") == "Observation" and r.get("status") not in allowed:
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
    if not panels:
        yield "there is no panel"
        return
    report = next((r for r in resources if r.get("resourceType") == "DiagnosticReport"), {})
    if len(report.get("result", [])) != len(panels):
        yield "the report's results are not the panels"
    if len({str(panel.get("specimen")) for panel in panels}) != len(panels):
        yield "two panels are of the same specimen"
    cells = {
        e.get("fullUrl"): e["resource"]
        for e in entries
        if e.get("resource", {}).get("resourceType") == "Observation"
        and e["resource"] not in panels
        and e["resource"].get("status") != "entered-in-error"
    }
    members = {reference for panel in panels for reference in _members(panel)}
    if members != set(cells):
        yield "the panels' members are not the cells"
    for panel in panels:
        own = [cells[reference] for reference in _members(panel) if reference in cells]
        if any(str(cell.get("specimen")) != str(panel.get("specimen")) for cell in own):
            yield "a cell is of another specimen than its panel"
        yield from _counts(panel, own)


def _members(panel: Resource) -> list[str]:
    return [reference for _, reference in _found({"hasMember": panel.get("hasMember", [])}, "reference")]


def _counts(panel: Resource, cells: list[Resource]) -> Iterator[str]:
    """Check a panel's numbers against one another, and that its members are no more than it counts."""
    classes = Counter(_class(cell) for cell in cells)
    stated = {_first_code(component): component for component in panel.get("component", [])}
    counts = {name: stated.get(name, {}).get("valueQuantity", {}).get("value", -1) for name in _COUNTS}
    for name, of_class in _COUNTS.items():
        if counts[name] < (len(cells) if of_class is None else classes[of_class]):
            yield f"{name} does not count the cells"
    if counts["CELLS"] < counts["N_LYMPHOBLAST"] + counts["N_HEMATOGONE"] + counts["N_NOT_ASSESSABLE"]:
        yield "CELLS does not count the cells"
    elif len(cells) == counts["CELLS"] and any(
        counts[name] != classes[of_class] for name, of_class in _COUNTS.items() if of_class is not None
    ):
        yield "the counts are not those of the cells"
    assessable = counts["N_LYMPHOBLAST"] + counts["N_HEMATOGONE"]
    fraction = stated.get("FRACTION", {})
    if assessable:
        value = fraction.get("valueQuantity", {}).get("value", -1)
        limits = stated.get("CI95", {}).get("valueRange", {})
        low, high = (limits.get(end, {}).get("value", -1) for end in ("low", "high"))
        if abs(value - 100 * counts["N_LYMPHOBLAST"] / assessable) > 0.051 or not 0 <= low <= value <= high <= 100:
            yield "the fraction or its interval is not that of the cells"
    elif "dataAbsentReason" not in fraction:
        yield "the fraction of no cells has no reason why it is absent"


def _probability(cell: Resource) -> Iterator[str]:
    """Check that a probability (122157) is that of the stated class, and P_LYMPHOBLAST that of a lymphoblast."""
    stated = {_first_code(c): c.get("valueQuantity", {}).get("value") for c in cell.get("component", [])}
    of_class, lymphoblast = stated.get("122157"), stated.get("P_LYMPHOBLAST")
    if of_class is None:
        if _class(cell) and lymphoblast is not None:
            yield "a class has no probability of its own"
        return
    expected = {_LYMPHOBLAST: lymphoblast, _HEMATOGONE: None if lymphoblast is None else 100 - lymphoblast}
    wanted = expected.get(_class(cell))
    if wanted is None or abs(of_class - wanted) > 0.11:
        yield "the probability is not that of the stated class"


def _orders(resource: Resource) -> Iterator[str]:
    for reference in resource.get("basedOn", []):
        if not reference.get("identifier", {}).get("value") or reference.get("type") != "ServiceRequest":
            yield "an order is not referred to by an identifier"
    if resource.get("resourceType") == "DiagnosticReport":
        contained = {f"#{one.get('id')}": one for one in resource.get("contained", [])}
        for reference in resource.get("basedOn", []):
            request = contained.get(reference.get("reference"), {})
            if reference.get("identifier") not in request.get("identifier", []):
                yield "an order that the report names is not the contained request"


def _of_kind(entries: list[Resource], kind: str) -> list[Resource]:
    return [e["resource"] for e in entries if e.get("resource", {}).get("resourceType") == kind]


def _labels(resource: Resource) -> set[str]:
    return {label.get("code") for label in resource.get("meta", {}).get("security", [])}


def _codes(concept: Resource) -> list[str]:
    return [coding.get("code", "") for coding in concept.get("coding", [])]


def _document(resources: list[Resource], sr_uid: str | None) -> Iterator[str]:
    for document in (r for r in resources if r.get("resourceType") == "DocumentReference"):
        if document.get("status") == "superseded":
            continue
        value = document.get("masterIdentifier", {}).get("value", "")
        if not value.startswith("urn:oid:") or (sr_uid is not None and value != f"urn:oid:{sr_uid}"):
            yield "the document is not the structured report"
        if document.get("content", [{}])[0].get("attachment", {}).get("contentType") != "application/dicom":
            yield "the document is not said to be DICOM"
    replaced = {
        relation["target"]["identifier"]["value"]
        for document in resources
        for relation in (document.get("relatesTo", []) if document.get("status") == "current" else [])
    }
    superseded = {
        one["masterIdentifier"]["value"]
        for one in resources
        if one.get("resourceType") == "DocumentReference" and one.get("status") == "superseded"
    }
    if replaced != superseded:
        yield "the document that is replaced is not superseded"
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
