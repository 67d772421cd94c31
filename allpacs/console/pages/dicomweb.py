"""DICOMweb, read only, for the studies that allpacs has read: QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4).

A viewer that is signed in here lists and fetches what allpacs has made of a study, and the images that it was made
from for as long as they are in the spool: a report's outlines need the image that they are drawn on. The archive of
the images is the PACS.

Whole instances are sent as they are kept. Frames are sent as allpacs reads them, RGB with 8 bits and colour profiles
applied, and the metadata say so: a viewer needs no decoder, and shows what the model was shown.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset, dcmread
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from allpacs.console.patients import Patient
from allpacs.console.pictures import jpeg
from allpacs.console.visit import Visit
from allpacs.decode.open import read_frame_of
from allpacs.decode.part10 import read_header
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.identity import is_uid
from allpacs.report.source import text

_JSON = "application/dicom+json"
_DICOM = "application/dicom"

#: What a search gives back of each level, besides counts (PS3.18 Tables 10.6.3-3 to 10.6.3-5).
_STUDY = (
    "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
    "TimezoneOffsetFromUTC", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyID",
)  # fmt: skip
_SERIES = (
    "SpecificCharacterSet",
    "Modality",
    "SeriesDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
)
_INSTANCE = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber",
    "NumberOfFrames", "Rows", "Columns",
)  # fmt: skip
#: What a study is searched by (PS3.18 Table 10.6.1-5); anything else is refused rather than passed over.
_TAGS = {
    "0020000D": "StudyInstanceUID", "00100020": "PatientID", "00080050": "AccessionNumber", "00100010": "PatientName",
    "00080020": "StudyDate", "00081030": "StudyDescription",
}  # fmt: skip
_MOST_STUDIES = 100
_MOST_FRAMES = 64
#: Bulk data that metadata leave out, bytes.
_BULK = 4096
_OCTETS = "application/octet-stream"
#: Longest side of a picture of an instance, pixels.
_RENDERED_PX, _THUMBNAIL_PX = 3000, 256
#: What describes stored samples, and not those of the frames that are sent.
_OF_STORED_SAMPLES = (
    "ICCProfile", "ColorSpace", "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue",
    "LargestImagePixelValue", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Object:
    path: Path
    series_uid: str
    sop_instance_uid: str

    @property
    def header(self) -> Dataset:
        """What searches give back of it."""
        return _header(self.path)


def search_studies(visit: Visit) -> Response:
    """Return the studies that allpacs has made objects of, the latest first."""
    wanted: dict[str, str] = {}
    for name, value in visit.request.query_params.multi_items():
        if name in ("limit", "offset", "includefield", "fuzzymatching"):
            continue
        keyword = _TAGS.get(name.upper(), name)
        if keyword not in _TAGS.values():
            raise HTTPException(400, f"studies are not searched by {name}: only by {', '.join(sorted(_TAGS.values()))}")
        wanted[keyword] = value
    limit, offset = (min(_number(visit, "limit", _MOST_STUDIES), _MOST_STUDIES), _number(visit, "offset", 0))
    found = []
    for uid in _studies(visit, wanted)[offset : offset + limit]:
        if series := _by_series(_objects(visit, uid)):
            firsts = [members[0].header for members in series]
            counts: dict[str, Any] = {
                "ModalitiesInStudy": sorted({text(one, "Modality") for one in firsts} - {""}),
                "NumberOfStudyRelatedSeries": len(series),
                "NumberOfStudyRelatedInstances": sum(map(len, series)),
            }
            found.append(_attributes(firsts[0], _STUDY, **counts))
    return _json(found)


def search_series(visit: Visit) -> Response:
    """Return the series of a study."""
    return _json(
        _attributes(members[0].header, _SERIES, NumberOfSeriesRelatedInstances=len(members))
        for members in _by_series(_objects(visit, _uid(visit, "study_uid")))
    )


def search_instances(visit: Visit) -> Response:
    """Return the instances of a study, or of one series of it."""
    return _json(_attributes(one.header, _INSTANCE) for one in _chosen(visit))


def metadata(visit: Visit) -> Response:
    """Return everything but bulk data of the instances; of images, with the frames described as they are sent."""
    return _json(_as_json(_as_read(read_header(one.path))) for one in _found(visit))


def frames(visit: Visit) -> Response:
    """Return frames of an instance, one part each, RGB with 8 bits in Explicit VR Little Endian."""
    (one,) = _found(visit)
    if not any(kind in visit.request.headers.get("accept", "*/*") for kind in ("*/*", _OCTETS)):
        raise HTTPException(406, f"frames are sent as {_OCTETS} only")
    asked = visit.path("frames").split(",")
    if len(asked) > _MOST_FRAMES or not all(number.isdecimal() for number in asked):
        raise HTTPException(400, f"at most {_MOST_FRAMES} frames by their numbers")
    # All are read before the first is sent: an answer that has begun cannot say that the next frame is missing.
    read = [_frame(visit, one, int(number)).tobytes() for number in asked]
    return _multipart(read, _OCTETS, f"{_OCTETS}; transfer-syntax=1.2.840.10008.1.2.1")


def rendered(visit: Visit) -> Response:
    """Return an instance (its first frame), or one frame of it, as JPEG for a person to look at."""
    return _picture(visit, _RENDERED_PX)


def thumbnail(visit: Visit) -> Response:
    """Return an instance, or the first one of a series or study that has pixels, as a small JPEG."""
    return _picture(visit, _THUMBNAIL_PX)


def retrieve(visit: Visit) -> Response:
    """Return instances as they are kept, one part each (PS3.18 section 8.6.1.2.1)."""
    chosen = _found(visit)
    accepted = visit.request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("*/*", "multipart/related", _DICOM)):
        raise HTTPException(406)
    return _multipart((one.path.read_bytes() for one in chosen), _DICOM, _DICOM)


def _multipart(contents: Iterable[bytes], kind: str, part_kind: str) -> Response:
    boundary = secrets.token_hex(16)

    def parts() -> Iterator[bytes]:
        for content in contents:
            yield f"--{boundary}\r\nContent-Type: {part_kind}\r\n\r\n".encode() + content + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(parts(), 200, media_type=f'multipart/related; type="{kind}"; boundary={boundary}')


def _picture(visit: Visit, side_px: int) -> Response:
    shown = next((one for one in _found(visit) if "Rows" in one.header), None)
    if shown is None:
        raise HTTPException(404)
    number = visit.request.path_params.get("frames", "1")
    if not number.isdecimal():
        raise HTTPException(400, "one frame by its number")
    return Response(jpeg(_frame(visit, shown, int(number)), side_px), 200, media_type="image/jpeg")


def _frame(visit: Visit, one: _Object, number: int) -> Any:
    try:
        return read_frame_of(one.path, number, max_pixels=visit.console.settings.work.max_pixels).rgb
    except UndecodablePixels as fault:
        raise HTTPException(404, str(fault)) from None


def _studies(visit: Visit, wanted: dict[str, str]) -> list[str]:
    wanted = dict(wanted)
    uids = visit.store.artefacts.studies_with_dicom()
    given = wanted.pop("StudyInstanceUID", None)
    if given is not None:
        named = set(given.replace("\\", ",").split(","))
        uids = [uid for uid in uids if uid in named]
    if not wanted:
        return uids
    patients = visit.console.patients.of(uids)
    return [uid for uid in uids if all(_matches(patients[uid], *one) for one in wanted.items())]


def _matches(patient: Patient, keyword: str, wanted: str) -> bool:
    """Whether a study's patient matches one key (PS3.4 section C.2.2.2: single value, wild card, range)."""
    if keyword == "StudyDate":
        first, dash, last = wanted.partition("-")
        return bool(patient.study_date) and (first or "0") <= patient.study_date <= (last or "9" if dash else first)
    value = {
        "PatientID": patient.patient_id,
        "AccessionNumber": patient.accession,
        "PatientName": patient.name,
        "StudyDescription": patient.description,
    }[keyword]
    # Names are compared as they are shown, without regard to case.
    pattern = wanted.replace("^", " ").replace("[", "[[]").casefold()
    return fnmatchcase(value.casefold(), pattern)


