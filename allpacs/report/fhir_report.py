"""The documents of a FHIR bundle: the report, the reference to the DICOM structured report, and who made them.

Source: HL7 FHIR R4 DiagnosticReport, DocumentReference, Provenance; section 2.3.0.2 (logical references).
"""

from __future__ import annotations

from pydicom.uid import Comprehensive3DSRStorage

from allpacs.domain.identity import comprehensive_uid, derive_uuid
from allpacs.report import codes, wording
from allpacs.report.context import sr_series_uid
from allpacs.report.elements import clean, text
from allpacs.report.fhir_elements import (
    AI_ASSERTED,
    SYSTEMS,
    URI,
    Resource,
    category,
    coding,
    concept,
    dicom_identifier,
    narrative,
    order_identifiers,
    report_identifier,
    specimen_reference,
)
from allpacs.report.fhir_shared import Shared, full_url
from allpacs.report.fhir_signed import asserted, practitioner, report_status, verifier
from allpacs.report.order import Order
from allpacs.report.specimens import summary


def diagnostic_report(shared: Shared, presented_form: list[Resource]) -> Resource:
    """Return the report of the study.

    Parameters
    ----------
    presented_form:
        Attachments that hold the report as people read it.
    """
    code = concept(codes.CLASSIFICATION)
    code["coding"].append(coding(codes.PATHOLOGY_STUDY))
    code["text"] = f"{codes.CLASSIFICATION.meaning} (research use only)"
    conclusion = f"{clean(summary(shared.parts))} {shared.notice}"
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "meta": asserted(shared.signed),
        "text": narrative(conclusion),
        "identifier": [report_identifier(shared.findings.study_uid)],
        "status": report_status(shared.context),
        "category": [category("v2-0074", "LAB", "Laboratory"), category("v2-0074", "HM", "Hematology")],
        "code": code,
        "issued": shared.issued,
        "result": [{"reference": url} for url in shared.panel_urls],
        "imagingStudy": [shared.study],
        "conclusion": conclusion,
        "presentedForm": presented_form,
        **shared.about,
    }
    if organisation := text(shared.source.lead, "InstitutionName"):
        report["performer"] = [{"type": "Organization", "display": organisation}]
    if shared.signed is not None:
        report["resultsInterpreter"] = [practitioner(shared.signed.review.reviewer)]
    contained = [_service_request(shared, number, order) for number, order in enumerate(shared.source.orders, start=1)]
    if whole := [request for request in contained if request is not None]:
        report["contained"] = whole
        report["basedOn"] = [
            {**reference, "reference": f"#{request['id']}"}
            for request, reference in zip(whole, report["basedOn"], strict=True)
        ]
    if shared.source.all_specimens:
        report["specimen"] = [specimen_reference(specimen) for specimen in shared.source.all_specimens]
    return report


def _service_request(shared: Shared, number: int, order: Order) -> Resource | None:
    """Return an order with all that the images state of it; None if they state no number of it."""
    identifiers = order_identifiers(order, shared.context.fhir.identifier_systems)
    if not identifiers:
        return None
    request: Resource = {
        "resourceType": "ServiceRequest",
        "id": f"order-{number}",
        "identifier": identifiers,
        "status": "unknown",
        "intent": "order",
        "subject": shared.about.get("subject", {"display": "not stated"}),
    }
    codings = [coding(code) for code in order.procedure_codes if code.scheme_designator in SYSTEMS]
    procedure: Resource = {"coding": codings} if codings else {}
    if name := order.procedure or next((code.meaning for code in order.procedure_codes), ""):
        procedure["text"] = name
    if procedure:
        request["code"] = procedure
    return request


def superseded_reference(shared: Shared) -> Resource | None:
    """Return the reference to the structured report that this one replaces, no longer current; None without one.

    A server that has it keeps one DocumentReference a report: the earlier one says that it is ``superseded``.
    """
    prior = shared.context.predecessor
    if prior is None or prior.sop_instance_uid == shared.sr_uid:
        return None
    return _document(shared, prior.sop_instance_uid, prior.series_uid, prior.sop_class_uid) | {"status": "superseded"}


