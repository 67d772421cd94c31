"""The modules of a structured report around its content: patient, study, series, equipment, references.

Source: PS3.3 A.35.13 and the sections named below.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, python_encoding
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

import allpacs
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER
from allpacs.domain.review import Signed
from allpacs.report import codes, wording
from allpacs.report.context import PriorReport, ReportContext, sr_series_uid
from allpacs.report.source import CORRUPT, Headers, Source, clean, encoded, items, lead_header, read_source, text

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "AI white cell classification (research use only)"

#: Copied unchanged from the source: Patient, Clinical Trial Subject, General Study and Patient Study modules
#: (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2).
COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
    *("OtherPatientIDsSequence", "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientNames"),
    *("EthnicGroup", "PatientComments", "QualityControlSubject", "PatientSpeciesDescription"),
    *("PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence", "ResponsiblePerson"),
    *("ResponsiblePersonRole", "ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord"),
    *("ConsultingPhysicianName", "ProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight"),
    *("Occupation", "AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID"),
    *("ServiceEpisodeDescription", "TimezoneOffsetFromUTC"),
)

#: Specimen module (PS3.3 C.7.6.22); copied where every instance names the same container.
SPECIMEN = (
    *("ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence"),
    *("ContainerDescription", "ContainerComponentSequence", "SpecimenDescriptionSequence"),
)

#: Value representations whose values have a form that says what they are.
_FORMED = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "TM"})

#: Attributes of type 2: present, empty where the source does not have them.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber"),
)

_ORDER_NUMBERS = ("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest")
_REQUESTED = ("RequestedProcedureID", "RequestedProcedureDescription")


def document(
    findings: StudyFindings,
    headers: Headers,
    source: Source,
    context: ReportContext,
    uid: str,
    prior: PriorReport | None,
) -> Dataset:
    """Return all modules of the report but its content."""
    said = own_text(findings, source, context)
    report = about_study(findings, headers, said)
    add_equipment(report, findings, context)
    _add_general(report, findings, source, context, uid)
    if context.signed is not None:
        _add_verification(report, context.signed, source)
    character_set = _character_set(findings, headers, said)
    _add_references(report, findings, lead_header(findings, headers), character_set, context, prior)
    return report


@dataclass(frozen=True, slots=True)
class Series:
    """The series that a kind of result has in every study."""

    uid: str
    number: int
    description: str
    modality: str


def result_object(
    findings: StudyFindings, headers: Headers, context: ReportContext, uid: str, sop_class_uid: str, series: Series
) -> Dataset:
    """Return what every result that goes with the report has in common: patient, study, series, equipment, times."""
    source = read_source(findings, headers)
    made = about_study(findings, headers, own_text(findings, source, context))
    add_equipment(made, findings, context)
    issued_at = local(context.issued_at, source.timezone_offset)
    made.SOPClassUID = sop_class_uid
    made.SOPInstanceUID = uid
    made.StudyInstanceUID = findings.study_uid
    made.SeriesInstanceUID = series.uid
    made.SeriesNumber = series.number
    made.SeriesDescription = series.description
    made.Modality = series.modality
    made.InstanceNumber = findings.revision
    made.InstanceCreationDate = made.ContentDate = issued_at.strftime("%Y%m%d")
    made.InstanceCreationTime = made.ContentTime = issued_at.strftime("%H%M%S")
    made.file_meta = file_meta(made)
    return made


def part_10(made: Dataset) -> bytes:
    """Return an object as a Part 10 file in Explicit VR Little Endian."""
    buffer = BytesIO()
    dcmwrite(buffer, made, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def about_study(findings: StudyFindings, headers: Headers, said: str) -> Dataset:
    """Return the modules of patient, study and specimen as the source has them, in a character set for the text too."""
    character_set = _character_set(findings, headers, said)
    copied = (*COPIED, *SPECIMEN) if _one_container(findings, headers) else COPIED
    report = _copied(lead_header(findings, headers), copied, character_set)
    for keyword in _TYPE_2:
        if keyword not in report:
            setattr(report, keyword, None)
    if character_set != [""]:
        report.SpecificCharacterSet = character_set if len(character_set) > 1 else character_set[0]
    return report


def _copied(header: Dataset, keywords: tuple[str, ...], character_set: list[str]) -> Dataset:
    """Return the named elements, decoded, so that they can be written in another character set.

    A corrupt element is left out: one that cannot be read, has the wrong value representation, or cannot be written
    (pydicom reads some corrupt values that it cannot write). So is a date, time, number or code string that is none: a
    PACS may refuse the report for it. What names the patient stays as it came, since the archive knows it so.
    """
    copy = Dataset()
    encodings = convert_encodings(character_set)
    for keyword in keywords:
        try:
            if keyword in header and dictionary_VR(keyword) == header[keyword].VR:
                element = _decoded(header[keyword])
                _check_form(element)
                encoded(element, encodings)  # raises where it cannot be written
                copy.add(element)
        except CORRUPT:
            continue
    return copy


def _check_form(element: DataElement) -> None:
    """Raise ValueError where a value that has a form (PS3.5 section 6.2) does not have it, or there are too many."""
    if element.VR in _FORMED and element.value is not None:
        if isinstance(element.value, MultiValue) and dictionary_VM(element.tag) == "1":
            raise ValueError("several values of an attribute that has one")
        for value in element.value if isinstance(element.value, MultiValue) else [element.value]:
            validate_value(element.VR, str(value), RAISE)


def _decoded(found: DataElement) -> DataElement:
    if found.VR != "SQ":
        return DataElement(found.tag, found.VR, found.value, already_converted=True)
    decoded = []
    for nested in found.value:
        copy = Dataset()
        for inner in nested:
            if inner.keyword != "SpecificCharacterSet":
                copy.add(_decoded(inner))
        decoded.append(copy)
    return DataElement(found.tag, "SQ", Sequence(decoded))


def _one_container(findings: StudyFindings, headers: Headers) -> bool:
    """Whether all instances show the same container (slide), so that one Specimen module is true of them all."""
    known = [headers[i.sop_instance_uid] for i in findings.instances if i.sop_instance_uid in headers]
    names = {text(header, "ContainerIdentifier") for header in known}
    return len(names) == 1 and "" not in names


def own_text(findings: StudyFindings, source: Source, context: ReportContext) -> str:
    """Return all text of the report that may be other than ASCII and is not copied from the header as it is.

    `allpacs.report.content` encodes text in UTF-8, which says the same in any character set as long as it is ASCII.
    """
    model = findings.model
    faults = [line for one in findings.instances for line in (one.fault or "", *wording.remarks(one))]
    named = [model.name, model.version, model.digest, model.family, model.manufacturer, findings.decision_digest]
    if context.signed is not None:
        review = context.signed.review
        named += [review.reviewer.name, review.reviewer.organisation, review.reviewer.identifier, review.comment]
        named += [one.comment for one in review.cells]
    return "".join([*named, *faults, context.host_name, context.model_card, *source.procedure[:3]])


def _character_set(findings: StudyFindings, headers: Headers, own_text: str) -> list[str]:
    """Return the source's character set; Unicode where sources differ, it is unknown, or our own text needs it.

    Source: PS3.3 C.12.1.1.2.
    """
    stated = {
        text(headers[instance.sop_instance_uid], "SpecificCharacterSet")
        for instance in findings.instances
        if instance.sop_instance_uid in headers
    }
    if len(stated) > 1:
        return ["ISO_IR 192"]
    terms = "".join(stated).split("\\")
    known = all((term or "ISO_IR 6") in python_encoding for term in terms)
    return terms if own_text.isascii() and known else ["ISO_IR 192"]


def add_equipment(report: Dataset, findings: StudyFindings, context: ReportContext) -> None:
    """General Equipment (C.7.5.1): this plugin, so that it knows its own results again. The algorithm contributed."""
    model = findings.model
    report.Manufacturer = MANUFACTURER
    report.ManufacturerModelName = "allpacs"
    report.SoftwareVersions = allpacs.__version__
    if context.host_name:
        report.StationName = clean(context.host_name)[:16]
    algorithm = Dataset()
    algorithm.PurposeOfReferenceCodeSequence = [code_item(codes.PROCESSING_EQUIPMENT)]
    algorithm.Manufacturer = clean(model.manufacturer)[:64]
    algorithm.ManufacturerModelName = clean(model.name)[:64]
    algorithm.SoftwareVersions = clean(model.version)[:64]
    algorithm.DeviceUID = model.device_uid
    algorithm.ContributionDateTime = context.made_at.strftime("%Y%m%d%H%M%S%z")
    algorithm.ContributionDescription = clean(f"White cell classification, {model.family}, {model.digest}")
    report.ContributingEquipmentSequence = [algorithm]


def _add_general(report: Dataset, findings: StudyFindings, source: Source, context: ReportContext, uid: str) -> None:
    """SR Document Series (C.17.1), SR Document General (C.17.2) and SOP Common (C.12.1)."""
    issued_at = local(context.issued_at, source.timezone_offset)
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = uid
    report.StudyInstanceUID = findings.study_uid
    report.SeriesInstanceUID = sr_series_uid(findings)
    report.SeriesNumber = SERIES_NUMBER
    report.SeriesDescription = SERIES_DESCRIPTION
    report.Modality = "SR"
    report.ReferencedPerformedProcedureStepSequence = []
    report.InstanceNumber = findings.revision
    report.InstanceCreationDate = report.ContentDate = issued_at.strftime("%Y%m%d")
    report.InstanceCreationTime = report.ContentTime = issued_at.strftime("%H%M%S")
    report.PreliminaryFlag = "PRELIMINARY"
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PerformedProcedureCodeSequence = []
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    scheme.CodingSchemeUID = codes.PRIVATE_SCHEME_UID
    scheme.CodingSchemeName = "allpacs private codes"
    scheme.CodingSchemeResponsibleOrganization = "allpacs"
    report.CodingSchemeIdentificationSequence = [scheme]


def _add_verification(report: Dataset, signed: Signed, source: Source) -> None:
    """Verifying Observer (C.17.2): who signed, for whom and when; the report is final then."""
    review = signed.review
    observer = Dataset()
    observer.VerifyingOrganization = clean(review.reviewer.organisation)
    observer.VerificationDateTime = local(review.signed_at, source.timezone_offset).strftime("%Y%m%d%H%M%S%z")
    observer.VerifyingObserverName = clean(review.reviewer.name)
    observer.VerifyingObserverIdentificationCodeSequence = []
    report.VerifyingObserverSequence = [observer]
    report.VerificationFlag = "VERIFIED"
    report.PreliminaryFlag = "FINAL"


def _add_references(
    report: Dataset,
    findings: StudyFindings,
    lead: Dataset,
    character_set: list[str],
    context: ReportContext,
    prior: PriorReport | None,
) -> None:
    """Evidence: every input, read or not, and what is attached; the request; the report that this one replaces."""
    named = [(i.series_uid, i.sop_class_uid, i.sop_instance_uid) for i in findings.instances]
    named += [(one.series_uid, one.sop_class_uid, one.sop_instance_uid) for one in context.attached]
    if named:
        report.CurrentRequestedProcedureEvidenceSequence = [evidence(findings.study_uid, named)]
    if prior is not None:
        replaced = [(prior.series_uid, prior.sop_class_uid, prior.sop_instance_uid)]
        report.PredecessorDocumentsSequence = [evidence(findings.study_uid, replaced)]
    requested = next(items(lead, "RequestAttributesSequence"), Dataset())
    request = _copied(requested, (*_ORDER_NUMBERS, *_REQUESTED), character_set)
    accession = (*_ORDER_NUMBERS, "AccessionNumber", "IssuerOfAccessionNumberSequence")
    request.update(_copied(lead, accession, character_set))
    stated = (*_ORDER_NUMBERS, *_REQUESTED, "AccessionNumber")
    if any(request.get(keyword) for keyword in stated):
        for keyword in stated:
            if keyword not in request:
                setattr(request, keyword, None)
        request.StudyInstanceUID = findings.study_uid
        request.ReferencedStudySequence = []
        request.RequestedProcedureCodeSequence = []
        report.ReferencedRequestSequence = [request]


def evidence(study_uid: str, references: list[tuple[str, str, str]]) -> Dataset:
    """Hierarchical SOP Instance Reference Macro (C.17.2.1)."""
    by_series: dict[str, list[Dataset]] = {}
    for series_uid, sop_class_uid, sop_instance_uid in references:
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class_uid
        reference.ReferencedSOPInstanceUID = sop_instance_uid
        by_series.setdefault(series_uid, []).append(reference)
    study = Dataset()
    study.ReferencedSeriesSequence = []
    for series_uid, several in by_series.items():
        series = Dataset()
        series.ReferencedSOPSequence = several
        series.SeriesInstanceUID = series_uid
        study.ReferencedSeriesSequence.append(series)
    study.StudyInstanceUID = study_uid
    return study


def file_meta(of: Dataset) -> FileMetaDataset:
    """Return the File Meta Information of an object that is written in Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = of.SOPClassUID
    meta.MediaStorageSOPInstanceUID = of.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a code sequence (PS3.3 section 8.8)."""
    found = Dataset()
    found.CodeValue = code.value
    found.CodingSchemeDesignator = code.scheme_designator
    found.CodeMeaning = code.meaning
    return found


def local(moment: datetime, offset: str) -> datetime:
    """Return the moment in the source's time zone where it states one, otherwise unchanged."""
    if not offset:
        return moment
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return moment.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
