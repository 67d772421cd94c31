"""A Comprehensive 3D SR for a PACS that takes Comprehensive SR only (PS3.3 A.35.13 and A.35.3).

The same document of another SOP Class is another instance: it has a UID of its own, derived from the original's, and so
have the documents that it replaces. Comprehensive SR has no places in three dimensions: they are left
out, and the outline on the slide's tile, which stands beside each, becomes the Image Region.
"""

from __future__ import annotations

from copy import deepcopy

from pydicom.dataset import Dataset
from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage

from allpacs.domain.identity import comprehensive_uid


def as_comprehensive(report: Dataset) -> Dataset:
    """Return a Comprehensive 3D SR as a Comprehensive SR."""
    copy = deepcopy(report)
    uid = UID(comprehensive_uid(str(report.SOPInstanceUID)))
    copy.SOPClassUID = copy.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = uid
    for study in copy.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for reference in series.ReferencedSOPSequence:
                if reference.ReferencedSOPClassUID == Comprehensive3DSRStorage:
                    reference.ReferencedSOPClassUID = ComprehensiveSRStorage
                    reference.ReferencedSOPInstanceUID = comprehensive_uid(str(reference.ReferencedSOPInstanceUID))
    _drop_places_in_space(copy)
    return copy


def _drop_places_in_space(item: Dataset) -> None:
    if "ContentSequence" in item:
        kept = [child for child in item.ContentSequence if child.ValueType != "SCOORD3D"]
        for child in kept:
            if child.ValueType == "SCOORD" and len(kept) < len(item.ContentSequence):
                child.ConceptNameCodeSequence[0].CodeValue = "111030"
                child.ConceptNameCodeSequence[0].CodingSchemeDesignator = "DCM"
                child.ConceptNameCodeSequence[0].CodeMeaning = "Image Region"
        item.ContentSequence = kept
        for child in item.ContentSequence:
            _drop_places_in_space(child)
