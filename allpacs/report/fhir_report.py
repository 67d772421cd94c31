"""The documents of a FHIR bundle: the report, the reference to the DICOM structured report, and who made them.

Source: HL7 FHIR R4 DiagnosticReport, DocumentReference, Provenance; section 2.3.0.2 (logical references).
"""

from __future__ import annotations

from pydicom.uid import Comprehensive3DSRStorage

from allpacs.domain.identity import comprehensive_uid, derive_uuid
from allpacs.report import codes, wording
from allpacs.report.context import sr_series_uid
from allpacs.report.fhir_elements import (
    SYSTEMS,
    URI,
    Resource,
    category,
    coding,
    concept,
    dicom_identifier,
    narrative,
    report_identifier,
    specimen_reference,
)
from allpacs.report.fhir_shared import Shared, full_url
from allpacs.report.fhir_signed import asserted, conclusion_code, practitioner, report_status, verifier
from allpacs.report.source import clean, text


def diagnostic_report(shared: Shared, presented_form: list[Resource]) -> Resource:
    """Return the report of the study.

    Parameters
    ----------
    presented_form:
        Attachments that hold the report as people read it.
    """
    code = concept(codes.DIAGNOSTIC_IMAGING_REPORT)
    code["coding"].append(coding(codes.CLASSIFICATION))
    code["text"] = f"{codes.CLASSIFICATION.meaning} (research use only)"
    conclusion = f"{wording.summary(shared.findings)} {shared.notice}"
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "meta": asserted(shared.signed),
        "text": narrative(conclusion),
        "identifier": [report_identifier(shared.findings.study_uid)],
        "status": report_status(shared.context),
        "category": [category("v2-0074", "HM", "Hematology")],
        "code": code,
        "issued": shared.issued,
        "result": [{"reference": shared.panel_url}],
        "imagingStudy": [shared.study],
        "conclusion": conclusion,
        "presentedForm": presented_form,
        **shared.about,
    }
    if organisation := text(shared.source.lead, "InstitutionName"):
        report["performer"] = [{"type": "Organization", "display": organisation}]
    if shared.signed is not None:
        report["conclusionCode"] = [conclusion_code(shared.findings.counts)]
        report["resultsInterpreter"] = [practitioner(shared.signed.review.reviewer)]
    if shared.source.all_specimens:
        report["specimen"] = [specimen_reference(specimen) for specimen in shared.source.all_specimens]
    return report


def document_reference(shared: Shared) -> Resource:
    """Return the reference to the DICOM structured report."""
    attachment: Resource = {
        "contentType": "application/dicom",
        "title": "DICOM structured report: white cell classification (research use only)",
        "creation": shared.issued,
    }
    if shared.context.wado_url_template:
        url = shared.context.wado_url_template.replace("{study}", shared.findings.study_uid)
        url = url.replace("{series}", sr_series_uid(shared.findings)).replace("{instance}", shared.sr_uid)
        attachment["url"] = url
    document: Resource = {
        "resourceType": "DocumentReference",
        "meta": asserted(shared.signed),
        "text": narrative(f"DICOM structured report of a white cell classification. {shared.notice}"),
        "masterIdentifier": {"system": URI, "value": f"urn:oid:{shared.sr_uid}"},
        # The second is the UID that it has at a PACS which takes Comprehensive SR only.
        "identifier": [dicom_identifier(shared.sr_uid), dicom_identifier(comprehensive_uid(shared.sr_uid))],
        "status": "current",
        "docStatus": "preliminary" if shared.signed is None else "final",
        "type": concept(codes.DIAGNOSTIC_IMAGING_REPORT),
        "date": shared.issued,
        "author": [{"reference": shared.device_url}],
        "description": "DICOM structured report of a white cell classification by an algorithm",
        "content": [
            {
                "attachment": attachment,
                "format": {
                    "system": URI,
                    "code": f"urn:oid:{Comprehensive3DSRStorage}",
                    "display": "Comprehensive 3D SR Storage",
                },
            }
        ],
        "context": {"related": [shared.study]},
    }
    if shared.signed is not None:
        document["authenticator"] = practitioner(shared.signed.review.reviewer)
    if "subject" in shared.about:
        document["subject"] = shared.about["subject"]
    prior = shared.context.predecessor
    if prior is not None and prior.sop_instance_uid != shared.sr_uid:
        replaced = {"type": "DocumentReference", "identifier": dicom_identifier(prior.sop_instance_uid)}
        document["relatesTo"] = [{"code": "replaces", "target": replaced}]
    return document


def provenance_entry(shared: Shared) -> Resource:
    """Return the entry of who made the report, of what; it is created unless one with its tag exists."""
    tag = {"system": SYSTEMS[codes.PRIVATE_SCHEME], "code": derive_uuid("provenance", shared.sr_uid)}
    targets = (shared.report_url, shared.panel_url, shared.document_url)
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