def _found(visit: Visit) -> list[_Object]:
    """Return the instances that the address names, to be sent: their study is opened.

    Raises
    ------
    HTTPException
        404: there are none.
    """
    chosen = _chosen(visit)
    if not chosen:
        raise HTTPException(404)
    visit.open_study(_uid(visit, "study_uid"))
    return chosen


def _chosen(visit: Visit) -> list[_Object]:
    objects = _objects(visit, _uid(visit, "study_uid"))
    if "series_uid" in visit.request.path_params:
        objects = [one for one in objects if one.series_uid == _uid(visit, "series_uid")]
    if "sop_instance_uid" in visit.request.path_params:
        objects = [one for one in objects if one.sop_instance_uid == _uid(visit, "sop_instance_uid")]
    return objects


def _objects(visit: Visit, study_uid: str) -> list[_Object]:
    """Return what allpacs has made of a study, all revisions, and then the images that are still kept."""
    study = visit.store.studies.get(study_uid)
    if study is None:
        return []
    made = [path for path in visit.store.artefacts.dicom_of_study(study_uid) if path.is_file()]
    headers = {path: _header(path) for path in made}
    return [
        *(_Object(path, str(one.SeriesInstanceUID), str(one.SOPInstanceUID)) for path, one in headers.items()),
        *(
            _Object(row.path, row.series_uid, row.sop_instance_uid)
            for row in visit.store.revisions.instances(study_uid, study.revision)
            if row.path.is_file()
        ),
    ]


