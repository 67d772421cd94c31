"""Findings to a FHIR R4 (4.0.1) transaction bundle.

    DiagnosticReport (preliminary) ── result ──► Observation: the panel (counts, fraction, interval)
        │                                            └─ hasMember ──► Observation: one a listed cell
        ├─ presentedForm: the HTML report, and as PDF where it is printed
    DocumentReference ──► the DICOM structured report          Provenance ──► made by Device (the model) ──► host

Sending a bundle twice leaves one of each: everything is a conditional update on an identifier that derives from the
study, the cell or the model. A later revision therefore updates the *same* report. Only the Provenance, of which there
is one a revision, has no identifier in R4: it is created unless one with its tag exists.

Patient, order, imaging study and specimens are logical references by the identifiers of the DICOM header; none of them
is ever created. All resources say that they were asserted by an algorithm (security label AIAST).

Source: HL7 FHIR R4 sections 3.1.0.11 (transaction), 2.3.0.2 (logical references), 6.1 (security labels).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from itertools import chain, islice

from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from allpacs.domain.artefacts import FHIR_JSON, Artefact, ArtefactKind
from allpacs.report.context import ReportContext, result_uid
from allpacs.report.fhir_device import host_device, model_device
from allpacs.report.fhir_elements import Resource, instant, own_identifier
from allpacs.report.fhir_observation import cell_observation, observed_cells, panel_observation, retired_observation
from allpacs.report.fhir_report import diagnostic_report, document_reference, provenance_entry, superseded_reference
from allpacs.report.fhir_shared import Shared, full_url, shared_by, updated
from allpacs.report.format import Format
from allpacs.report.html import html_page, picture_bytes
from allpacs.report.inputs import FormatInputs
from allpacs.report.pdf import printed

#: Largest HTML report, in bytes, carried within the DiagnosticReport (base64 makes it a third larger). Above it the
#: thumbnails are left out, and if that does not suffice, the list of cells: the HTML artefact itself stays whole.
PRESENTED_FORM_LIMIT = 2_000_000


class InvalidBundle(ValueError):
    """A bundle that the FHIR models reject: a defect of this module. Names elements, never their values."""


def fhir_bundle(inputs: FormatInputs) -> Artefact:
    """Return the transaction bundle of one revision of a study, as JSON.

    Raises
    ------
    InvalidBundle
        The result does not conform to the FHIR models.
    """
    uid = result_uid(FORMAT.kind, inputs.findings, inputs.context)
    shared = shared_by(inputs)
    rest = _entries_made_once(shared, _presented_form(inputs))
    document = {
        "resourceType": "Bundle",
        "identifier": own_identifier(uid),
        "type": "transaction",
        "timestamp": instant(inputs.context.issued_at),
    }
    # Written one by one: as dictionaries the cells of a large study take half a gigabyte.
    entries = [_json(entry) for entry in chain(_cells(shared), rest)]
    try:  # Cells differ from one another in numbers only, and checking a thousand takes a second: one stands for all.
        Bundle.model_validate({**document, "entry": [*islice(_cells(shared), 1), *rest]})
    except ValidationError as fault:
        places = sorted({".".join(map(str, error["loc"])) for error in fault.errors(include_input=False)})
        raise InvalidBundle(f"FHIR models reject {', '.join(places)}") from None
    entries[0] = _json(document)[:-1] + b',"entry":[' + entries[0]
    entries[-1] += b"]}"
    return FORMAT.artefact(uid, b",".join(entries))


def _json(value: Resource) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _cells(shared: Shared) -> Iterator[Resource]:
    """Yield one entry a cell that is listed by itself."""
    for instance, cell in observed_cells(shared.findings, shared.context):
        yield updated(full_url("Observation", cell.tracking_uid), cell_observation(shared, instance, cell))


def _entries_made_once(shared: Shared, presented_form: list[Resource]) -> list[Resource]:
    """Return the entries of everything that is there once."""
    superseded = superseded_reference(shared)
    host = [updated(shared.host_url, host_device(shared))] if shared.context.host_name else []
    return [
        *host,
        updated(shared.device_url, model_device(shared)),
        *(
            updated(url, panel_observation(shared, part))
            for url, part in zip(shared.panel_urls, shared.parts, strict=True)
        ),
        *(
            updated(full_url("Observation", uid), retired_observation(shared, uid))
            for uid in shared.context.retired
            if shared.context.fhir.cells != "none"
        ),
        updated(shared.document_url, document_reference(shared)),
        *([updated(full_url("DocumentReference", "superseded"), superseded)] if superseded else []),
        updated(shared.report_url, diagnostic_report(shared, presented_form)),
        provenance_entry(shared),
    ]


def _presented_form(inputs: FormatInputs) -> list[Resource]:
    """Return the HTML report, and as PDF if it is printed, as attachments of at most `PRESENTED_FORM_LIMIT`."""
    context = inputs.context
    page = inputs.contents[ArtefactKind.HTML]
    # A page that would still be too large is not made: a large study's takes as long as all its Observations.
    without_crops = len(page) - picture_bytes(context)
    if len(page) > PRESENTED_FORM_LIMIT >= without_crops:
        page = html_page(inputs, thumbnails=False).encode()
    if len(page) > PRESENTED_FORM_LIMIT:
        page = html_page(inputs, list_cells=False).encode()
    forms = [_attachment("text/html", page, context)]
    if ArtefactKind.PDF in inputs.contents:
        pdf = printed(inputs.contents[ArtefactKind.PDF])
        if len(pdf) <= PRESENTED_FORM_LIMIT:
            forms.append(_attachment("application/pdf", pdf, context))
    return forms


def _attachment(media_type: str, form: bytes, context: ReportContext) -> Resource:
    return {
        "contentType": media_type,
        "language": "en",
        "data": base64.b64encode(form).decode("ascii"),
        "size": len(form),
        "hash": base64.b64encode(hashlib.sha1(form, usedforsecurity=False).digest()).decode("ascii"),
        "title": "White cell classification (research use only)",
        "creation": instant(context.issued_at),
    }


FORMAT = Format(
    ArtefactKind.FHIR,
    FHIR_JSON,
    ".json",
    fhir_bundle,
    after=(ArtefactKind.SR,),
    embeds=(ArtefactKind.HTML, ArtefactKind.PDF),
    over_signed=False,
)
