"""What all DICOM results have in common beside patient and study: series, equipment, and how they become a file.

Source: PS3.3 and the sections named below; PS3.10 section 7.1 (File Meta Information).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

import allpacs
from allpacs.domain.findings import StudyFindings
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER
from allpacs.report import codes
from allpacs.report.context import ReportContext
from allpacs.report.elements import clean
from allpacs.report.inputs import FormatInputs


@dataclass(frozen=True, slots=True)
class Series:
    """The series that a kind of result has in every study."""

    uid: str
    number: int
    description: str
    modality: str


def result_object(inputs: FormatInputs, uid: str, sop_class_uid: str, series: Series) -> Dataset:
    """Return what every DICOM result has in common: patient, study, series, equipment, times, file meta information."""
    findings = inputs.findings
    issued_at = local(inputs.context.issued_at, inputs.source.timezone_offset)
    made = deepcopy(inputs.study_modules)
    _add_equipment(made, findings, inputs.context)
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
    made.file_meta = _file_meta(made)
    return made


def part_10(made: Dataset) -> bytes:
    """Return an object as a Part 10 file in Explicit VR Little Endian."""
    buffer = BytesIO()
    dcmwrite(buffer, made, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _add_equipment(report: Dataset, findings: StudyFindings, context: ReportContext) -> None:
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


def _file_meta(of: Dataset) -> FileMetaDataset:
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
