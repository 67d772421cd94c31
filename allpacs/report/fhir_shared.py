"""What the FHIR resources of one bundle share: references to one another, subject, order and time; entries.

Source: HL7 FHIR R4 section 3.1.0.11 (transaction), bundle.html#references (fullUrl).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uuid
from allpacs.domain.review import Signed
from allpacs.report import wording
from allpacs.report.context import ReportContext
from allpacs.report.fhir_elements import (
    Resource,
    dicom_identifier,
    instant,
    order_identifiers,
    order_reference,
    patient_reference,
)
from allpacs.report.inputs import FormatInputs
from allpacs.report.source import Source
from allpacs.report.specimens import SpecimenResult


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What the resources of one bundle share.

    Attributes
    ----------
    sr_uid:
        SOP Instance UID of the structured report that states the same findings.
    issued:
        FHIR instant: when the report was signed, or made if nobody has signed it.
    image_numbers:
        Number of each image within the study, by SOP Instance UID.
    study:
        Logical reference to the ImagingStudy.
    about:
        Elements that report, panel and cells have in common: subject, order, time.
    panel_urls:
        One for each of `parts`, in their order.
    parts:
        The findings of each specimen.
    contradictions:
        What the headers contradict themselves in.
    report_url, device_url, host_url, document_url:
        ``fullUrl`` of the resources that others refer to.
    """

    findings: StudyFindings
    context: ReportContext
    source: Source
    sr_uid: str
    issued: str
    image_numbers: Mapping[str, int]
    study: Resource
    about: Resource
    parts: Sequence[SpecimenResult]
    contradictions: Sequence[str]
    panel_urls: Sequence[str]
    report_url: str
    device_url: str
    host_url: str
    document_url: str

    @property
    def signed(self) -> Signed | None:
        """The review that a person signed, or None."""
        return self.context.signed

    @property
    def notice(self) -> str:
        """The notice that every resource carries in its narrative."""
        return wording.notice(self.context.signed)


def shared_by(inputs: FormatInputs) -> Shared:
    """Return what the resources of a revision's bundle share."""
    findings, context = inputs.findings, inputs.context
    sr_uid = inputs.uid_of(ArtefactKind.SR)
    return Shared(
        findings=findings,
        context=context,
        source=inputs.source,
        sr_uid=sr_uid,
        issued=instant(context.issued_at),
        image_numbers=findings.image_numbers,
        study={"type": "ImagingStudy", "identifier": dicom_identifier(findings.study_uid)},
        about=_about(inputs.source, context),
        parts=inputs.parts,
        contradictions=inputs.contradictions,
        panel_urls=[full_url("Observation", findings.study_uid, *specimen_key(inputs.parts, p)) for p in inputs.parts],
        report_url=full_url("DiagnosticReport", findings.study_uid),
        device_url=full_url("Device", findings.model.digest),
        host_url=full_url("Device", f"host {context.host_name}"),
        document_url=full_url("DocumentReference", sr_uid),
    )


def specimen_key(parts: Sequence[SpecimenResult], part: SpecimenResult) -> tuple[str, ...]:
    """Return by what a specimen's panel is told apart from the others of the study; nothing if there is one panel."""
    if len(parts) == 1:
        return ()
    return tuple(specimen.uid or specimen.identifier for specimen in part.specimens) or ("not stated",)


def _about(source: Source, context: ReportContext) -> Resource:
    """Return the elements that report, panels and cells share: subject, order, time."""
    about: Resource = {}
    systems = context.fhir.identifier_systems
    if orders := [order_reference(order, systems) for order in source.orders if order_identifiers(order, systems)]:
        about["basedOn"] = orders
    if source.patient_id:
        about["subject"] = patient_reference(source, systems, conditional=context.fhir.conditional_patient)
    if effective := _effective(source, context):
        about["effectiveDateTime"] = effective
    return about


def _effective(source: Source, context: ReportContext) -> str:
    """Return when the images were acquired: with its time if both are stated, else the day; empty if unknown."""
    moment = source.acquired
    if not moment:
        return ""
    day = f"{moment[:4]}-{moment[4:6]}-{moment[6:8]}"
    if len(moment) < 14:
        return day
    offset = source.timezone_offset or context.made_at.strftime("%z")
    return f"{day}T{moment[8:10]}:{moment[10:12]}:{moment[12:14]}{offset[:3]}:{offset[3:5]}"


def updated(full_url: str, resource: Resource) -> Resource:
    """Return a conditional update: the resource with this identifier is replaced, or made where there is none."""
    identifier = resource["identifier"][0]
    value = quote(identifier["value"], safe=":")
    url = f"{resource['resourceType']}?identifier={identifier['system']}|{value}"
    return {"fullUrl": full_url, "resource": resource, "request": {"method": "PUT", "url": url}}


def full_url(kind: str, *of: str) -> str:
    """Return the address of a resource within the bundle; the same for the same thing in every bundle."""
    return f"urn:uuid:{derive_uuid('fhir', kind, *of)}"
