"""Storage commitment in the index: what we asked of destinations, and what senders asked of us."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from allpacs.domain.identity import comprehensive_uid
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import CommitmentRow, PendingReport
from allpacs.store.spool import Spool

_ASKED = schema.commitments.c
_OWED = schema.commitment_requests.c
_INSTANCE = schema.instances.c

_COMMITTED, _FAILED = "committed", "failed"
#: UIDs in one question to the database.
_MOST_AT_ONCE = 500


class Commitments:
    """Both sides of storage commitment; safe to be told the same thing twice."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    # ------------------------------------------------------------------------------------------ asked of destinations

    def ask(
        self,
        transaction_uid: str,
        study_uid: str,
        revision: int,
        destination: str,
        attempt: int,
        sop_instance_uids: Sequence[str],
        *,
        now: float,
    ) -> None:
        """Note that a destination is about to be asked, so that its answer is known whenever it comes."""
        with self._database.writing() as connection:
            connection.execute(
                self._database.insert(schema.commitments)
                .values(
                    transaction_uid=transaction_uid,
                    study_uid=study_uid,
                    revision=revision,
                    destination=destination,
                    attempt=attempt,
                    sop_instance_uids=" ".join(sop_instance_uids),
                    asked_at=now,
                )
                .on_conflict_do_nothing()
            )

    def answered(self, transaction_uid: str, committed: Collection[str], failure: str | None) -> bool:
        """Note a destination's answer, and return whether it was asked; the first answer stays.

        Parameters
        ----------
        committed:
            SOP Instance UIDs that it commits to: it has to name all that it was asked about, a report by its own UID or
            by that of the Comprehensive SR made of it.
        failure:
            Why it does not commit, in one line without patient data; None: it does.
        """
        with self._database.writing() as connection:
            asked = connection.scalar(
                sa.select(_ASKED.sop_instance_uids).where(_ASKED.transaction_uid == transaction_uid)
            )
            if asked is None:
                return False
            # Of a report that went as Comprehensive SR the destination knows that one's UID only.
            named = set(committed)
            left_out = [uid for uid in asked.split() if named.isdisjoint((uid, comprehensive_uid(uid)))]
            if failure is None and left_out:
                failure = f"storage commitment says nothing of {len(left_out)} objects"
            connection.execute(
                sa.update(schema.commitments)
                .where(_ASKED.transaction_uid == transaction_uid, _ASKED.outcome.is_(None))
                .values(outcome=_COMMITTED if failure is None else _FAILED, reason=failure)
            )
        return True

    def answers(self) -> list[CommitmentRow]:
        """Return the answers that their deliveries have not been told, oldest question first."""
        query = (
            sa.select(schema.commitments)
            .where(_ASKED.settled.is_(False), _ASKED.outcome.is_not(None))
            .order_by(_ASKED.asked_at)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            CommitmentRow(
                transaction_uid=row.transaction_uid,
                study_uid=row.study_uid,
                revision=row.revision,
                destination=row.destination,
                attempt=row.attempt,
                committed=row.outcome == _COMMITTED,
                reason=row.reason,
            )
            for row in rows
        ]

    def settle(self, transaction_uid: str) -> None:
        """Note that the delivery has been told."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.commitments).where(_ASKED.transaction_uid == transaction_uid).values(settled=True)
            )

    def forget(self, asked_before: float) -> None:
        """Delete what was asked before that time: its delivery has been settled by a later question, or given up."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.commitments).where(_ASKED.asked_at < asked_before))

    # ------------------------------------------------------------------------------------------------ asked of us

    def schedule(
        self, calling_ae: str, transaction_uid: str, instances: Iterable[tuple[str, str]], *, now: float, due_at: float
    ) -> None:
        """Note what a sender asked us to commit to; when this returns, it will be answered."""
        with self._database.writing() as connection:
            connection.execute(
                self._database.insert(schema.commitment_requests)
                .values(
                    calling_ae=calling_ae,
                    transaction_uid=transaction_uid,
                    body=json.dumps([list(one) for one in instances]),
                    received_at=now,
                    attempts=0,
                    next_attempt_at=due_at,
                )
                .on_conflict_do_nothing()
            )

    def due(self, now: float) -> list[PendingReport]:
        """Return what is to be answered now, oldest first."""
        query = sa.select(schema.commitment_requests).where(_OWED.next_attempt_at <= now).order_by(_OWED.received_at)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            PendingReport(
                calling_ae=row.calling_ae,
                transaction_uid=row.transaction_uid,
                instances=tuple((one[0], one[1]) for one in json.loads(row.body)),
                received_at=row.received_at,
                attempts=row.attempts,
            )
            for row in rows
        ]

    def postpone(self, pending: PendingReport, until: float) -> bool:
        """Claim a report and set its next attempt; return False if another process has claimed it."""
        with self._database.writing() as connection:
            claimed = connection.execute(
                sa.update(schema.commitment_requests)
                .where(*_is(pending), _OWED.attempts == pending.attempts)
                .values(attempts=pending.attempts + 1, next_attempt_at=until)
            )
        return claimed.rowcount == 1

    def confirm(self, pending: PendingReport) -> None:
        """Note that a sender has been told, or cannot be."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.commitment_requests).where(*_is(pending)))

    def held(self, sop_instance_uids: Sequence[str]) -> dict[str, str]:
        """Return the SOP Class UID of those instances that are in the index and, whole, in the spool."""
        held = {}
        for start in range(0, len(sop_instance_uids), _MOST_AT_ONCE):
            query = sa.select(
                _INSTANCE.sop_instance_uid, _INSTANCE.sop_class_uid, _INSTANCE.path, _INSTANCE.size_bytes
            ).where(_INSTANCE.sop_instance_uid.in_(sop_instance_uids[start : start + _MOST_AT_ONCE]))
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            held.update(
                {row.sop_instance_uid: row.sop_class_uid for row in rows if self._whole(row.path, row.size_bytes)}
            )
        return held

    def _whole(self, path: str, size_bytes: int) -> bool:
        try:
            return (self._spool.folder / path).stat().st_size == size_bytes
        except OSError:
            return False


def _is(pending: PendingReport) -> tuple[sa.ColumnElement[bool], ...]:
    return _OWED.calling_ae == pending.calling_ae, _OWED.transaction_uid == pending.transaction_uid
