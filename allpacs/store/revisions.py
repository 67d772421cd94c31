"""Closing studies that are due, and following the reading of each revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from allpacs.domain.errors import StoreDamaged
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.deliveries import CLOCK_STEP_S, delivery_rows
from allpacs.store.records import (
    ARRIVED,
    READ,
    RECEIVING,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    RevisionRow,
    RevisionState,
)
from allpacs.store.spool import Spool

_STUDY = schema.studies.c
_REVISION = schema.revisions.c
_INSTANCE = schema.instances.c


class Revisions:
    """The worker's side of the store: which revisions there are, what is in them, how far they have come."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def close_due(self, now: float) -> list[tuple[str, int]]:
        """Close every study that is due, and return the new revisions, each to exactly one caller.

        A study that received its last instance in the future is due too: the clock was set back, and what it had said
        when that study was due says nothing any more.
        """
        is_due = (
            _STUDY.state == RECEIVING,
            sa.or_(_STUDY.due_at <= now, _STUDY.last_received_at > now + CLOCK_STEP_S),
        )
        with self._database.reading() as connection:
            due = connection.scalars(sa.select(_STUDY.study_uid).where(*is_due).order_by(_STUDY.due_at)).all()
        closed = []
        for study_uid in due:
            with self._database.writing() as connection:
                revision = connection.scalar(
                    sa.update(schema.studies)
                    # Asked again: another worker may have closed it, or an instance may have put it off.
                    .where(_STUDY.study_uid == study_uid, *is_due)
                    .values(revision=_STUDY.revision + 1, state=RevisionState.QUEUED, due_at=None)
                    .returning(_STUDY.revision)
                )
                if revision is None:
                    continue
                connection.execute(
                    sa.update(schema.instances)
                    .where(_INSTANCE.study_uid == study_uid, _INSTANCE.revision.is_(None))
                    .values(revision=revision)
                )
                of_study = sa.select(sa.func.coalesce(sa.func.sum(_INSTANCE.size_bytes), 0))
                connection.execute(
                    sa.insert(schema.revisions).values(
                        study_uid=study_uid,
                        revision=revision,
                        state=RevisionState.QUEUED,
                        created_at=now,
                        attempts=1,
                        size_bytes=of_study.where(_INSTANCE.study_uid == study_uid).scalar_subquery(),
                    )
                )
            closed.append((study_uid, revision))
        return closed

    def ready(self, most: int = 1000, small_bytes: int = 0) -> list[RevisionRow]:
        """Return the revisions that nobody has begun to read, oldest first.

        A revision waits until the one before it has been read: its report supersedes a report that exists.

        Parameters
        ----------
        most:
            So many at most of the small, and as many of the large ones: those that have waited longest.
        small_bytes:
            Up to which size a study is small.
        """
        earlier = schema.revisions.alias("earlier")
        unread = sa.exists().where(
            earlier.c.study_uid == _REVISION.study_uid,
            earlier.c.revision < _REVISION.revision,
            earlier.c.state.not_in(READ),
        )
        queued = sa.select(schema.revisions).where(_REVISION.state == RevisionState.QUEUED, ~unread)
        size = sa.func.coalesce(_REVISION.size_bytes, 0)
        oldest = (_REVISION.created_at, _REVISION.study_uid)
        found = [
            *self._select(queued.where(size <= small_bytes).order_by(*oldest).limit(most)),
            *self._select(queued.where(size > small_bytes).order_by(*oldest).limit(most)),
        ]
        return sorted(found, key=lambda row: (row.created_at, row.study_uid))

    def get(self, study_uid: str, revision: int) -> RevisionRow:
        """Return one revision.

        Raises
        ------
        StoreDamaged
            There is no such revision.
        """
        found = self._select(
            sa.select(schema.revisions).where(_REVISION.study_uid == study_uid, _REVISION.revision == revision)
        )
        if not found:
            raise StoreDamaged(f"index: study {study_uid} has no revision {revision}")
        return found[0]

    def in_state(self, state: RevisionState) -> list[RevisionRow]:
        """Return the revisions of all studies in a state, oldest first."""
        return self._select(sa.select(schema.revisions).where(_REVISION.state == state).order_by(_REVISION.created_at))

    def read_again(self, study_uid: str) -> int | None:
        """Queue a study's latest revision again if it needs attention; return its number, or None where it does not.

        Only a reading that failed is repeated; one that was reported and could not be delivered is left as it is.
        """
        reported = sa.exists().where(
            schema.deliveries.c.study_uid == study_uid, schema.deliveries.c.revision == _REVISION.revision
        )
        with self._database.writing() as connection:
            revision: int | None = connection.scalar(
                sa.update(schema.revisions)
                .where(
                    _REVISION.study_uid == study_uid,
                    _REVISION.revision
                    == sa.select(_STUDY.revision).where(_STUDY.study_uid == study_uid).scalar_subquery(),
                    _REVISION.state == RevisionState.ATTENTION,
                    ~reported,
                )
                .values(state=RevisionState.QUEUED, attempts=_REVISION.attempts + 1, reason=None, finished_at=None)
                .returning(_REVISION.revision)
            )
            if revision is not None:
                connection.execute(
                    sa.update(schema.studies)
                    .where(_STUDY.study_uid == study_uid, _STUDY.revision == revision, _STUDY.state != RECEIVING)
                    .values(state=RevisionState.QUEUED)
                )
        return revision

    def begin_again(self, study_uid: str, revision: int, attempt: int) -> RevisionState | None:
        """Queue a reading again that cannot be finished; doing so twice changes nothing.

        Returns
        -------
        RevisionState or None
            ``queued``; ``reported`` where its results are on their way already; ``superseded`` where there is a later
            revision, which holds all of it; None where that attempt is no longer being made.
        """
        this = (_REVISION.study_uid == study_uid, _REVISION.revision == revision)
        with self._database.writing() as connection:
            being_read = connection.execute(
                sa.select(_REVISION.revision)
                .where(
                    *this,
                    _REVISION.attempts == attempt,
                    _REVISION.state.in_((RevisionState.QUEUED, RevisionState.READING)),
                )
                .with_for_update()
            ).one_or_none()
            if being_read is None:
                return None
            deliveries = schema.deliveries.c
            if delivery_rows(connection, deliveries.study_uid == study_uid, deliveries.revision == revision):
                state = RevisionState.REPORTED
            elif connection.scalar(sa.select(_STUDY.revision).where(_STUDY.study_uid == study_uid)) != revision:
                state = RevisionState.SUPERSEDED
            else:
                state = RevisionState.QUEUED
                connection.execute(sa.update(schema.revisions).where(*this).values(attempts=attempt + 1))
            _move(connection, study_uid, revision, {"state": state, "reason": None})
        return state

    def note(self, study_uid: str, revision: int, reason: str | None) -> None:
        """Say of a reading that goes on what it waits for, in one line; None: it waits no longer."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.revisions)
                .where(
                    _REVISION.study_uid == study_uid,
                    _REVISION.revision == revision,
                    _REVISION.state == RevisionState.READING,
                )
                .values(reason=reason)
            )

    def progress(self, study_uid: str, revision: int, *, read: int, pieces: int) -> None:
        """Say how many pieces of a reading are done."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.revisions)
                .where(_REVISION.study_uid == study_uid, _REVISION.revision == revision)
                .values(pieces=pieces, pieces_read=read)
            )

    def instances(self, study_uid: str, revision: int) -> list[InstanceRow]:
        """Return the instances of a revision, those of earlier ones included, by series and SOP Instance UID."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(schema.instances).where(_INSTANCE.study_uid == study_uid, _INSTANCE.revision <= revision)
            ).all()
        return [
            InstanceRow(
                sop_instance_uid=row.sop_instance_uid,
                study_uid=row.study_uid,
                series_uid=row.series_uid,
                sop_class_uid=row.sop_class_uid,
                transfer_syntax_uid=row.transfer_syntax_uid,
                calling_ae=row.calling_ae,
                received_at=row.received_at,
                path=self._spool.folder / row.path,
                size_bytes=row.size_bytes,
                sha256=row.sha256,
                revision=row.revision,
            )
            # Not sorted by the database: its collation may pass over the dots.
            for row in sorted(rows, key=lambda row: (row.series_uid, row.sop_instance_uid))
        ]

    def set_state(
        self,
        study_uid: str,
        revision: int,
        state: RevisionState,
        *,
        reason: str | None = None,
        finished_at: float | None = None,
        bundle_digest: str | None = None,
    ) -> None:
        """Move a revision on; its study follows unless it is receiving again or has a later revision.

        Doing so twice changes nothing. `finished_at` and `bundle_digest` stay as they are where not given.
        """
        values: dict[str, object] = {"state": state, "reason": reason}
        if finished_at is not None:
            values["finished_at"] = finished_at
        if bundle_digest is not None:
            values["bundle_digest"] = bundle_digest
        with self._database.writing() as connection:
            _move(connection, study_uid, revision, values)

    def settle(self, study_uid: str, revision: int, *, now: float) -> None:
        """Move a revision that has been read to what its deliveries make of it; doing so twice changes nothing.

        They are read and the state is written in one transaction: of two deliveries that end together, the later one
        sees both.
        """
        deliveries = schema.deliveries.c
        with self._database.writing() as connection:
            connection.execute(  # where writers do not exclude one another anyway, as they do in SQLite
                sa.select(_REVISION.revision)
                .where(_REVISION.study_uid == study_uid, _REVISION.revision == revision)
                .with_for_update()
            )
            rows = delivery_rows(connection, deliveries.study_uid == study_uid, deliveries.revision == revision)
            state, reason = outcome(rows)
            over = state != RevisionState.REPORTED or not rows
            finished_at = sa.func.coalesce(_REVISION.finished_at, now) if over else None
            _move(connection, study_uid, revision, {"state": state, "reason": reason, "finished_at": finished_at})

    def of_study(self, study_uid: str) -> list[RevisionRow]:
        """Return the revisions of a study, first to last."""
        return self._select(
            sa.select(schema.revisions).where(_REVISION.study_uid == study_uid).order_by(_REVISION.revision)
        )

    def _select(self, query: sa.Select[Any]) -> list[RevisionRow]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            RevisionRow(
                study_uid=row.study_uid,
                revision=row.revision,
                state=RevisionState(row.state),
                created_at=row.created_at,
                finished_at=row.finished_at,
                reason=row.reason,
                bundle_digest=row.bundle_digest,
                attempts=row.attempts,
                pieces=row.pieces,
                pieces_read=row.pieces_read,
                size_bytes=row.size_bytes or 0,
            )
            for row in rows
        ]


def outcome(deliveries: Sequence[DeliveryRow]) -> tuple[RevisionState, str | None]:
    """Return the state of a revision that has been read, and the reason where a person has to look."""
    dead = [delivery for delivery in deliveries if delivery.state == DeliveryState.DEAD]
    if dead:
        return RevisionState.ATTENTION, "; ".join(f"{one.destination}: {one.reason}" for one in dead)
    if deliveries and all(delivery.state in ARRIVED for delivery in deliveries):
        return RevisionState.DELIVERED, None
    return RevisionState.REPORTED, None


def _move(connection: sa.Connection, study_uid: str, revision: int, values: Mapping[str, object]) -> None:
    connection.execute(
        sa.update(schema.revisions)
        .where(_REVISION.study_uid == study_uid, _REVISION.revision == revision)
        .values(values)
    )
    connection.execute(
        sa.update(schema.studies)
        .where(_STUDY.study_uid == study_uid, _STUDY.revision == revision, _STUDY.state != RECEIVING)
        .values(state=values["state"])
    )
