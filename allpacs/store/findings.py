"""Findings as checkpoints: what is known of each instance of a revision so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from allpacs.domain.findings import InstanceFindings
from allpacs.domain.parts import together
from allpacs.store import schema
from allpacs.store.database import Database

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_T = schema.findings.c


class Findings:
    """Findings of instances by revision; putting the same ones again changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, study_uid: str, revision: int, findings: Sequence[InstanceFindings], *, stage: str, part: int = 0
    ) -> None:
        """Keep the findings of some instances in one transaction, over those of an earlier stage.

        Parameters
        ----------
        stage:
            Name of the step that made them, for example ``cells`` or ``classify``.
        part:
            Which part of their findings this is, from 0: those of a slide or of many frames come in several.
        """
        if not findings:
            return
        insert = self._database.insert(schema.findings)
        upsert = insert.on_conflict_do_update(
            index_elements=[_T.study_uid, _T.revision, _T.sop_instance_uid, _T.part],
            set_={"stage": insert.excluded.stage, "body": insert.excluded.body},
        )
        rows = [
            {
                "study_uid": study_uid,
                "revision": revision,
                "sop_instance_uid": found.sop_instance_uid,
                "part": part,
                "stage": stage,
                "body": _adapter().dump_json(found).decode(),
            }
            for found in findings
        ]
        with self._database.writing() as connection:
            connection.execute(upsert, rows)

    def get(
        self,
        study_uid: str,
        revision: int,
        *,
        stage: str | None = None,
        of: Collection[str] | None = None,
        part: int | None = None,
    ) -> list[InstanceFindings]:
        """Return findings of a revision, by series and SOP Instance UID, the parts of each put together.

        Parameters
        ----------
        stage:
            Only those last put by this step.
        of:
            Only those of these SOP Instance UIDs (at most a few thousand).
        part:
            Only this part of their findings.
        """
        query = sa.select(_T.body).where(_T.study_uid == study_uid, _T.revision == revision)
        for column, wanted in ((_T.stage, stage), (_T.part, part)):
            if wanted is not None:
                query = query.where(column == wanted)
        if of is not None:
            query = query.where(_T.sop_instance_uid.in_(of))
        with self._database.reading() as connection:
            bodies = connection.scalars(query.order_by(_T.sop_instance_uid, _T.part)).all()
        parts: dict[str, list[InstanceFindings]] = {}
        for body in bodies:
            found = _adapter().validate_json(body)
            parts.setdefault(found.sop_instance_uid, []).append(found)
        return sorted(map(together, parts.values()), key=lambda one: (one.series_uid, one.sop_instance_uid))

    def clear(self, study_uid: str, revision: int) -> None:
        """Forget the findings of a revision: it is read from the beginning."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.findings).where(_T.study_uid == study_uid, _T.revision == revision))


@cache
def _adapter() -> TypeAdapter[InstanceFindings]:
    from pydantic import TypeAdapter  # the receiver opens a store too, and never needs it

    return TypeAdapter(InstanceFindings)
