"""Studies as an operator asks for them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import StudyRow

_T = schema.studies.c


class Studies:
    """What there is, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, *, state: str | None = None, limit: int = 50) -> list[StudyRow]:
        """Return the studies that received an instance last, newest first.

        Parameters
        ----------
        state:
            Only those in this state: `RECEIVING` or a `RevisionState`.
        """
        query = sa.select(schema.studies).order_by(_T.last_received_at.desc(), _T.study_uid).limit(limit)
        return self._select(query if state is None else query.where(_T.state == state))

    def get(self, study_uid: str) -> StudyRow | None:
        """Return a study, or None where there is none of this UID."""
        found = self._select(sa.select(schema.studies).where(_T.study_uid == study_uid))
        return found[0] if found else None

    def find(self, prefix: str, *, limit: int = 10) -> list[StudyRow]:
        """Return the studies whose UID begins so, or only the one whose UID is exactly this."""
        exact = self.get(prefix)
        if exact is not None:
            return [exact]
        begins = _T.study_uid.startswith(prefix, autoescape=True)
        return self._select(sa.select(schema.studies).where(begins).order_by(_T.study_uid).limit(limit))

    def _select(self, query: sa.Select[Any]) -> list[StudyRow]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            counted = connection.execute(
                sa.select(schema.instances.c.study_uid, sa.func.count())
                .where(schema.instances.c.study_uid.in_([row.study_uid for row in rows]))
                .group_by(schema.instances.c.study_uid)
            )
            counts: dict[str, int] = dict(counted.all())
        return [
            StudyRow(
                study_uid=row.study_uid,
                source_ae=row.source_ae,
                state=row.state,
                revision=row.revision,
                opened_at=row.opened_at,
                last_received_at=row.last_received_at,
                due_at=row.due_at,
                instances=counts.get(row.study_uid, 0),
            )
            for row in rows
        ]
