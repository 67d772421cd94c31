"""What answers hold: the attributes of each level, in the DICOM JSON Model.

Source: PS3.18 Tables 10.6.3-3 to 10.6.3-5 (search results), Annex F (DICOM JSON Model).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydicom import DataElement, Dataset
from starlette.responses import Response

JSON: Final = "application/dicom+json"

STUDY_FIELDS: Final = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "PatientName",
    "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
)  # fmt: skip
SERIES_FIELDS: Final = (
    "Modality", "SeriesDescription", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
)  # fmt: skip
INSTANCE_FIELDS: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated",
)  # fmt: skip
#: Further attributes that describe a study or a series, for ``includefield=all``.
STUDY_FURTHER: Final = (
    "StudyDescription", "PatientAge", "PatientComments", "IssuerOfPatientID", "OtherPatientIDs", "InstitutionName",
    "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription", "ProcedureCodeSequence",
    "IssuerOfAccessionNumberSequence",
)  # fmt: skip
SERIES_FURTHER: Final = (
    "SeriesDate", "SeriesTime", "Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName",
    "PerformingPhysicianName", "OperatorsName", "ProtocolName", "BodyPartExamined", "Laterality",
    "PerformedProcedureStepID", "PerformedProcedureStepDescription",
)  # fmt: skip

#: Bulk data that metadata leave out, bytes.
_BULK = 4096
#: What describes stored samples, and not those of the frames that are sent.
_OF_STORED_SAMPLES = (
    "ICCProfile", "ColorSpace", "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue",
    "LargestImagePixelValue", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip


def attributes(header: Dataset, keywords: Iterable[str], **more: Any) -> dict[str, Any]:
    """Return some attributes of a header, and values that were counted, as JSON."""
    chosen = Dataset()
    for keyword in keywords:
        if keyword in header:
            chosen[keyword] = header[keyword]
    for keyword, value in more.items():
        setattr(chosen, keyword, value)
    return as_json(chosen)


def as_sent(header: Dataset) -> Dataset:
    """Return a header whose image attributes are those of the frames that are sent (PS3.3 C.7.6.3)."""
    if "Rows" not in header:
        return header

    def leave_out(level: Dataset, element: DataElement) -> None:
        if element.keyword in _OF_STORED_SAMPLES:
            del level[element.tag]

    header.walk(leave_out)
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    return header


def as_json(dataset: Dataset) -> dict[str, Any]:
    """Return the DICOM JSON Model (PS3.18 Annex F), in UTF-8 whatever the object is written in, without bulk data."""
    dataset.SpecificCharacterSet = "ISO_IR 192"  # PS3.18 section F.2.2 (character set of JSON)
    found: dict[str, Any] = dataset.to_json_dict(
        bulk_data_threshold=_BULK,
        bulk_data_element_handler=lambda _: "",
        suppress_invalid_tags=True,  # of a sender's, which allpacs took all the same
    )
    return _clean(found)


def json_response(objects: Iterable[Mapping[str, Any]], headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer of a search, or metadata."""
    content = json.dumps(list(objects), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Response(content, 200, headers, media_type=JSON)


def _clean(found: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out, at every level, what JSON cannot say, and what would refer to bulk data that is not served."""
    cleaned: dict[str, Any] = {}
    for tag, element in found.items():
        if "BulkDataURI" in element:
            continue
        values = element.get("Value")
        if element.get("vr") == "SQ" and values is not None:
            element = element | {"Value": [_clean(item) for item in values]}
        elif values is not None and any(isinstance(value, float) and not math.isfinite(value) for value in values):
            continue  # NaN and infinity are no numbers of JSON (RFC 8259 section 6)
        cleaned[tag] = element
    return cleaned
