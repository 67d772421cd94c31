"""Whom studies are about: read from the headers in the spool, and kept in memory only.

The index holds no patient data, and the console does not change that: a list of names in a data base would be one
more place to protect. Headers are read when a page shows their study, and in the background for searching.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydicom import Dataset

from allpacs.console.dicomweb.headers import read_guarded
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.errors import AllpacsError
from allpacs.report.elements import items, text
from allpacs.report.source import person_name
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.console")

_READ_AT_A_TIME = 100
_READ = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime",
    "StudyID", "StudyDescription", "ReferringPhysicianName", "SpecimenDescriptionSequence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom one study is about; what the header does not say is empty."""

    name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    accession: str = ""
    study_date: str = ""
    description: str = ""
    specimen: str = ""
    dicom_name: str = ""
    study_time: str = ""
    study_id: str = ""
    referring_physician: str = ""

    @property
    def by_keyword(self) -> dict[str, str]:
        """What searches by DICOMweb match, as DICOM writes it; several values have backslashes between them."""
        return {
            "PatientName": self.dicom_name,
            "PatientID": self.patient_id,
            "PatientBirthDate": self.birth_date,
            "PatientSex": self.sex,
            "AccessionNumber": self.accession,
            "StudyDate": self.study_date,
            "StudyTime": self.study_time,
            "StudyID": self.study_id,
            "StudyDescription": self.description,
            "ReferringPhysicianName": self.referring_physician,
        }

    @property
    def searched(self) -> str:
        """What a search looks in."""
        return f"{self.name}\0{self.patient_id}\0{self.accession}".casefold()


class Patients:
    """Patients by study."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Patient] = {}
        self._reader: threading.Thread | None = None
        self._stop = threading.Event()

    def of(self, study_uids: Iterable[str]) -> dict[str, Patient]:
        """Return whom the studies are about, reading the headers that were not read yet."""
        wanted = list(study_uids)
        self._read([uid for uid in wanted if uid not in self._known])
        return {uid: self._known.get(uid, Patient()) for uid in wanted}

    def again(self, study_uid: str) -> Patient:
        """Return whom a study is about, read now: an image that came late may be the first, and stand in the report."""
        self._read([study_uid])
        return self._known.get(study_uid, Patient())

    def matching(self, words: str) -> list[str]:
        """Return the studies whose patient name, id or accession number holds every word; those read so far."""
        parts = words.casefold().split()
        return [uid for uid, who in list(self._known.items()) if all(part in who.searched for part in parts)]

    def start(self) -> None:
        """Read the headers of all studies in the background, the newest first, and then those that come."""
        self._reader = threading.Thread(target=self._read_all, name="patients", daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _read_all(self) -> None:
        while not self._stop.is_set():
            try:
                unread = [uid for uid in self._store.worklist.study_uids() if uid not in self._known]
                for start in range(0, len(unread), _READ_AT_A_TIME):
                    self._read(unread[start : start + _READ_AT_A_TIME])
                    if self._stop.is_set():
                        return
            except Exception as fault:  # noqa: BLE001 - the thread must live; a header's values may be in the text
                reason = str(fault) if isinstance(fault, AllpacsError) else type(fault).__name__
                _log.warning("patients_not_read", reason=reason)
            self._stop.wait(2.0)

    def _read(self, study_uids: list[str]) -> None:
        if not study_uids:
            return
        for uid, path in self._store.worklist.one_instance_each(study_uids).items():
            self._known[uid] = self._header(uid, path)

    def _header(self, study_uid: str, path: Path) -> Patient:
        try:
            return _patient(read_guarded(path, _READ))
        except AllpacsError:  # the source is gone, or cannot be parsed: our report repeats what it said
            return self._from_report(study_uid)

    def _from_report(self, study_uid: str) -> Patient:
        study = self._store.studies.get(study_uid)
        if study is None:
            return Patient()
        for revision in range(study.revision, 0, -1):
            path = self._store.artefacts.paths(study_uid, revision).get(ArtefactKind.SR)
            if path is not None and path.is_file():
                return _patient(read_guarded(path, _READ))
        return Patient()


def _patient(header: Dataset) -> Patient:
    specimens = [text(one, "SpecimenIdentifier") for one in items(header, "SpecimenDescriptionSequence")]
    types = [
        text(kind, "CodeMeaning")
        for one in items(header, "SpecimenDescriptionSequence")
        for kind in items(one, "SpecimenTypeCodeSequence")
    ]
    return Patient(
        name=person_name(header),
        patient_id=text(header, "PatientID"),
        birth_date=text(header, "PatientBirthDate"),
        sex=text(header, "PatientSex"),
        accession=text(header, "AccessionNumber"),
        study_date=text(header, "StudyDate"),
        description=text(header, "StudyDescription"),
        dicom_name=text(header, "PatientName"),
        study_time=text(header, "StudyTime"),
        study_id=text(header, "StudyID"),
        referring_physician=text(header, "ReferringPhysicianName"),
        specimen=" ".join(dict.fromkeys(filter(None, [*types, *specimens]))),
    )
