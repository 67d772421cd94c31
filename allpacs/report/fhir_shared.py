"""What the FHIR resources of one bundle share: references to one another, subject, order and time; entries.

Source: HL7 FHIR R4 section 3.1.0.11 (transaction), bundle.html#references (fullUrl).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import derive_uuid
from allpacs.domain.review import Signed
from allpacs.report import wording
from allpacs.report.context import ReportContext
from allpacs.report.fhir_elements import Resource, dicom_identifier, instant, order_reference, patient_reference
from allpacs.report.inputs import FormatInputs
from allpacs.report.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What the resources of one bundle share.

    Attributes
    ----------
    sr_uid:
        SOP Instance UID of the structured report that states the same findings.
    issued:
        FHIR instant: when the report was signed, or made if nobody has signed it.
    study:
        Logical reference to the ImagingStudy.
    about:
        Elements that report, panel and cells have in common: subject, order, time.
    report_url, panel_url, device_url, host_url, document_url:
        ``fullUrl`` of the resources that others refer to.
    """

    findings: StudyFindings
    context: ReportContext
    source: Source
    sr_uid: str
    issued: str
    study: Resource
    about: Resource
    report_url: str
    panel_url: str
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
        study={"type": "ImagingStudy", "identifier": dicom_identifier(findings.study_uid)},
        about=_about(inputs.source),
        report_url=full_url("DiagnosticReport", findings.study_uid),
        panel_url=full_url("Observation", findings.study_uid),
        device_url=full_url("Device", findings.model.digest),
        host_url=full_url("Device", f"host {context.host_name}"),
        document_url=full_url("DocumentReference", sr_uid),
    )


def _about(source: Source) -> Resource:
    """Return the elements that report, panel and cells share: subject, order, time."""
    about: Resource = {}
    if source.accession_number:
        about["basedOn"] = [order_reference(source)]
    if source.patient_id:
        about["subject"] = patient_reference(source)
    if source.study_date:
        date = source.study_date
        about["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return about


def updated(full_url: str, resource: Resource) -> Resource:
    """Return a conditional update: the resource with this identifier is replaced, or made where there is none."""
    identifier = resource["identifier"][0]
    value = quote(identifier["value"], safe=":")
    url = f"{resource['resourceType']}?identifier={identifier['system']}|{value}"
    return {"fullUrl": full_url, "resource": resource, "request": {"method": "PUT", "url": url}}


def full_url(kind: str, of: str) -> str:
    """Return the address of a resource within the bundle; the same for the same thing in every bundle."""
    return f"urn:uuid:{derive_uuid('fhir', kind, of)}"
