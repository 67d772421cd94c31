"""Building blocks of FHIR resources: identifiers, codes, logical references, narratives.

Source: HL7 FHIR R4 datatypes; section 2.3.0.2 (logical references); ImagingStudy notes (identifiers of DICOM objects).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import quote

from pydicom.sr.coding import Code

from allpacs.domain.findings import OTHER_TYPES, CellLabel, NotAssessable
from allpacs.domain.identity import derive_uid, is_uid
from allpacs.report import codes, wording
from allpacs.report.order import Order
from allpacs.report.source import Source, Specimen

Resource = dict[str, Any]

_URI = re.compile(r"(https?://|urn:)[!-~]+")

SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    codes.PRIVATE_SCHEME: f"urn:oid:{codes.PRIVATE_SCHEME_UID}",
}
DICOM_UID = "urn:dicom:uid"
URI = "urn:ietf:rfc:3986"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"

#: Asserted by artificial intelligence; AIAST is newer than R4, which knows "asserted by a device" only, so both.
AI_ASSERTED: Resource = {
    "security": [
        {
            "system": f"{TERMINOLOGY}/v3-ObservationValue",
            "code": "AIAST",
            "display": "Artificial Intelligence asserted",
        },
        {"system": f"{TERMINOLOGY}/v3-ObservationValue", "code": "DEVAST", "display": "device asserted"},
    ]
}

#: Data absent reasons of HL7 by our own reasons: the quality gate never asked, the model could not tell, it failed.
_ABSENT = {
    NotAssessable.INDETERMINATE: ("unknown", "Unknown"),
    **dict.fromkeys((NotAssessable.OUT_OF_DISTRIBUTION, *OTHER_TYPES), ("unknown", "Unknown")),
    NotAssessable.MODEL_FAILED: ("error", "Error"),
}
_NOT_PERFORMED = ("not-performed", "Not Performed")


def report_identifier(study_uid: str) -> dict[str, str]:
    """Return the identifier of a study's DiagnosticReport: the same for every revision."""
    return own_identifier(derive_uid("diagnostic-report", study_uid))


def panel_identifier(study_uid: str, *specimen: str) -> dict[str, str]:
    """Return the identifier of a panel Observation: the same for every revision.

    Parameters
    ----------
    specimen:
        By what the specimen is known, if the study has several; otherwise nothing.
    """
    return own_identifier(derive_uid("panel", study_uid, *specimen))


