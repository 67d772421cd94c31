"""DICOMweb, read only, for what allpacs itself has made: QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4).

A viewer that is signed in here can list the structured reports and other objects of a study and fetch them. The
source images stay with the PACS, which serves them itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from allpacs.console.visit import Visit
from allpacs.domain.identity import is_uid

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
_MATCHED = {"StudyInstanceUID", "PatientID", "AccessionNumber"}
_TAGS = {"0020000D": "StudyInstanceUID", "00100020": "PatientID", "00080050": "AccessionNumber"}
_MOST_STUDIES = 100


@dataclass(frozen=True, slots=True)
class _Object:
    path: Path
    header: Dataset


def search_studies(visit: Visit) -> Response:
    """Return the studies that allpacs has made objects of."""
    wanted: dict[str, str] = {}
    for name, value in visit.request.query_params.multi_items():
        if name in ("limit", "offset", "includefield", "fuzzymatching"):
            continue
        keyword = _TAGS.get(name.upper(), name)
        if keyword not in _MATCHED:
            raise HTTPException(400, f"studies are not searched by {name}: only by {', '.join(sorted(_MATCHED))}")
        wanted[keyword] = value
    limit, offset = (min(_number(visit, "limit", _MOST_STUDIES), _MOST_STUDIES), _number(visit, "offset", 0))
    found = []
    for uid in _studies(visit, wanted)[offset : offset + limit]:
        objects = _objects(visit, uid)
        if objects:
            series = {str(one.header.SeriesInstanceUID) for one in objects}
            modalities = sorted({str(one.header.Modality) for one in objects})
            counts: dict[str, Any] = {"ModalitiesInStudy": modalities}
            counts |= {"NumberOfStudyRelatedSeries": len(series), "NumberOfStudyRelatedInstances": len(objects)}
            found.append(_attributes(objects[0].header, _STUDY, **counts))
    return _json(found)


def search_series(visit: Visit) -> Response:
    """Return the series of a study that allpacs has made."""
    by_series: dict[str, list[_Object]] = {}
    for one in _objects(visit, _uid(visit, "study_uid")):
        by_series.setdefault(str(one.header.SeriesInstanceUID), []).append(one)
    return _json(
        _attributes(members[0].header, _SERIES, NumberOfSeriesRelatedInstances=len(members))
        for members in by_series.values()
    )


def search_instances(visit: Visit) -> Response:
    """Return the instances of a study, or of one series of it."""
    return _json(_attributes(one.header, _INSTANCE) for one in _chosen(visit))


def metadata(visit: Visit) -> Response:
    """Return everything but bulk data of the instances."""
    chosen = _chosen(visit)
    if not chosen:
        raise HTTPException(404)
    return _json(_as_json(dcmread(one.path, stop_before_pixels=True)) for one in chosen)


def retrieve(visit: Visit) -> Response:
    """Return instances as they were sent, one part each (PS3.18 section 8.6.1.2.1)."""
    chosen = _chosen(visit)
    if not chosen:
        raise HTTPException(404)
    accepted = visit.request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("*/*", "multipart/related", _DICOM)):
        raise HTTPException(406)
    boundary = secrets.token_hex(16)
    kind = f'multipart/related; type="{_DICOM}"; boundary={boundary}'
    return StreamingResponse(_parts([one.path for one in chosen], boundary), 200, media_type=kind)


def _parts(paths: Iterable[Path], boundary: str) -> Iterator[bytes]:
    for path in paths:
        yield f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _studies(visit: Visit, wanted: dict[str, str]) -> list[str]:
    given = wanted.get("StudyInstanceUID")
    uids = given.replace("\\", ",").split(",") if given else visit.store.worklist.study_uids()
    if set(wanted) <= {"StudyInstanceUID"}:
        return [uid for uid in uids if is_uid(uid)]
    patients = visit.console.patients.of(uids)
    return [
        uid
        for uid in uids
        if wanted.get("PatientID") in (None, patients[uid].patient_id)
        and wanted.get("AccessionNumber") in (None, patients[uid].accession)
    ]


def _chosen(visit: Visit) -> list[_Object]:
    objects = _objects(visit, _uid(visit, "study_uid"))
    for name, keyword in (("series_uid", "SeriesInstanceUID"), ("sop_instance_uid", "SOPInstanceUID")):
        if name in visit.request.path_params:
            objects = [one for one in objects if str(one.header.get(keyword)) == _uid(visit, name)]
    return objects


def _objects(visit: Visit, study_uid: str) -> list[_Object]:
    """Return the DICOM objects that allpacs has made of a study, all revisions."""
    study = visit.store.studies.get(study_uid)
    paths = [] if study is None else visit.store.artefacts.dicom_of_study(study_uid)
    return [_Object(path, _header(path)) for path in paths if path.is_file()]


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


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """Return the DICOM JSON Model (PS3.18 Annex F); its bulk data, where there are any, are left out."""
    found: dict[str, Any] = dataset.to_json_dict(bulk_data_threshold=4096, bulk_data_element_handler=lambda _: "")
    return found


def _json(objects: Iterable[dict[str, Any]]) -> Response:
    return Response(json.dumps(list(objects), ensure_ascii=False), 200, media_type=_JSON)
