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
from dataclasses import replace
from itertools import chain, islice
from urllib.parse import quote

from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

import allpacs
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings
from allpacs.domain.identity import comprehensive_uid, derive_uuid
from allpacs.report import codes, wording
from allpacs.report.annotations import listed_cells
from allpacs.report.context import ReportContext, result_uid, sr_series_uid
from allpacs.report.fhir_elements import (
    SYSTEMS,
    URI,
    Resource,
    category,
    cell_class,
    coding,
    concept,
    data_absent,
    dicom_identifier,
    instant,
    narrative,
    not_assessable,
    order_reference,
    own_identifier,
    panel_identifier,
    patient_reference,
    report_identifier,
    share,
    specimen_reference,
)
from allpacs.report.fhir_signed import (
    asserted,
    cell_notes,
    conclusion_code,
    observation_status,
    practitioner,
    report_status,
    study_notes,
    verifier,
)
from allpacs.report.html import html_report, picture_bytes
from allpacs.report.source import Headers, Source, clean, lead_header, read_source, text

#: Largest HTML report, in bytes, carried within the DiagnosticReport (base64 makes it a third larger). Above it the
#: thumbnails are left out, and if that does not suffice, the list of cells: the HTML artefact itself stays whole.
PRESENTED_FORM_LIMIT = 2_000_000


class InvalidBundle(ValueError):
    """A bundle that the FHIR models reject: a defect of this module. Names elements, never their values."""


def fhir_bundle(
    findings: StudyFindings,
    headers: Headers,
    context: ReportContext,
    sr_artefact_uid: str,
    html: Artefact | None = None,
    pdf: bytes | None = None,
) -> Artefact:
    """Return the transaction bundle of one revision of a study, as JSON.

    Parameters
    ----------
    sr_artefact_uid:
        SOP Instance UID of the structured report that states the same findings.
    html:
        The HTML report of the same findings, where it is already made.
    pdf:
        The same report printed, where it is; left out where it is larger than `PRESENTED_FORM_LIMIT`.

    Raises
    ------
    InvalidBundle
        The result does not conform to the FHIR models.
    """
    uid = result_uid("fhir", findings, context)
    maker = _Maker(findings, headers, context, sr_artefact_uid)
    rest = maker.rest(_presented_form(findings, headers, context, maker.source, html, pdf))
    document = {
        "resourceType": "Bundle",
        "identifier": own_identifier(uid),
        "type": "transaction",
        "timestamp": instant(context.issued_at),
    }
    # Written one by one: as dictionaries the cells of a large study take half a gigabyte.
    entries = [_json(entry) for entry in chain(maker.cells(), rest)]
    try:  # Cells differ from one another in numbers only, and checking a thousand takes a second: one stands for all.
        Bundle.model_validate({**document, "entry": [*islice(maker.cells(), 1), *rest]})
    except ValidationError as fault:
        places = sorted({".".join(map(str, error["loc"])) for error in fault.errors(include_input=False)})
        raise InvalidBundle(f"FHIR models reject {', '.join(places)}") from None
    entries[0] = _json(document)[:-1] + b',"entry":[' + entries[0]
    entries[-1] += b"]}"
    return Artefact(ArtefactKind.FHIR, uid, "application/fhir+json", f"{uid}.json", b",".join(entries))


