"""How far the results of a revision have come, destination by destination."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import ARRIVED, DeliveryRow, DeliveryState

_T = schema.deliveries.c
#: A time that lies further in the future than machines' clocks differ was written before the clock was set back.
CLOCK_STEP_S = 300.0

#: States in which a delivery is due at its time.
_TIMED = (DeliveryState.RETRYING, DeliveryState.UNCOMMITTED)
_WAITING = (DeliveryState.QUEUED, *_TIMED)


class Deliveries:
    """The state of each delivery: one destination never stands for another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self, study_uid: str, revision: int, destinations: Iterable[str], *, now: float) -> None:
        """Note that results are to go to these destinations; those noted already stay as they are."""
        rows = [
            {
                "study_uid": study_uid,
                "revision": revision,
                "destination": destination,
                "state": DeliveryState.QUEUED,
                "attempts": 0,
                "attempts_forgiven": 0,
                "updated_at": now,
            }
            for destination in destinations
        ]
        if not rows:
            return
        with self._database.writing() as connection:
            connection.execute(self._database.insert(schema.deliveries).on_conflict_do_nothing(), rows)

    def set_state(
        self,
        study_uid: str,
        revision: int,
        destination: str,
        state: DeliveryState,
        *,
        now: float,
        attempts: int | None = None,
        reason: str | None = None,
        next_attempt_at: float | None = None,
    ) -> bool:
        """Move a delivery on, and return whether it moved: what has arrived stays so.

        Parameters
        ----------
        attempts:
            Attempts made so far; stays as it is where not given.
        reason:
            One line for the operator, without patient data.
        """
        values: dict[str, object] = {
            "state": state,
            "reason": reason,
            "next_attempt_at": next_attempt_at,
            "updated_at": now,
        }
        if attempts is not None:
            values["attempts"] = attempts
        with self._database.writing() as connection:
            moved = connection.execute(
                sa.update(schema.deliveries)
                .where(*_is(study_uid, revision, destination), _T.state.not_in(ARRIVED))
                .values(values)
            )
        return moved.rowcount == 1

    def due(self, now: float, most: int = 1000) -> list[DeliveryRow]:
        """Return the deliveries to attempt now, oldest revision of each study and destination first.

        A later revision waits for the earlier one to be sent or given up, so that results arrive in order.

        Parameters
        ----------
        most:
            Of each destination so many at most, those that have waited longest.
        """
        earlier = schema.deliveries.alias("earlier")
        waiting = sa.exists().where(
            earlier.c.study_uid == _T.study_uid,
            earlier.c.destination == _T.destination,
            earlier.c.revision < _T.revision,
            earlier.c.state.not_in((*ARRIVED, DeliveryState.DEAD)),
            earlier.c.sent_at.is_(None),
        )
        due = sa.or_(
            _T.state == DeliveryState.QUEUED,
            sa.and_(
                _T.state.in_(_TIMED),
                # Put off in the future: the clock was set back, and would hold it up for as long.
                sa.or_(_T.next_attempt_at <= now, _T.updated_at > now + CLOCK_STEP_S),
            ),
        )
        turn = sa.func.row_number().over(
            partition_by=_T.destination, order_by=(_T.updated_at, _T.study_uid, _T.revision)
        )
        turns = sa.select(_T.study_uid, _T.revision, _T.destination, turn.label("turn")).where(due, ~waiting).subquery()
        soonest = sa.select(turns.c.study_uid, turns.c.revision, turns.c.destination).where(turns.c.turn <= most)
        return self._select(sa.tuple_(_T.study_uid, _T.revision, _T.destination).in_(soonest))

    def begin(self, study_uid: str, revision: int, destination: str, attempt: int, *, now: float) -> DeliveryRow | None:
        """Note that an attempt begins; doing so twice changes nothing.

        Returns None where there is nothing to begin: the results were sent, or that attempt is over. One that a person
        has revived and that a later revision has overtaken meanwhile is dead again.
        """
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.deliveries)
                .where(
                    *_is(study_uid, revision, destination),
                    _not_over(attempt),
                    _T.attempts_forgiven > 0,
                    _T.sent_at.is_(None),
                    _overtaken(),
                )
                .values(
                    state=DeliveryState.DEAD,
                    attempts=attempt,
                    next_attempt_at=None,
                    reason="a later report of the study was sent meanwhile",
                    updated_at=now,
                )
            )
            begun = connection.execute(
                sa.update(schema.deliveries)
                .where(*_is(study_uid, revision, destination), _not_over(attempt))
                .values(state=DeliveryState.SENDING, attempts=attempt, next_attempt_at=None, updated_at=now)
            )
            if begun.rowcount == 0:
                return None
            return delivery_rows(connection, *_is(study_uid, revision, destination))[0]

    def note_sent(self, study_uid: str, revision: int, destination: str, *, now: float) -> None:
        """Note that a destination has taken the results, though it may not have committed to them."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.deliveries)
                .where(*_is(study_uid, revision, destination))
                .values(sent_at=sa.func.coalesce(_T.sent_at, now))
            )

    def send_again(
        self,
        study_uid: str,
        revision: int,
        destination: str,
        attempt: int,
        state: DeliveryState,
        *,
        now: float,
        reason: str,
        next_attempt_at: float | None,
    ) -> bool:
        """Retry or give up what a destination would not commit to; return False where that attempt is not the last."""
        with self._database.writing() as connection:
            moved = connection.execute(
                sa.update(schema.deliveries)
                .where(
                    *_is(study_uid, revision, destination),
                    _T.attempts == attempt,
                    _T.state.in_((DeliveryState.UNCOMMITTED, DeliveryState.SENDING)),
                )
                .values(state=state, reason=reason, next_attempt_at=next_attempt_at, sent_at=None, updated_at=now)
            )
        return moved.rowcount == 1

    def retry_lost(self, study_uid: str, revision: int, destination: str, attempt: int, *, now: float) -> bool:
        """Queue a delivery again whose attempt was lost, and return whether it was: one that moved on stays."""
        with self._database.writing() as connection:
            found = connection.execute(
                sa.update(schema.deliveries)
                .where(*_is(study_uid, revision, destination), _not_over(attempt))
                .values(
                    state=DeliveryState.RETRYING,
                    attempts=attempt,
                    next_attempt_at=now,
                    reason="an attempt was interrupted",
                    updated_at=now,
                )
            )
        return found.rowcount == 1

    def revive(self, study_uid: str, *, now: float) -> list[tuple[int, str]]:
        """Queue the dead deliveries of a study again, and return their revisions and destinations.

        The attempts made so far no longer count towards giving up. One that a later revision was or is being sent after
        stays dead: it would put the older report over the newer.
        """
        with self._database.writing() as connection:
            rows = connection.execute(
                sa.update(schema.deliveries)
                .where(_T.study_uid == study_uid, _T.state == DeliveryState.DEAD, ~_overtaken())
                .values(
                    state=DeliveryState.QUEUED,
                    attempts_forgiven=_T.attempts,
                    next_attempt_at=None,
                    sent_at=None,
                    updated_at=now,
                )
                .returning(_T.revision, _T.destination)
            ).all()
        return sorted((revision, destination) for revision, destination in rows)

    def unclaimed(self, configured: Collection[str]) -> list[DeliveryRow]:
        """Return the deliveries that wait, or have failed, for destinations that are not configured (any more)."""
        return self._select(_T.state.not_in(ARRIVED), _T.destination.not_in(configured))

    def retarget(self, study_uid: str, to: str, configured: Collection[str], *, now: float) -> list[tuple[int, str]]:
        """Queue a study's unclaimed deliveries for another destination; return their revisions and old destinations.

        A delivery of the same revision that the other destination has already takes their place. One that an attempt
        is being made of (`DeliveryState.SENDING`) stays as it is.

        Parameters
        ----------
        to:
            Name of the destination that they go to.
        configured:
            Names of all configured destinations.
        """
        moved = []
        with self._database.writing() as connection:
            movable = (_T.study_uid == study_uid, _T.state.in_((*_WAITING, DeliveryState.DEAD)))
            rows = delivery_rows(connection, *movable, _T.destination.not_in(configured))
            has = set(connection.scalars(sa.select(_T.revision).where(_T.study_uid == study_uid, _T.destination == to)))
            for row in rows:
                here = _is(study_uid, row.revision, row.destination)
                if row.revision in has:
                    connection.execute(sa.delete(schema.deliveries).where(*here))
                else:
                    fresh = {"destination": to, "state": DeliveryState.QUEUED, "attempts_forgiven": _T.attempts}
                    cleared = {"next_attempt_at": None, "sent_at": None, "reason": None, "updated_at": now}
                    connection.execute(sa.update(schema.deliveries).where(*here).values(**fresh, **cleared))
                    has.add(row.revision)
                moved.append((row.revision, row.destination))
        return moved

    def of_study(self, study_uid: str) -> list[DeliveryRow]:
        """Return all deliveries of a study, by revision and destination."""
        return self._select(_T.study_uid == study_uid)

    def of_revision(self, study_uid: str, revision: int) -> list[DeliveryRow]:
        """Return the deliveries of one revision, by destination."""
        return self._select(_T.study_uid == study_uid, _T.revision == revision)

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """Return how many deliveries are in which state, by destination."""
        query = sa.select(_T.destination, _T.state, sa.func.count()).group_by(_T.destination, _T.state)
        counts: dict[str, dict[DeliveryState, int]] = {}
        with self._database.reading() as connection:
            for destination, state, count in connection.execute(query.order_by(_T.destination)):
                counts.setdefault(destination, {})[DeliveryState(state)] = count
        return counts

    def in_state(self, state: DeliveryState) -> list[DeliveryRow]:
        """Return the deliveries of all studies in a state."""
        return self._select(_T.state == state)

    def _select(self, *where: sa.ColumnElement[bool]) -> list[DeliveryRow]:
        with self._database.reading() as connection:
            return delivery_rows(connection, *where)


def _is(study_uid: str, revision: int, destination: str) -> tuple[sa.ColumnElement[bool], ...]:
    return _T.study_uid == study_uid, _T.revision == revision, _T.destination == destination


def _not_over(attempt: int) -> sa.ColumnElement[bool]:
    """Whether an attempt is being made, or is the next one to make."""
    return sa.or_(
        sa.and_(_T.attempts == attempt - 1, _T.state.in_(_WAITING)),
        sa.and_(_T.attempts == attempt, _T.state == DeliveryState.SENDING),
    )


def _overtaken() -> sa.ColumnElement[bool]:
    """Whether a later revision was sent to the same destination, or is being sent."""
    later = schema.deliveries.alias("later")
    return sa.exists().where(
        later.c.study_uid == _T.study_uid,
        later.c.destination == _T.destination,
        later.c.revision > _T.revision,
        sa.or_(later.c.state.in_((*ARRIVED, DeliveryState.SENDING)), later.c.sent_at.is_not(None)),
    )


def delivery_rows(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[DeliveryRow]:
    """Return the deliveries that meet the conditions, by study, revision and destination."""
    query = sa.select(schema.deliveries).where(*where).order_by(_T.study_uid, _T.revision, _T.destination)
    return [
        DeliveryRow(
            study_uid=row.study_uid,
            revision=row.revision,
            destination=row.destination,
            state=DeliveryState(row.state),
            attempts=row.attempts,
            attempts_forgiven=row.attempts_forgiven,
            next_attempt_at=row.next_attempt_at,
            reason=row.reason,
            updated_at=row.updated_at,
            sent_at=row.sent_at,
        )
        for row in connection.execute(query)
    ]
