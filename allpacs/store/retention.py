"""Source bytes of studies that are long delivered, deleted; their rows stay.

A study's bytes go only when every result of it has arrived (and been committed to, where the destination offers that)
and the configured time has passed since. The row stays with its digest: the same bytes sent again are put back, other
bytes under the same UID are still refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import RevisionState
from allpacs.store.spool import Spool

_STUDY = schema.studies.c
_REVISION = schema.revisions.c
_INSTANCE = schema.instances.c

#: Files of rows deleted so recently are looked for again: a crash may have come between the two. Where this process has
#: looked before, only those of the last hour before that: another one may have deleted rows and crashed.
_AGAIN_S, _AGAIN_AFTER_A_LOOK_S = 172_800.0, 3600.0
#: Files in one transaction: receivers wait for as long.
_FILES_AT_ONCE = 100


class Retention:
    """Deletes what need not be kept any longer."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool
        self._looked_at = float("-inf")

    def purge(self, delivered_before: float, *, now: float) -> list[str]:
        """Delete the source bytes of studies delivered before that time; return their UIDs.

        Raises
        ------
        StoreFault
            The index or the spool cannot be written; what was not deleted is at the next call.
        """
        finished = (
            sa.select(sa.func.max(_REVISION.finished_at))
            .where(_REVISION.study_uid == _STUDY.study_uid)
            .scalar_subquery()
        )
        unfinished = sa.exists().where(
            _REVISION.study_uid == _STUDY.study_uid,
            _REVISION.state.not_in((RevisionState.DELIVERED, RevisionState.SUPERSEDED)),
        )
        kept = sa.exists().where(_INSTANCE.study_uid == _STUDY.study_uid, _INSTANCE.deleted_at.is_(None))
        over = (_STUDY.state == RevisionState.DELIVERED, finished <= delivered_before, ~unfinished)
        with self._database.reading() as connection:
            studies = connection.scalars(sa.select(_STUDY.study_uid).where(*over, kept)).all()
        purged = []
        for study_uid in studies:
            with self._database.writing() as connection:
                still = connection.scalar(
                    # Asked again: an instance may have come meanwhile, and opened the study.
                    sa.select(_STUDY.study_uid).where(_STUDY.study_uid == study_uid, *over).with_for_update()
                )
                if still is None:
                    continue
                connection.execute(
                    sa.update(schema.instances)
                    .where(_INSTANCE.study_uid == study_uid, _INSTANCE.deleted_at.is_(None))
                    .values(deleted_at=now)
                )
            purged.append(study_uid)
        with self._database.reading() as connection:
            since = max(now - _AGAIN_S, min(self._looked_at, now) - _AGAIN_AFTER_A_LOOK_S)
            gone = connection.scalars(sa.select(_INSTANCE.sop_instance_uid).where(_INSTANCE.deleted_at > since)).all()
        for first in range(0, len(gone), _FILES_AT_ONCE):
            self._remove(gone[first : first + _FILES_AT_ONCE])
        self._looked_at = now
        return purged

    def _remove(self, sop_instance_uids: Sequence[str]) -> None:
        """Delete the files of instances that are still deleted: the same bytes may have come again meanwhile."""
        still = (
            sa.select(_INSTANCE.path)
            .where(_INSTANCE.sop_instance_uid.in_(sop_instance_uids), _INSTANCE.deleted_at.is_not(None))
            .order_by(_INSTANCE.sop_instance_uid)
            .with_for_update()
        )
        with self._database.writing() as connection:  # whoever puts bytes back does so in a transaction of its own
            for path in connection.scalars(still).all():
                self._spool.remove(Path(path))

    def deleted(self, study_uid: str, revision: int) -> int:
        """Return how many instances of a revision have no bytes any more."""
        query = sa.select(sa.func.count()).where(
            _INSTANCE.study_uid == study_uid, _INSTANCE.revision <= revision, _INSTANCE.deleted_at.is_not(None)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()
