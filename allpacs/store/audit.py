"""What happened that someone may ask about later: refusals, conflicts, an operator's resend."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import AuditRow


class Audit:
    """Events worth keeping; UIDs, AE titles, statuses and reasons only, never patient data."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        event: str,
        *,
        at: float,
        study_uid: str | None = None,
        sop_instance_uid: str | None = None,
        calling_ae: str | None = None,
        status: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Keep one event.

        Parameters
        ----------
        event:
            Constant name in the past tense, for example ``instance_refused``.
        status:
            C-STORE-RSP status, where one was answered.

        Raises
        ------
        StoreFault
            The index cannot be written.
        """
        with self._database.writing() as connection:
            connection.execute(
                sa.insert(schema.audit).values(
                    at=at,
                    event=event,
                    study_uid=study_uid,
                    sop_instance_uid=sop_instance_uid,
                    calling_ae=calling_ae,
                    status=status,
                    reason=reason,
                )
            )

    def of_study(self, study_uid: str) -> list[AuditRow]:
        """Return the events of a study and of the instances kept in it, oldest first."""
        kept = sa.select(schema.instances.c.sop_instance_uid).where(schema.instances.c.study_uid == study_uid)
        about = sa.or_(_T.study_uid == study_uid, _T.sop_instance_uid.in_(kept))
        return self._select(sa.select(*_COLUMNS).where(about).order_by(_T.id))

    def count(self, event: str, study_uid: str) -> int:
        """Return how often something has happened to a study."""
        query = sa.select(sa.func.count()).where(_T.event == event, _T.study_uid == study_uid)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()

    def latest(self, limit: int = 50) -> list[AuditRow]:
        """Return the last events of all, newest first."""
        return self._select(sa.select(*_COLUMNS).order_by(_T.id.desc()).limit(limit))

    def forget(self, before: float) -> int:
        """Delete the events from before a time (seconds since 1970); return how many."""
        with self._database.writing() as connection:
            return connection.execute(sa.delete(schema.audit).where(_T.at < before)).rowcount

    def _select(self, query: sa.Select[Any]) -> list[AuditRow]:
        with self._database.reading() as connection:
            return [AuditRow(*row) for row in connection.execute(query)]


_T = schema.audit.c
_COLUMNS = (_T.at, _T.event, _T.study_uid, _T.sop_instance_uid, _T.calling_ae, _T.status, _T.reason)
