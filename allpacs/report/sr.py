"""Findings to a DICOM structured report: Comprehensive 3D SR with root template TID 1500.

One group of TID 1410 a cell (outline, class, probability); counts and fraction under Derived Imaging Measurements
(TID 1420); the summary, the notice and what could not be read under Qualitative Evaluations. Study-level numbers are no
measurement group, because a group without a region makes a widely used viewer fail.

Source: PS3.3 A.35.13; PS3.16 TID 1500, 1410, 1420, 4019; IHE AI Results (AIR).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from io import BytesIO

import pydicom
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import Tag
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian

import allpacs
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, InstanceFindings, StudyFindings
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER
from allpacs.report import codes, wording
from allpacs.report.content import (
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    HAS_PROPERTIES,
    coded,
    container,
    element,
    identified,
    items,
    measured,
    region,
    written,
)
from allpacs.report.context import PriorReport, ReportContext, result_uid, sr_series_uid
from allpacs.report.source import Headers, Source, clean, lead_header, read_source
from allpacs.report.source import items as header_items

SERIES_NUMBER = 9901
SERIES_DESCRIPTION = "AI white cell classification (research use only)"

#: Copied unchanged from the source: Patient, Clinical Trial Subject, General Study and Patient Study modules
#: (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2).
_COPIED = [
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "QualityControlSubject",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "ConsultingPhysicianName",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "TimezoneOffsetFromUTC",
]

#: Specimen module (PS3.3 C.7.6.22); copied where every instance names the same container.
_SPECIMEN = [
    "ContainerIdentifier",
    "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "ContainerDescription",
    "ContainerComponentSequence",
    "SpecimenDescriptionSequence",
]

#: Attributes of type 2: present, empty where the source does not have them.
_TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
]

_REQUEST = [
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
]


def structured_report(findings: StudyFindings, headers: Headers, context: ReportContext) -> Artefact:
    """Return the structured report of one revision of a study, as a Part 10 file.

    Parameters
    ----------
    findings:
        All instances of the study, also those that could not be read.
    headers:
        Source headers without pixels, by SOP Instance UID; may be incomplete.
    context:
        When and after what the report is made.
    """
    source = read_source(findings, headers)
    uid = result_uid("sr", findings)
    prior = context.predecessor if context.predecessor and context.predecessor.sop_instance_uid != uid else None
    content = items(_root_content(findings, source))
    report = _copied(lead_header(findings, headers), _COPIED)
    if _one_container(findings, headers):
        report.update(_copied(lead_header(findings, headers), _SPECIMEN))
    _add_character_set(report, findings, headers, content, context)
    for keyword in _TYPE_2:
        if keyword not in report:
            setattr(report, keyword, None)
    _add_equipment(report, findings, context)
    _add_document(report, findings, source, context, uid)
    _add_references(report, findings, headers, prior)
    report.ValueType = "CONTAINER"
    report.ConceptNameCodeSequence = [_code_item(codes.IMAGING_MEASUREMENT_REPORT)]
    report.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    report.ContentTemplateSequence = [template]
    return Artefact(
        kind=ArtefactKind.SR,
        uid=uid,
        media_type="application/dicom",
        file_name=f"{uid}.dcm",
        content=_part_10(report, content),
        supersedes=prior.sop_instance_uid if prior else None,
    )


# --- Content tree ---


def _root_content(findings: StudyFindings, source: Source) -> Iterator[bytes]:
    model = findings.model
    algorithm = _algorithm(findings)
    yield coded(HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH)
    yield coded(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE)
    yield identified(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_UID, model.device_uid)
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, clean(f"{model.name} {model.version}"))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, clean(model.manufacturer))
    yield written(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, clean(model.family))
    yield coded(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, source.procedure)
    groups = [
        _cell_group(instance, cell, source, algorithm) for instance in findings.instances for cell in instance.cells
    ]
    yield container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups or algorithm)
    yield container(CONTAINS, codes.DERIVED_IMAGING_MEASUREMENTS, [*algorithm, *_derived(findings)])
    yield container(CONTAINS, codes.QUALITATIVE_EVALUATIONS, list(_evaluations(findings)))


def _algorithm(findings: StudyFindings) -> list[bytes]:
    """TID 4019: which algorithm, in which version, with which settings."""
    model = findings.model
    return [
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_NAME, clean(model.name)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_VERSION, clean(model.version)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_MANUFACTURER, clean(model.manufacturer)),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"network {model.family}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"model {model.digest}")),
        written(HAS_CONCEPT_MOD, codes.ALGORITHM_PARAMETERS, clean(f"decision {findings.decision_digest}")),
        coded(HAS_CONCEPT_MOD, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]


def _cell_group(instance: InstanceFindings, cell: CellFinding, source: Source, algorithm: list[bytes]) -> bytes:
    """TID 1410 for one cell."""
    group = [
        written(HAS_OBS_CONTEXT, codes.TRACKING_IDENTIFIER, cell.tracking_id),
        identified(HAS_OBS_CONTEXT, codes.TRACKING_UNIQUE_IDENTIFIER, cell.tracking_uid),
    ]
    if cell.label is not None:
        group.append(coded(CONTAINS, codes.FINDING, codes.LABELS[cell.label]))
    else:
        substitute = codes.INDETERMINATE if cell.reason is None else codes.NOT_ASSESSABLE[cell.reason]
        group.append(coded(CONTAINS, codes.FINDING, substitute))
    group += algorithm
    site = source.site(cell.sop_instance_uid)
    if site is not None:
        group.append(coded(HAS_CONCEPT_MOD, codes.FINDING_SITE, site))
    outline = cell.outline if len(cell.outline) >= 3 else cell.box.corners()
    frame_number = cell.frame_number if instance.frames > 1 else None
    group.append(
        region(codes.IMAGE_REGION, outline, instance.sop_class_uid, instance.sop_instance_uid, frame_number),
    )
    if cell.probability_all is not None:
        number = wording.decimal_string(cell.probability_all)
        group.append(measured(CONTAINS, codes.PROBABILITY, number, codes.NO_UNITS))
    if cell.reason is not None:
        group.append(coded(CONTAINS, codes.REASON_NOT_ASSESSABLE, codes.REASONS[cell.reason]))
    return container(CONTAINS, codes.MEASUREMENT_GROUP, group, template="1410")


def _derived(findings: StudyFindings) -> Iterator[bytes]:
    """TID 1420: numbers derived from all cells together."""
    counts = findings.counts
    for name, number in (
        (codes.CELLS_FOUND, counts.total),
        (codes.LYMPHOBLASTS, counts.all),
        (codes.HEMATOGONES, counts.hem),
        (codes.CELLS_NOT_ASSESSABLE, counts.not_assessable),
    ):
        yield measured(CONTAINS, name, str(number), codes.CELLS_UNIT)
    if findings.fraction is not None:
        low = wording.decimal_string(findings.fraction.low)
        high = wording.decimal_string(findings.fraction.high)
        limits = [
            measured(HAS_PROPERTIES, codes.INTERVAL_LOW, low, codes.NO_UNITS),
            measured(HAS_PROPERTIES, codes.INTERVAL_HIGH, high, codes.NO_UNITS),
        ]
        value = wording.decimal_string(findings.fraction.value)
        yield measured(CONTAINS, codes.LYMPHOBLAST_FRACTION, value, codes.NO_UNITS, limits)


def _evaluations(findings: StudyFindings) -> Iterator[bytes]:
    yield written(CONTAINS, codes.COMMENT, wording.RESEARCH_USE)
    yield written(CONTAINS, codes.SUMMARY, wording.summary(findings))
    for instance in findings.instances:
        if instance.fault is not None:
            fault = clean(f"{instance.sop_instance_uid}: {instance.fault}")
            yield written(CONTAINS, codes.UNREADABLE_INSTANCE, fault)


# --- Modules around it ---


def _copied(header: Dataset, keywords: list[str]) -> Dataset:
    """Return the named elements, decoded, so that they can be written in another character set."""
    copy = Dataset()
    for keyword in keywords:
        try:
            found = header[keyword] if keyword in header else None
            if found is not None:
                copy.add(_decoded(found))
        except (ValueError, TypeError, LookupError, NotImplementedError, AttributeError):  # a corrupt source element
            continue
    return copy


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
    return DataElement(found.tag, "SQ", ItemSequence(decoded))


def _one_container(findings: StudyFindings, headers: Headers) -> bool:
    """Whether all instances show the same container (slide), so that one Specimen module is true of them all."""
    known = [headers[i.sop_instance_uid] for i in findings.instances if i.sop_instance_uid in headers]
    names = {str(header.get("ContainerIdentifier", "")) for header in known}
    return len(names) == 1 and "" not in names


def _add_character_set(
    report: Dataset, findings: StudyFindings, headers: Headers, content: bytes, context: ReportContext
) -> None:
    """Keep the source's character set; Unicode where sources differ, it is unknown, or our own text needs it.

    Source: PS3.3 C.12.1.1.2.
    """
    stated = {
        tuple(value) if not isinstance(value, str) else (value,)
        for instance in findings.instances
        if instance.sop_instance_uid in headers
        for value in [headers[instance.sop_instance_uid].get("SpecificCharacterSet") or ""]
    }
    own = content + f"{context.host_name}{findings.model}".encode()
    known = len(stated) == 1 and all((term or "ISO_IR 6") in python_encoding for term in next(iter(stated)))
    terms = next(iter(stated)) if known and own.isascii() else ("ISO_IR 192",)
    if not stated and own.isascii():
        return
    if terms != ("",):
        report.SpecificCharacterSet = list(terms) if len(terms) > 1 else terms[0]


def _add_equipment(report: Dataset, findings: StudyFindings, context: ReportContext) -> None:
    """General Equipment (C.7.5.1) is this plugin, by which it knows its own results again; the algorithm contributed."""
    model = findings.model
    report.Manufacturer = MANUFACTURER
    report.ManufacturerModelName = "allpacs"
    report.SoftwareVersions = allpacs.__version__
    if context.host_name:
        report.StationName = clean(context.host_name)[:16]
    algorithm = Dataset()
    algorithm.PurposeOfReferenceCodeSequence = [_code_item(codes.PROCESSING_EQUIPMENT)]
    algorithm.Manufacturer = clean(model.manufacturer)[:64]
    algorithm.ManufacturerModelName = clean(model.name)[:64]
    algorithm.SoftwareVersions = clean(model.version)[:64]
    algorithm.DeviceUID = model.device_uid
    algorithm.ContributionDateTime = context.made_at.strftime("%Y%m%d%H%M%S%z")
    algorithm.ContributionDescription = clean(f"White cell classification, {model.family}, {model.digest}")
    report.ContributingEquipmentSequence = [algorithm]


def _add_document(report: Dataset, findings: StudyFindings, source: Source, context: ReportContext, uid: str) -> None:
    """SR Document Series (C.17.1), SR Document General (C.17.2) and SOP Common (C.12.1)."""
    made_at = _local(context.made_at, source.timezone_offset)
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = uid
    report.StudyInstanceUID = findings.study_uid
    report.SeriesInstanceUID = sr_series_uid(findings)
    report.SeriesNumber = SERIES_NUMBER
    report.SeriesDescription = SERIES_DESCRIPTION
    report.Modality = "SR"
    report.ReferencedPerformedProcedureStepSequence = []
    report.InstanceNumber = findings.revision
    report.InstanceCreationDate = report.ContentDate = made_at.strftime("%Y%m%d")
    report.InstanceCreationTime = report.ContentTime = made_at.strftime("%H%M%S")
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


def _add_references(report: Dataset, findings: StudyFindings, headers: Headers, prior: PriorReport | None) -> None:
    """Evidence: every input, read or not; the request; the report that this one replaces."""
    inputs = [(i.series_uid, i.sop_class_uid, i.sop_instance_uid) for i in findings.instances]
    if inputs:
        report.CurrentRequestedProcedureEvidenceSequence = [_evidence(findings.study_uid, inputs)]
    if prior is not None:
        replaced = [(prior.series_uid, prior.sop_class_uid, prior.sop_instance_uid)]
        report.PredecessorDocumentsSequence = [_evidence(findings.study_uid, replaced)]
    header = lead_header(findings, headers)
    request = _copied(next(header_items(header, "RequestAttributesSequence"), Dataset()), _REQUEST)
    request.update(_copied(header, _REQUEST[:2]))
    request.update(_copied(header, ["AccessionNumber", "IssuerOfAccessionNumberSequence"]))
    if any(request.get(keyword) for keyword in (*_REQUEST, "AccessionNumber")):
        for keyword in (*_REQUEST, "AccessionNumber"):
            if keyword not in request:
                setattr(request, keyword, None)
        request.StudyInstanceUID = findings.study_uid
        request.ReferencedStudySequence = []
        request.RequestedProcedureCodeSequence = []
        report.ReferencedRequestSequence = [request]


def _evidence(study_uid: str, references: list[tuple[str, str, str]]) -> Dataset:
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


def _code_item(code: codes.Code) -> Dataset:
    found = Dataset()
    found.CodeValue = code.value
    found.CodingSchemeDesignator = code.scheme_designator
    found.CodeMeaning = code.meaning
    return found


def _local(moment: datetime, offset: str) -> datetime:
    """Return the moment in the source's time zone where it states one, otherwise unchanged."""
    if not offset:
        return moment
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return moment.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))


def _part_10(report: Dataset, content: bytes) -> bytes:
    """Return the data set as a Part 10 file in Explicit VR Little Endian, without reading a clock.

    The Content Sequence, already encoded, has the highest tag of all and follows what pydicom writes.
    """
    if max(report.keys()) >= Tag("ContentSequence"):
        raise ValueError("an element would follow the Content Sequence")
    report.file_meta = FileMetaDataset()
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    report.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, report, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue() + element("ContentSequence", "SQ", content)
