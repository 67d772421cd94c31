"""Finished results: their bytes in a folder, their identity in the index.

The index's column `kind` holds the result's name: the kind, and from the second of several on its number, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from allpacs.domain.artefacts import DICOM, Artefact, kind_and_number
from allpacs.domain.away import open_fault
from allpacs.domain.errors import StoreDamaged
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.spool import Spool

_T = schema.artefacts.c


class Artefacts:
    """Results by revision and name; putting the same one again changes nothing."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def put(self, study_uid: str, revision: int, artefact: Artefact) -> Path:
        """Keep a result, and return the absolute path of its file; its bytes and its row are on disk then.

        Raises
        ------
        StoreFault
            The disk or the index cannot be written.
        ValueError
            The file name is not a plain name.
        """
        if Path(artefact.file_name).name != artefact.file_name:
            raise ValueError(f"not a plain file name: {artefact.file_name!r}")
        path = Path(study_uid, str(revision), artefact.file_name)
        self._spool.write(path, [artefact.content])
        insert = self._database.insert(schema.artefacts).values(
            study_uid=study_uid,
            revision=revision,
            kind=artefact.name,
            uid=artefact.uid,
            media_type=artefact.media_type,
            path=path.as_posix(),
            sha256=hashlib.sha256(artefact.content).hexdigest(),
            supersedes=artefact.supersedes,
        )
        with self._database.writing() as connection:
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[_T.study_uid, _T.revision, _T.kind],
                    set_={
                        name: insert.excluded[name] for name in ("uid", "media_type", "path", "sha256", "supersedes")
                    },
                )
            )
        return self._spool.folder / path

    def put_all(self, study_uid: str, revision: int, artefacts: Iterable[Artefact]) -> None:
        """Keep all results of a revision, and forget what an earlier try, on other terms, made beside them.

        Raises
        ------
        StoreFault
            The disk or the index cannot be written; some may be kept.
        """
        names = []
        for one in artefacts:
            self.put(study_uid, revision, one)
            names.append(one.name)
            del one  # before the next is made: each may be a hundred megabytes
        others = (_T.study_uid == study_uid, _T.revision == revision, _T.kind.not_in(names))
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.artefacts).where(*others))

    def get(self, study_uid: str, revision: int) -> list[Artefact]:
        """Return the results of a revision with their bytes, by kind and number.

        Raises
        ------
        StoreDamaged
            A file is missing or is not what was put.
        StoreFault
            The folder of the results is away for now.
        """
        return [
            Artefact(
                kind=kind,
                number=number,
                uid=row.uid,
                media_type=row.media_type,
                file_name=Path(row.path).name,
                content=self._content(row.path, row.sha256),
                supersedes=row.supersedes,
            )
            for (kind, number), row in self._rows(study_uid, revision)
        ]

    def put_pictures(self, study_uid: str, revision: int, content: bytes) -> None:
        """Keep what the network saw of a reading's cells, beside its results.

        Raises
        ------
        StoreFault
            The disk cannot be written.
        """
        self._spool.write(_pictures(study_uid, revision), [content])

    def pictures(self, study_uid: str, revision: int) -> bytes | None:
        """Return what `put_pictures` has kept, or None where nothing can be read."""
        try:
            return (self._spool.folder / _pictures(study_uid, revision)).read_bytes()
        except OSError:
            return None

    def dicom_of_study(self, study_uid: str) -> list[Path]:
        """Return where the DICOM objects made of a study lie, of all revisions, first to last."""
        query = sa.select(_T.path).where(_T.study_uid == study_uid, _T.media_type == DICOM)
        with self._database.reading() as connection:
            return [self._spool.folder / path for path in connection.scalars(query.order_by(_T.revision, _T.kind))]

    def studies_with_dicom(self) -> list[str]:
        """Return the studies that DICOM objects were made of, the one that received an instance last first."""
        study = schema.studies.c
        made = sa.exists().where(_T.study_uid == study.study_uid, _T.media_type == DICOM)
        query = sa.select(study.study_uid).where(made).order_by(study.last_received_at.desc(), study.study_uid)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def paths(self, study_uid: str, revision: int) -> dict[str, Path]:
        """Return where the results of a revision lie, by name: of the first of a kind that is the kind itself."""
        return {row.kind: self._spool.folder / row.path for _, row in self._rows(study_uid, revision)}

    def media_types(self, study_uid: str, revision: int) -> frozenset[str]:
        """Return the media types that the results of a revision have."""
        return frozenset(row.media_type for _, row in self._rows(study_uid, revision))

    def _rows(self, study_uid: str, revision: int) -> list[tuple[tuple[str, int], sa.Row[Any]]]:
        query = sa.select(schema.artefacts).where(_T.study_uid == study_uid, _T.revision == revision)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return sorted(((kind_and_number(row.kind), row) for row in rows), key=itemgetter(0))

    def _content(self, path: str, sha256: str) -> bytes:
        try:
            content = (self._spool.folder / path).read_bytes()
        except OSError as error:
            raise open_fault(self._spool.folder, error, f"artefact {path}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreDamaged(f"artefact {path}: not the bytes that were kept")
        return content


def _pictures(study_uid: str, revision: int) -> Path:
    return Path(study_uid, str(revision), "cells.npz")
