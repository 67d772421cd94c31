"""The stored objects of a study, as searches and retrieval see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import structlog
from pydicom import Dataset
from starlette.exceptions import HTTPException

from allpacs.console.dicomweb.headers import read_guarded
from allpacs.console.dicomweb.model import INSTANCE_FIELDS, SERIES_FIELDS, STUDY_FIELDS
from allpacs.console.dicomweb.query import INSTANCE_KEYS, SERIES_KEYS, STUDY_KEYS
from allpacs.console.visit import Visit
from allpacs.domain.errors import InputFault, StoreDamaged
from allpacs.domain.identity import is_uid
from allpacs.report.elements import text

_log = structlog.get_logger("allpacs.console")

_SEARCHED = frozenset(
    name.split(".", 1)[0]
    for name in (*STUDY_FIELDS, *SERIES_FIELDS, *INSTANCE_FIELDS, *STUDY_KEYS, *SERIES_KEYS, *INSTANCE_KEYS)
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One instance: a result of allpacs, or an image that is still in the spool."""

    path: Path
    study_uid: str
    series_uid: str
    sop_instance_uid: str

    @property
    def header(self) -> Dataset:
        """What searches look at; of a file whose header cannot be read, its UIDs only."""
        header = _header(self.path)
        if header is None:
            header = Dataset()
            header.StudyInstanceUID, header.SeriesInstanceUID = self.study_uid, self.series_uid
            header.SOPInstanceUID = self.sop_instance_uid
        return header


def objects_of(visit: Visit, study_uid: str) -> list[StoredObject]:
    """Return what allpacs has made of a study, all revisions, and then the images that are still kept."""
    study = visit.store.studies.get(study_uid)
    if study is None:
        return []
    made = []
    for path in visit.store.artefacts.dicom_of_study(study_uid):
        header = _header(path) if path.is_file() else None
        if header is not None and text(header, "SOPInstanceUID"):
            made.append(
                StoredObject(path, study_uid, text(header, "SeriesInstanceUID"), text(header, "SOPInstanceUID"))
            )
    images = [
        StoredObject(row.path, study_uid, row.series_uid, row.sop_instance_uid)
        for row in visit.store.revisions.instances(study_uid, study.revision)
        if row.path.is_file()
    ]
    return made + images


def chosen_objects(visit: Visit) -> list[StoredObject]:
    """Return the instances that the address names.

    Raises
    ------
    HTTPException
        400: a part of the address is not a UID.
    """
    objects = objects_of(visit, uid_of(visit, "study_uid"))
    if "series_uid" in visit.request.path_params:
        objects = [found for found in objects if found.series_uid == uid_of(visit, "series_uid")]
    if "sop_instance_uid" in visit.request.path_params:
        objects = [found for found in objects if found.sop_instance_uid == uid_of(visit, "sop_instance_uid")]
    return objects


def by_series(objects: Sequence[StoredObject]) -> list[list[StoredObject]]:
    """Return the instances of each series, in order."""
    series: dict[str, list[StoredObject]] = {}
    for found in objects:
        series.setdefault(found.series_uid, []).append(found)
    return list(series.values())


def uid_of(visit: Visit, name: str) -> str:
    """Return a UID of the address.

    Raises
    ------
    HTTPException
        400: it is not a UID.
    """
    uid = visit.path(name)
    if not is_uid(uid):
        raise HTTPException(400, f"not a UID: {name}")
    return uid


@lru_cache(maxsize=5000)
def _header(path: Path) -> Dataset | None:
    try:
        return read_guarded(path, _SEARCHED)
    except (InputFault, StoreDamaged) as fault:
        _log.warning("header_not_read", path=path.name, reason=str(fault))
        return None
