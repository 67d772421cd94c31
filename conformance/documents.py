"""The documents that an integration engineer asks for, made from what the code accepts, answers and writes.

`python -m conformance documents` writes them; a test fails when one is stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydicom import dcmread
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    MicroscopyBulkSimpleAnnotationsStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

import allpacs
from allpacs.app import accepted_transfer_syntaxes
from allpacs.deliver.association import Verdict, judge, status_text
from allpacs.deliver.destinations.c_store import Settings as CStoreSettings
from allpacs.dicom import status
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from allpacs.receive import admit
from allpacs.report import annotations as bulk_annotations
from allpacs.report import codes, document, key_images, pdf, study_modules
from allpacs.report.context import CellImage
from allpacs.report.fhir import fhir_bundle
from allpacs.settings import ReceiveSettings, ReportSettings
from allpacs.study.results import results
from conformance.support.report_samples import CONTEXT, PRIOR, inputs_after, usual_headers, usual_study

HERE = Path(__file__).parent

_REFUSED = {
    0x0111: "other bytes are kept under this SOP Instance UID; the first ones stay",
    status.INVALID_SOP_INSTANCE: "a UID is not a valid UID",
    status.SOP_CLASS_NOT_SUPPORTED: "the SOP Class is not one of those above",
    status.NOT_AUTHORISED: "the instance is a result of allpacs: no result becomes an input",
    0xA700: "the disk is below `receive.min_free_mb`, or spool or index cannot be written: send again later",
    status.DATA_SET_DOES_NOT_MATCH: "SOP Class or SOP Instance UID of the data set are not those of the request",
    status.CANNOT_UNDERSTAND: "not parsable, cut short, without pixel data, or a UID missing",
}
_THEN = {
    Verdict.STORED: "delivered",
    Verdict.WARNING: "delivered, the warning recorded",
    Verdict.LATER: "tried again with growing waits",
    Verdict.NEVER: "given up: a person has to look",
}
_ANSWERS = (0x0000, 0x0111, 0x0122, 0x0124, 0xA700, 0xA900, 0xB000, 0xB006, 0xB007, 0xC000)
_CREATED = (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    MicroscopyBulkSimpleAnnotationsStorage,
    EncapsulatedPDFStorage,
)
_ONE_FOR = {
    "Observation": "a cell; the panel of a study",
    "Device": "a model; the machine that ran it",
    "DocumentReference": "a structured report",
    "DiagnosticReport": "a study",
    "Provenance": "a revision",
}
#: Longest text in an example; the page within a report is much longer.
_SHOWN = 160


def dicom() -> str:
    """Return the DICOM Conformance Statement."""
    return _rendered(
        "dicom.md.j2",
        version=allpacs.__version__,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        receive=ReceiveSettings(),
        c_store_timeout_s=f"{CStoreSettings.model_fields['timeout_s'].default:g}",
        transfer=list(_transfer()),
        sop_classes=_table("SOP Class", admit.ACCEPTED_SOP_CLASSES.items()),
        transfer_syntaxes=_table("transfer syntax", ((uid, UID(uid).name) for uid in accepted_transfer_syntaxes())),
        refused=sorted(_REFUSED.items()),
        answers=[(status_text(status), _THEN[judge(status)]) for status in _ANSWERS],
        sr_series=document.SERIES_NUMBER,
        key_series=key_images.SERIES_NUMBER,
        ann_series=bulk_annotations.SERIES_NUMBER,
        pdf_series=pdf.SERIES_NUMBER,
        attributes=list(_attributes()),
        many_cells=ReportSettings().annotations_above,
        private_scheme=codes.PRIVATE_SCHEME,
        private_scheme_uid=codes.PRIVATE_SCHEME_UID,
        private_codes=_private_codes(),
    )


def air() -> str:
    """Return the statement of the IHE profile AI Results."""
    return _rendered("air.md.j2", private_scheme=codes.PRIVATE_SCHEME)


def fhir() -> str:
    """Return the page of resources with an example of each."""
    return _rendered("fhir.md.j2", resources=list(_resources()))


def capability_statement() -> str:
    """Return what a FHIR server needs to offer, as a CapabilityStatement of a client."""
    entries = _bundle()["entry"]
    by_type: dict[str, set[str]] = {}
    for entry in entries:
        by_type.setdefault(entry["resource"]["resourceType"], set()).add(entry["request"]["method"])
    statement = {
        "resourceType": "CapabilityStatement",
        "id": "allpacs",
        "url": f"urn:oid:{codes.PRIVATE_SCHEME_UID}.1",
        "version": allpacs.__version__,
        "name": "AllpacsClient",
        "title": "What allpacs asks of a FHIR server",
        "status": "active",
        "date": "2026-01-01",
        "description": "A client that posts one transaction a revision of a study. Research use only.",
        "kind": "requirements",
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json"],
        "rest": [
            {
                "mode": "client",
                "documentation": "Every entry is a conditional update by identifier, or a conditional create by tag.",
                "security": {"description": "TLS 1.2 at least; bearer token, SMART Backend Services or certificates."},
                "resource": [
                    {
                        "type": kind,
                        "interaction": [
                            {"code": "update" if method == "PUT" else "create"} for method in sorted(by_type[kind])
                        ],
                        "conditionalCreate": "POST" in by_type[kind],
                        "conditionalUpdate": "PUT" in by_type[kind],
                        "referencePolicy": ["literal", "logical"],
                    }
                    for kind in sorted(by_type)
                ],
                "interaction": [{"code": "transaction"}],
            }
        ],
    }
    return json.dumps(statement, indent=1) + "\n"


DOCUMENTS: dict[Path, Callable[[], str]] = {
    HERE / "dicom.md": dicom,
    HERE / "air.md": air,
    HERE / "fhir.md": fhir,
    HERE / "capability-statement.json": capability_statement,
}


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(  # noqa: S701 - Markdown, of our own values
        loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(values)


def _table(heading: str, rows: Any) -> str:
    return "\n".join([f"| {heading} | UID |", "|---|---|", *(f"| {name} | `{uid}` |" for uid, name in rows)])


def _transfer() -> Iterator[dict[str, str]]:
    uids = dict.fromkeys([*map(str, _CREATED), *admit.ACCEPTED_SOP_CLASSES])
    for uid in uids:
        created = uid in _CREATED
        taken = uid in admit.ACCEPTED_SOP_CLASSES
        yield {
            "name": UID(uid).name,
            "uid": uid,
            "creates": "yes" if created else "no",
            "sends": "yes" if created else "no",
            "takes": "yes" if taken else "no",
        }


def _attributes() -> Iterator[dict[str, str]]:
    """Yield what each created object has at its root, from objects made of a made-up study."""
    study, headers = usual_study(), usual_headers()
    pictures = {cell.tracking_uid: CellImage(np.zeros((8, 8, 3), np.uint8)) for cell in study.cells}
    context = replace(CONTEXT, annotations_above=1, pictures=pictures, predecessor=PRIOR)
    made = {one.kind: one for one in results(study, headers, context) if one.is_dicom}
    after_report = inputs_after(made[ArtefactKind.SR].uid, study, headers, context)
    made[ArtefactKind.PDF] = pdf.encapsulated(after_report, b"%PDF-")
    objects = {kind: dcmread(BytesIO(one.content)) for kind, one in made.items()}
    copied = {*study_modules.COPIED, *study_modules.SPECIMEN}
    rows = {element.tag: element for one in objects.values() for element in one}
    for tag in sorted(rows):
        element = rows[tag]
        origin = "copied" if element.keyword in copied else "made"
        yield {
            "name": element.name,
            "tag": str(tag),
            "vr": element.VR,
            **{ArtefactKind(kind).name.lower(): origin if tag in one else "" for kind, one in objects.items()},
        }


def _private_codes() -> list[Any]:
    several = [*codes.TABLE.values(), *codes.REASONS.values(), *codes.DECISIONS.values()]
    several += codes.CLASS_PROBABILITIES.values()
    private = {code.value: code for code in several if code.scheme_designator == codes.PRIVATE_SCHEME}
    return [private[value] for value in sorted(private)]


def _bundle() -> dict[str, Any]:
    return json.loads(fhir_bundle(inputs_after("2.25.4711", usual_study(), usual_headers())).content)  # type: ignore[no-any-return]


def _resources() -> Iterator[dict[str, str]]:
    first: dict[str, dict[str, Any]] = {}
    for entry in _bundle()["entry"]:
        first.setdefault(entry["resource"]["resourceType"], entry)
    for kind, entry in first.items():
        request = entry["request"]
        identifier = request.get("ifNoneExist") or request["url"].partition("?")[2]
        yield {
            "type": kind,
            "of": _ONE_FOR[kind],
            "request": f"{request['method']} {request['url'].partition('?')[0]}",
            "identifier": f"`{identifier.partition('|')[0]}`".replace("|", "\\|"),
            "example": json.dumps(_shortened(entry["resource"]), indent=1, ensure_ascii=False),
        }


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value[:3]]
    return f"{value[:_SHOWN]}…" if isinstance(value, str) and len(value) > _SHOWN else value
