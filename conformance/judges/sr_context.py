"""Our own checks of what a structured report is about: orders, specimens and images, against the source headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from conformance.judges.content_items import children, code_of, name_of, walk

_REQUEST = (
    *("AccessionNumber", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
    *("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"),
)


def orders(report: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    """PS3.3 C.17.2: every order that the images name is an item, with all its numbers."""
    requests = report.get("ReferencedRequestSequence") or []
    for request in requests:
        for keyword in ("StudyInstanceUID", "ReferencedStudySequence", *_REQUEST):
            if keyword not in request:
                yield f"a request has no {keyword}"
        if request.get("StudyInstanceUID") != report.get("StudyInstanceUID"):
            yield "a request is of another study"
    stated = {str(request.get("AccessionNumber") or "") for request in requests}
    wanted = set()
    for source in sources:
        items = source.get("RequestAttributesSequence") or []
        wanted |= {str(one.get("AccessionNumber") or "") for one in (source, *items)} - {""}
        for keyword in _REQUEST[1:5]:
            numbers = {str(one.get(keyword) or "") for one in (source, *items)} - {""}
            if numbers - {str(request.get(keyword) or "") for request in requests}:
                yield f"{keyword} of the images is in no request"
    if wanted - stated:
        yield "an accession number of the images is in no request"
    if stated - wanted - {""}:
        yield "a request has an accession number that no image has"


def specimens(report: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    """PS3.16 TID 1006, 1009: specimens are named, and each has numbers of its own."""
    named = {
        str(item.get("SpecimenUID") or "")
        for source in sources
        for item in source.get("SpecimenDescriptionSequence") or []
    } - {""}
    stated = {str(item.get("UID")) for item in walk(report) if name_of(item) == "121039"}
    if named != stated:
        yield "the specimens are not those of the images"
    if named and not children(report, "121024"):
        yield "the subject class is not stated"
    if any(code_of(item) != "121027" for item in walk(report) if name_of(item) == "121024"):
        yield "the subject class is not a specimen"
    derived = children(report, "126011")
    if len(named) > 1 and len(derived) < len(named):
        yield "several specimens share their numbers"


def library(report: Dataset) -> Iterator[str]:
    """PS3.16 TID 1600: the images that are pointed at are in the image library."""
    groups = [group for library in children(report, "111028") for group in children(library, "126200")]
    listed = {
        one.get("ReferencedSOPInstanceUID")
        for group in groups
        for item in group.get("ContentSequence", [])
        for one in item.get("ReferencedSOPSequence", [])
    }
    shown = {
        one.get("ReferencedSOPInstanceUID")
        for item in walk(report)
        if item.get("ValueType") == "SCOORD"
        for image in item.get("ContentSequence", [])
        for one in image.get("ReferencedSOPSequence", [])
    }
    if not groups:
        yield "there is no image library"
    elif shown - listed:
        yield "an image with cells is not in the image library"