def _json(value: Resource) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class _Maker:
    """Makes the resources of one bundle; holds what they share."""

    def __init__(self, findings: StudyFindings, headers: Headers, context: ReportContext, sr_uid: str) -> None:
        self.findings = findings
        self.context = context
        self.sr_uid = sr_uid
        self.source = read_source(findings, headers)
        self.organisation = text(lead_header(findings, headers), "InstitutionName")
        self.signed = context.signed
        self.notice = wording.notice(context.signed)
        self.issued = instant(context.issued_at)
        self.study = {"type": "ImagingStudy", "identifier": dicom_identifier(findings.study_uid)}
        self.report_url = _full_url("DiagnosticReport", findings.study_uid)
        self.panel_url = _full_url("Observation", findings.study_uid)
        self.device_url = _full_url("Device", findings.model.digest)
        self.host_url = _full_url("Device", f"host {context.host_name}")
        self.document_url = _full_url("DocumentReference", sr_uid)
        self.about = self._about()

    def cells(self) -> Iterator[Resource]:
        """Yield one entry a cell that is listed by itself."""
        for instance, cell in listed_cells(self.findings, self.context):
            yield _updated(_full_url("Observation", cell.tracking_uid), self._cell(instance, cell))

    def rest(self, presented_form: list[Resource]) -> list[Resource]:
        """Return the entries of everything that is there once."""
        host = [_updated(self.host_url, self._host())] if self.context.host_name else []
        return [
            *host,
            _updated(self.device_url, self._device()),
            _updated(self.panel_url, self._panel()),
            _updated(self.document_url, self._document()),
            _updated(self.report_url, self._report(presented_form)),
            self._provenance(),
        ]

    def _about(self) -> Resource:
        """Return the elements that report, panel and cells share: subject, order, time."""
        source = self.source
        about: Resource = {}
        if source.accession_number:
            about["basedOn"] = [order_reference(source)]
        if source.patient_id:
            about["subject"] = patient_reference(source)
        if source.study_date:
            date = source.study_date
            about["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
        return about

    def _host(self) -> Resource:
        name = clean(self.context.host_name)
        return {
            "resourceType": "Device",
            "text": narrative(f"Computer {name}, on which allpacs {allpacs.__version__} runs."),
            "identifier": [{"system": SYSTEMS[codes.PRIVATE_SCHEME], "value": f"host:{name}"}],
            "status": "active",
            "deviceName": [{"name": name, "type": "user-friendly-name"}],
            "version": [{"type": {"text": "allpacs"}, "value": allpacs.__version__}],
        }

    def _device(self) -> Resource:
        model = self.findings.model
        name = clean(model.name)
        device: Resource = {
            "resourceType": "Device",
            "text": narrative(f"Algorithm {name} {clean(model.version)} ({clean(model.family)}). Research use only."),
            "identifier": [
                dicom_identifier(model.device_uid),
                {"system": SYSTEMS[codes.PRIVATE_SCHEME], "value": model.digest},
            ],
            "status": "active",
            "manufacturer": clean(model.manufacturer),
            "modelNumber": clean(model.family),
            "deviceName": [{"name": name, "type": "model-name"}],
            "type": concept(codes.ARTIFICIAL_INTELLIGENCE),
            "version": [
                {"type": {"text": "model"}, "value": clean(model.version)},
                {"type": {"text": "allpacs"}, "value": allpacs.__version__},
            ],
            "note": [{"text": wording.RESEARCH_USE}],
        }
        if self.context.model_card.strip():
            device["note"].append({"text": self.context.model_card.strip()})
        if self.context.host_name:
            device["parent"] = {"reference": self.host_url}
        return device

    def _observation(self, identifier: dict[str, str], code: Code, said: str) -> Resource:
        return {
            "resourceType": "Observation",
            "meta": asserted(self.signed),
            "text": narrative(f"{said} {self.notice}"),
            "identifier": [identifier],
            "status": observation_status(self.signed),
            "category": [category("observation-category", "imaging", "Imaging")],
            "code": concept(code),
            "issued": self.issued,
            "device": {"reference": self.device_url},
            "derivedFrom": [self.study],
            **self.about,
        }

    def _cell(self, instance: InstanceFindings, cell: CellFinding) -> Resource:
        observation = self._observation(
            dicom_identifier(cell.tracking_uid),
            codes.CELL_CLASS,
            f"White cell, {cell.tracking_id}: {wording.outcome(cell)}{_probability_words(cell)}.",
        )
        observation |= {"meta": asserted(self.signed, cell), "status": observation_status(self.signed, cell)}
        specimens = self.source.specimens.get(instance.sop_instance_uid, ())
        if len(specimens) == 1:
            observation["specimen"] = specimen_reference(specimens[0])
        site = self.source.site(instance.sop_instance_uid)
        if site is not None:
            observation["bodySite"] = concept(site)
        if cell.label is not None:
            observation["valueCodeableConcept"] = cell_class(cell.label)
        else:
            observation["dataAbsentReason"] = not_assessable(cell.reason)
        region = f"urn:oid:{instance.sop_instance_uid}#frame={cell.frame_number}&xywh="
        observation["component"] = [
            {
                "code": concept(codes.IMAGE_REGION),
                "valueString": region + ",".join(map(str, cell.box.as_list())),
            }
        ]
        if cell.probability_all is not None:
            probability = concept(codes.PROBABILITY)
            probability["text"] = "Probability that the cell is a lymphoblast"
            observation["component"].insert(0, {"code": probability, "valueQuantity": share(cell.probability_all)})
        notes = cell_notes(self.signed, cell)
        if notes:
            observation["note"] = notes
        return observation

    def _panel(self) -> Resource:
        findings = self.findings
        counts = findings.counts
        panel = self._observation(panel_identifier(findings.study_uid), codes.CLASSIFICATION, wording.summary(findings))
        specimens = self.source.all_specimens
        if len(specimens) == 1:
            panel["specimen"] = specimen_reference(specimens[0])
        listed = listed_cells(findings, self.context)
        members = [{"reference": _full_url("Observation", cell.tracking_uid)} for _, cell in listed]
        if members:
            panel["hasMember"] = members
        panel["component"] = [
            {"code": concept(name), "valueInteger": number}
            for name, number in (
                (codes.CELLS_FOUND, findings.found),
                (codes.LYMPHOBLASTS, counts.all),
                (codes.HEMATOGONES, counts.hem),
                (codes.CELLS_NOT_ASSESSABLE, counts.not_assessable),
            )
        ]
        fraction: Resource = {"code": concept(codes.LYMPHOBLAST_FRACTION)}
        interval: Resource = {"code": concept(codes.INTERVAL)}
        if findings.fraction is not None:
            fraction["valueQuantity"] = share(findings.fraction.value)
            interval["valueRange"] = {"low": share(findings.fraction.low), "high": share(findings.fraction.high)}
        else:
            fraction["dataAbsentReason"] = interval["dataAbsentReason"] = data_absent(
                "not-applicable", "Not Applicable"
            )
        panel["component"] += [fraction, interval]
        unreadable = [i for i in findings.instances if i.fault is not None]
        lines = (f"{clean(i.sop_instance_uid)}: {clean(i.fault or '')}" for i in unreadable)
        notes = [*study_notes(self.signed), *({"text": f"Instance that could not be read: {line}"} for line in lines)]
        remarks = ((i.sop_instance_uid, line) for i in self.findings.instances for line in wording.remarks(i))
        notes += [{"text": f"{clean(uid)}: {clean(line)}"} for uid, line in remarks]
        if notes:
            panel["note"] = notes
        return panel

    def _document(self) -> Resource:
        attachment: Resource = {
            "contentType": "application/dicom",
            "title": "DICOM structured report: white cell classification (research use only)",
            "creation": self.issued,
        }
        if self.context.wado_url_template:
            url = self.context.wado_url_template.replace("{study}", self.findings.study_uid)
            url = url.replace("{series}", sr_series_uid(self.findings)).replace("{instance}", self.sr_uid)
            attachment["url"] = url
        document: Resource = {
            "resourceType": "DocumentReference",
            "meta": asserted(self.signed),
            "text": narrative(f"DICOM structured report of a white cell classification. {self.notice}"),
            "masterIdentifier": {"system": URI, "value": f"urn:oid:{self.sr_uid}"},
            # The second is the UID that it has at a PACS which takes Comprehensive SR only.
            "identifier": [dicom_identifier(self.sr_uid), dicom_identifier(comprehensive_uid(self.sr_uid))],
            "status": "current",
            "docStatus": "preliminary" if self.signed is None else "final",
            "type": concept(codes.DIAGNOSTIC_IMAGING_REPORT),
            "date": self.issued,
            "author": [{"reference": self.device_url}],
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
            "context": {"related": [self.study]},
        }
        if self.signed is not None:
            document["authenticator"] = practitioner(self.signed.review.reviewer)
        if "subject" in self.about:
            document["subject"] = self.about["subject"]
        prior = self.context.predecessor
        if prior is not None and prior.sop_instance_uid != self.sr_uid:
            replaced = {"type": "DocumentReference", "identifier": dicom_identifier(prior.sop_instance_uid)}
            document["relatesTo"] = [{"code": "replaces", "target": replaced}]
        return document

    def _report(self, presented_form: list[Resource]) -> Resource:
        code = concept(codes.DIAGNOSTIC_IMAGING_REPORT)
        code["coding"].append(coding(codes.CLASSIFICATION))
        code["text"] = f"{codes.CLASSIFICATION.meaning} (research use only)"
        conclusion = f"{wording.summary(self.findings)} {self.notice}"
        report: Resource = {
            "resourceType": "DiagnosticReport",
            "meta": asserted(self.signed),
            "text": narrative(conclusion),
            "identifier": [report_identifier(self.findings.study_uid)],
            "status": report_status(self.context),
            "category": [category("v2-0074", "HM", "Hematology")],
            "code": code,
            "issued": self.issued,
            "result": [{"reference": self.panel_url}],
            "imagingStudy": [self.study],
            "conclusion": conclusion,
            "presentedForm": presented_form,
            **self.about,
        }
        if self.organisation:
            report["performer"] = [{"type": "Organization", "display": self.organisation}]
        if self.signed is not None:
            report["conclusionCode"] = [conclusion_code(self.findings.counts)]
            report["resultsInterpreter"] = [practitioner(self.signed.review.reviewer)]
        if self.source.all_specimens:
            report["specimen"] = [specimen_reference(specimen) for specimen in self.source.all_specimens]
        return report

    def _provenance(self) -> Resource:
        tag = {"system": SYSTEMS[codes.PRIVATE_SCHEME], "code": derive_uuid("provenance", self.sr_uid)}
        targets = (self.report_url, self.panel_url, self.document_url)
        inputs = [dicom_identifier(instance.sop_instance_uid) for instance in self.findings.instances]
        provenance: Resource = {
            "resourceType": "Provenance",
            "meta": {**asserted(self.signed), "tag": [tag]},
            "text": narrative(
                f"Revision {self.findings.revision}, made from {wording.counted(len(inputs), 'instance', 'instances')} "
                f"by {clean(self.findings.model.name)} {clean(self.findings.model.version)}. {self.notice}"
            ),
            "target": [{"reference": url} for url in targets],
            "occurredDateTime": self.issued,
            "recorded": self.issued,
            "agent": [
                {
                    "type": category("provenance-participant-type", "assembler", "Assembler"),
                    "who": {"reference": self.device_url},
                }
            ],
            "entity": [{"role": "source", "what": self.study}],
        }
        if self.signed is not None:
            provenance["agent"].append(verifier(self.signed))
        return {
            "fullUrl": _full_url("Provenance", self.sr_uid),
            "resource": provenance,
            "request": {
                "method": "POST",
                "url": "Provenance",
                "ifNoneExist": f"_tag={tag['system']}|{tag['code']}",
            },
        }


def _presented_form(
    findings: StudyFindings,
    headers: Headers,
    context: ReportContext,
    source: Source,
    html: Artefact | None,
    pdf: bytes | None,
) -> list[Resource]:
    form = (html or html_report(findings, headers, context, source=source)).content
    # A page that would still be too large is not made: a large study's takes as long as all its Observations.
    if len(form) > PRESENTED_FORM_LIMIT >= len(form) - picture_bytes(context):
        context = replace(context, thumbnails={})
        form = html_report(findings, headers, context, source=source).content
    if len(form) > PRESENTED_FORM_LIMIT:
        form = html_report(findings, headers, context, list_cells=False, source=source).content
    forms = [_attachment("text/html", form, context)]
    if pdf is not None and len(pdf) <= PRESENTED_FORM_LIMIT:
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


def _updated(full_url: str, resource: Resource) -> Resource:
    """Return a conditional update: the resource with this identifier is replaced, or made where there is none."""
    identifier = resource["identifier"][0]
    value = quote(identifier["value"], safe=":")
    url = f"{resource['resourceType']}?identifier={identifier['system']}|{value}"
    return {"fullUrl": full_url, "resource": resource, "request": {"method": "PUT", "url": url}}


def _full_url(kind: str, of: str) -> str:
    return f"urn:uuid:{derive_uuid('fhir', kind, of)}"


def _probability_words(cell: CellFinding) -> str:
    if cell.probability_all is None:
        return ""
    return f", probability of a lymphoblast {wording.percent(wording.stated(cell.probability_all))}"