def dicom_identifier(uid: str) -> dict[str, str]:
    """Return a DICOM UID as a FHIR identifier (HL7 FHIR R4 ImagingStudy, notes)."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


def own_identifier(uid: str) -> dict[str, str]:
    """Return a UID of our own as an identifier."""
    return {"system": URI, "value": f"urn:oid:{uid}"}


def coding(code: Code) -> Resource:
    """Return a Coding."""
    return {"system": SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}


def concept(code: Code) -> Resource:
    """Return a CodeableConcept with the meaning as its text."""
    return {"coding": [coding(code)], "text": code.meaning}


def category(system: str, code: str, display: str) -> Resource:
    """Return a CodeableConcept of one of the code systems of HL7."""
    return {"coding": [{"system": f"{TERMINOLOGY}/{system}", "code": code, "display": display}]}


def cell_class(label: CellLabel) -> Resource:
    """Return what a cell is; for a hematogone also a broader public code, and that it is broader."""
    value = concept(codes.LABELS[label])
    if label is CellLabel.HEM:
        value["coding"].append(coding(codes.LYMPHOID_PRECURSOR))
        value["text"] = "Hematogone (no standard code; the SNOMED CT code given is a broader concept)"
    return value


def data_absent(code: str, display: str) -> Resource:
    """Return a data absent reason of HL7."""
    return category("data-absent-reason", code, display)


def not_assessable(reason: NotAssessable | None) -> Resource:
    """Return why a cell has no class: in the words of HL7, of DICOM and of our own."""
    if reason is None:
        return data_absent("unknown", "Unknown")
    absent = data_absent(*_ABSENT.get(reason, _NOT_PERFORMED))
    absent["coding"] += [coding(codes.NOT_ASSESSABLE[reason]), coding(codes.REASONS[reason])]
    absent["text"] = codes.REASONS[reason].meaning
    return absent


def share(number: float) -> Resource:
    """Return a probability or fraction (0 to 1) as a Quantity in per cent, with the one decimal that people read."""
    return {"value": wording.percent_number(number), "unit": "%", "system": SYSTEMS["UCUM"], "code": "%"}


def quantity(number: float, unit: Code, shown: str) -> Resource:
    """Return a measured number with one decimal, its unit as UCUM has it and as people read it."""
    return {"value": round(number, 1), "unit": shown, "system": SYSTEMS["UCUM"], "code": unit.value}


def cells(number: int) -> Resource:
    """Return a number of cells as a Quantity."""
    return {"value": number, "unit": "cells", "system": SYSTEMS["UCUM"], "code": codes.CELLS_UNIT.value}


def patient_reference(source: Source, systems: Mapping[str, str], *, conditional: bool) -> Resource:
    """Return the patient by the identifier of the header; `conditional`: as a search that the server resolves.

    Source: HL7 FHIR R4 3.1.0.11.2 (conditional references), for which the identifier needs a system.
    """
    identifier = _issued("MR", "Medical record number", source.patient_id, source.patient_id_issuer, systems)
    reference: Resource = {"type": "Patient", "identifier": identifier}
    if conditional and "system" in identifier:
        token = f"{quote(identifier['system'], safe=':/')}|{quote(source.patient_id, safe='')}"
        reference["reference"] = f"Patient?identifier={token}"
    return reference


def order_identifiers(order: Order, systems: Mapping[str, str]) -> list[Resource]:
    """Return what an order is known by: accession, placer's and filler's number, in this order."""
    return [
        _issued(kind, display, number, issuer.universal_id or issuer.namespace, systems)
        for kind, display, number, issuer in (
            ("ACSN", "Accession ID", order.accession, order.accession_issuer),
            ("PLAC", "Placer Identifier", order.placer, order.placer_issuer),
            ("FILL", "Filler Identifier", order.filler, order.filler_issuer),
        )
        if number
    ]


def order_reference(order: Order, systems: Mapping[str, str]) -> Resource:
    """Return an order by the first of its identifiers."""
    return {"type": "ServiceRequest", "identifier": order_identifiers(order, systems)[0]}


def _issued(kind: str, display: str, value: str, issuer: str, systems: Mapping[str, str]) -> Resource:
    """Return an identifier with its type.

    Its system is what the site configured for the issuer, or the issuer if that is a UID or a URI; any other issuer is
    its assigner.
    """
    identifier: Resource = {"type": category("v2-0203", kind, display), "value": value}
    if issuer in systems:
        identifier["system"] = systems[issuer]
    elif is_uid(issuer):
        identifier["system"] = f"urn:oid:{issuer}"
    elif _URI.fullmatch(issuer):
        identifier["system"] = issuer
    elif issuer:
        identifier["assigner"] = {"display": issuer}
    return identifier


def specimen_reference(specimen: Specimen) -> Resource:
    """Return a specimen by its UID or identifier."""
    identifier = dicom_identifier(specimen.uid) if specimen.uid else {"value": specimen.identifier}
    reference: Resource = {"type": "Specimen", "identifier": identifier}
    named = [specimen.type.meaning] if specimen.type else []
    if specimen.identifier:
        named.append(specimen.identifier)
    if named:
        reference["display"] = " ".join(named)
    return reference


def narrative(said: str) -> Resource:
    """Return a narrative of one paragraph."""
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{escape(said)}</div>'}


def instant(moment: datetime) -> str:
    """Return a moment with its time zone (FHIR instant)."""
    return moment.isoformat(timespec="seconds")