def _by_series(objects: Sequence[_Object]) -> list[list[_Object]]:
    series: dict[str, list[_Object]] = {}
    for one in objects:
        series.setdefault(one.series_uid, []).append(one)
    return list(series.values())


@lru_cache(maxsize=2000)
def _header(path: Path) -> Dataset:
    return dcmread(path, specific_tags=list({*_STUDY, *_SERIES, *_INSTANCE}), stop_before_pixels=True)


def _uid(visit: Visit, name: str) -> str:
    uid = visit.path(name)
    if not is_uid(uid):
        raise HTTPException(400, f"not a UID: {name}")
    return uid


def _number(visit: Visit, name: str, otherwise: int) -> int:
    return int(visit.query(name)) if visit.query(name).isdecimal() else otherwise


def _attributes(header: Dataset, keywords: Iterable[str], **more: Any) -> dict[str, Any]:
    chosen = Dataset()
    for keyword in keywords:
        if keyword in header:
            chosen[keyword] = header[keyword]
    for keyword, value in more.items():
        setattr(chosen, keyword, value)
    return _as_json(chosen)


def _as_read(header: Dataset) -> Dataset:
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


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """Return the DICOM JSON Model (PS3.18 Annex F) without bulk data."""
    found: dict[str, Any] = dataset.to_json_dict(
        bulk_data_threshold=_BULK,
        bulk_data_element_handler=lambda _: "",
        suppress_invalid_tags=True,  # of a sender's, which allpacs took all the same
    )
    return _without_bulk(found)


def _without_bulk(attributes: dict[str, Any]) -> dict[str, Any]:
    """Leave out, at every level, what would refer to bulk data that is not served."""
    return {
        tag: one | {"Value": [_without_bulk(item) for item in one["Value"]]}
        if one.get("vr") == "SQ" and "Value" in one
        else one
        for tag, one in attributes.items()
        if "BulkDataURI" not in one
    }


def _json(objects: Iterable[dict[str, Any]]) -> Response:
    return Response(json.dumps(list(objects), ensure_ascii=False), 200, media_type=_JSON)