def document_reference(shared: Shared) -> Resource:
    """Return the reference to the DICOM structured report."""
    document = _document(shared, shared.sr_uid, sr_series_uid(shared.findings), Comprehensive3DSRStorage)
    document["docStatus"] = "preliminary" if shared.signed is None else "final"
    document["meta"] = asserted(shared.signed)
    document["date"] = shared.issued
    document["author"] = [{"reference": shared.device_url}]
    if shared.signed is not None:
        document["authenticator"] = practitioner(shared.signed.review.reviewer)
        document["author"].append(practitioner(shared.signed.review.reviewer))
    prior = shared.context.predecessor
    if prior is not None and prior.sop_instance_uid != shared.sr_uid:
        replaced = {"type": "DocumentReference", "identifier": dicom_identifier(prior.sop_instance_uid)}
        document["relatesTo"] = [{"code": "replaces", "target": replaced}]
    return document


def _document(shared: Shared, uid: str, series_uid: str, sop_class_uid: str) -> Resource:
    """Return what the references to this report and to its predecessor have in common."""
    options = shared.context.fhir
    attachment: Resource = {
        "contentType": "application/dicom",
        "title": "DICOM structured report: white cell classification (research use only)",
    }
    if options.wado_url:
        attachment["url"] = _address(options.wado_url, shared.findings.study_uid, series_uid, uid)
    form = {"system": URI, "code": f"urn:oid:{sop_class_uid}", "display": "DICOM structured report"}
    content: list[Resource] = [{"attachment": attachment, "format": form}]
    if shared.context.viewer_url:
        address = _address(shared.context.viewer_url, shared.findings.study_uid, series_uid, uid)
        content.append({"attachment": {"contentType": "text/html", "title": "The study in the viewer", "url": address}})
    document: Resource = {
        "resourceType": "DocumentReference",
        "meta": AI_ASSERTED,
        "text": narrative(f"DICOM structured report of a white cell classification. {shared.notice}"),
        "masterIdentifier": {"system": URI, "value": f"urn:oid:{uid}"},
        # The second is the UID that it has at a PACS which takes Comprehensive SR only.
        "identifier": [dicom_identifier(uid), dicom_identifier(comprehensive_uid(uid))],
        "status": "current",
        "type": concept(codes.PATHOLOGY_STUDY),
        "category": [category("v2-0074", "LAB", "Laboratory")],
        "description": "DICOM structured report of a white cell classification by an algorithm",
        "content": content,
        "context": {"related": [shared.study]},
    }
    if "subject" in shared.about:
        document["subject"] = shared.about["subject"]
    return document


def _address(template: str, study_uid: str, series_uid: str, uid: str) -> str:
    return template.replace("{study}", study_uid).replace("{series}", series_uid).replace("{instance}", uid)


def provenance_entry(shared: Shared) -> Resource:
    """Return the entry of who made the report, of what; it is created unless one with its tag exists."""
    tag = {"system": SYSTEMS[codes.PRIVATE_SCHEME], "code": derive_uuid("provenance", shared.sr_uid)}
    targets = (shared.report_url, *shared.panel_urls, shared.document_url)
    inputs = [dicom_identifier(instance.sop_instance_uid) for instance in shared.findings.instances]
    provenance: Resource = {
        "resourceType": "Provenance",
        "meta": {**asserted(shared.signed), "tag": [tag]},
        "text": narrative(
            f"Revision {shared.findings.revision}, made from {wording.counted(len(inputs), 'instance', 'instances')} "
            f"by {clean(shared.findings.model.name)} {clean(shared.findings.model.version)}. {shared.notice}"
        ),
        "target": [{"reference": url} for url in targets],
        "occurredDateTime": shared.issued,
        "recorded": shared.issued,
        "agent": [
            {
                "type": category("provenance-participant-type", "assembler", "Assembler"),
                "who": {"reference": shared.device_url},
            }
        ],
        "entity": [{"role": "source", "what": shared.study}],
    }
    if shared.signed is not None:
        provenance["agent"].append(verifier(shared.signed))
    return {
        "fullUrl": full_url("Provenance", shared.sr_uid),
        "resource": provenance,
        "request": {
            "method": "POST",
            "url": "Provenance",
            "ifNoneExist": f"_tag={tag['system']}|{tag['code']}",
        },
    }
