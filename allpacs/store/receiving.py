"""Taking instances in: the receiver's side of the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import sqlalchemy as sa

from allpacs.dicom.status import DUPLICATE_SOP_INSTANCE
from allpacs.domain.errors import InstanceRefused, StoreFault
from allpacs.domain.instance import InstanceIdentity
from allpacs.store import schema
from allpacs.store.audit import Audit
from allpacs.store.database import Database
from allpacs.store.group_commit import GroupCommit
from allpacs.store.records import RECEIVING, RevisionState
from allpacs.store.spool import Buffer, Content, Spool

#: Status "Duplicate SOP Instance" (PS3.7 section C.5.6).


#: What a study's row begins with.
_OPENING = ("study_uid", "source_ae", "state", "revision", "opened_at", "last_received_at", "due_at")
_SERIES = ("study_uid", "series_uid", "first_received_at")
#: What an instance's row begins with.
_INSTANCE = (
    *("sop_instance_uid", "study_uid", "series_uid", "sop_class_uid", "transfer_syntax_uid"),
    *("calling_ae", "received_at", "path", "size_bytes", "sha256"),
)


class _Kept(NamedTuple):
    """Which bytes are kept under a UID, and where."""

    transfer_syntax_uid: str
    sha256: str
    path: str
    size_bytes: int
    deleted_at: float | None

    def holds(self, transfer_syntax_uid: str, sha256: str) -> bool:
        """Whether they are these."""
        return (self.transfer_syntax_uid, self.sha256) == (transfer_syntax_uid, sha256)


class _KeptAlready(Exception):
    """Another sender's instance of that UID was kept first; undoes what the change had done."""

    def __init__(self, kept: _Kept | None) -> None:
        super().__init__()
        self.kept = kept


class Receiving:
    """Keeps instances, and knows when their studies are due."""

    def __init__(self, database: Database, spool: Spool, audit: Audit) -> None:
        self._database = database
        self._spool = spool
        self._audit = audit
        self._statements = _Statements(database)
        self._group = GroupCommit(database)

    def keep_instance(
        self,
        identity: InstanceIdentity,
        file_meta: Buffer,
        data_set: Content,
        *,
        calling_ae: str,
        received_at: float,
        quiet_s: float,
        max_age_s: float,
    ) -> Literal["stored", "same"]:
        """Keep an instance; when this returns, its bytes and its row are on disk.

        The study becomes due when nothing new has come for `quiet_s`, or `max_age_s` after its first instance. A study
        whose revision was closed already opens again: the instance will be in the next revision.

        Parameters
        ----------
        file_meta:
            Preamble, ``DICM`` and File Meta Information (PS3.10 section 7.1).
        data_set:
            The encoded data set, as it was sent.

        Returns
        -------
        str
            ``stored`` (also for bytes that were deleted after retention, or that the disk has lost or altered, and that
            are back), or ``same`` where the same bytes are kept already (then nothing changes).

        Raises
        ------
        InstanceRefused
            0x0111: other bytes are kept under this SOP Instance UID; they stay.
        StoreFault
            The disk or the index cannot be written.
        """
        data_set_bytes, sha256 = _measured(data_set)
        size = len(file_meta) + data_set_bytes
        with self._database.reading() as connection:
            kept = self._kept(connection, identity.sop_instance_uid)
        same = kept if kept is not None and kept.holds(identity.transfer_syntax_uid, sha256) else None
        # What the disk has lost or altered is put back as what was deleted is: 0x0000 is said of bytes that are there.
        gone = same is not None and (
            same.deleted_at is not None
            or not self._spool.holds(Path(same.path), same.size_bytes, data_set_bytes, sha256)
        )
        if kept is None or gone:
            path = self._spool.instance_path(identity.study_uid, identity.sop_instance_uid)
            staged = self._spool.stage([file_meta, data_set])

            def keep(connection: sa.Connection) -> None:
                statements = self._statements
                statements.open_study.run(
                    connection,
                    study_uid=identity.study_uid,
                    source_ae=calling_ae,
                    state=RECEIVING,
                    revision=0,
                    opened_at=received_at,
                    last_received_at=received_at,
                    due_at=received_at + min(quiet_s, max_age_s),
                    quiet_s=quiet_s,
                    max_age_s=max_age_s,
                )
                statements.add_series.run(
                    connection,
                    study_uid=identity.study_uid,
                    series_uid=identity.series_uid,
                    first_received_at=received_at,
                )
                inserted = statements.add_instance.run(
                    connection,
                    sop_instance_uid=identity.sop_instance_uid,
                    study_uid=identity.study_uid,
                    series_uid=identity.series_uid,
                    sop_class_uid=identity.sop_class_uid,
                    transfer_syntax_uid=identity.transfer_syntax_uid,
                    calling_ae=calling_ae,
                    received_at=received_at,
                    path=path.as_posix(),
                    size_bytes=size,
                    sha256=sha256,
                ).scalar()
                if inserted is None and gone:
                    connection.execute(
                        sa.update(schema.instances)
                        .where(schema.instances.c.sop_instance_uid == identity.sop_instance_uid)
                        .values(deleted_at=None, size_bytes=size)
                    )
                elif inserted is None:
                    raise _KeptAlready(self._kept(connection, identity.sop_instance_uid))
                if not (placed and self._spool.in_place(staged, path)):
                    # Within the transaction: of two senders of one UID, only the one with the row gets the file. One
                    # whose transaction failed may have put its bytes over ours.
                    self._spool.place(staged, path)

            try:
                # Before the transaction, for which others wait: in it there is nothing left to sync but its own log.
                placed = kept is None and self._spool.place_new(staged, path)
                self._group.run(keep, order=f"{identity.study_uid} {identity.sop_instance_uid}")
            except _KeptAlready as already:
                if already.kept is None:
                    raise StoreFault("index: an instance is kept and cannot be seen") from None
                kept = already.kept
                if placed and kept.path != path.as_posix():  # it is in another study, and the file here nobody's
                    self._spool.remove(path)
            finally:
                self._spool.discard(staged)
            if kept is None or gone:
                return "stored"
        if kept.holds(identity.transfer_syntax_uid, sha256):
            return "same"
        raise InstanceRefused(DUPLICATE_SOP_INSTANCE, "other bytes are kept under this SOP Instance UID")

    def scratch(self) -> BinaryIO:
        """Return a new file without a name on the spool's disk; closed, it is gone.

        Raises
        ------
        StoreFault
            There can be none.
        """
        return self._spool.scratch()

    def note_refusal(
        self, *, at: float, calling_ae: str, sop_instance_uid: str | None, status: int, reason: str
    ) -> None:
        """Keep a record of an instance that was not admitted.

        Raises
        ------
        StoreFault
            The index cannot be written.
        """
        self._audit.record(
            "instance_refused",
            at=at,
            sop_instance_uid=sop_instance_uid,
            calling_ae=calling_ae,
            status=status,
            reason=reason,
        )

    def association_ended(self, study_uids: Iterable[str], now: float) -> None:
        """Make those of the studies that still receive due at once."""
        table = schema.studies
        with self._database.writing() as connection:
            for study_uid in study_uids:
                connection.execute(
                    sa.update(table)
                    .where(table.c.study_uid == study_uid, table.c.state == RECEIVING, table.c.due_at > now)
                    .values(due_at=now)
                )

    def count_reached(self, study_uid: str, instances: int, now: float) -> bool:
        """Make a study that still receives due at once where so many instances are kept; return whether it is."""
        table, kept = schema.studies, schema.instances.c
        count = sa.select(sa.func.count()).where(kept.study_uid == study_uid).scalar_subquery()
        with self._database.writing() as connection:
            made_due = connection.execute(
                sa.update(table)
                .where(table.c.study_uid == study_uid, table.c.state == RECEIVING, count >= instances)
                .values(due_at=sa.case((table.c.due_at < now, table.c.due_at), else_=now))
            )
        return made_due.rowcount == 1

    def free_bytes(self) -> int:
        """Return how many bytes the spool's file system has left for us."""
        return self._spool.free_bytes()

    def waiting(self) -> int:
        """Return how many revisions nobody has begun to read."""
        query = sa.select(sa.func.count()).where(schema.revisions.c.state == RevisionState.QUEUED)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()

    def _kept(self, connection: sa.Connection, sop_instance_uid: str) -> _Kept | None:
        row: Any = self._statements.kept.run(connection, uid=sop_instance_uid).one_or_none()
        return None if row is None else _Kept(*row)


class _Statement:
    """A statement as the driver takes it: putting one together and looking it up take longer than to run it.

    Parameters
    ----------
    columns:
        Names of the values it is run with; those that it holds already need not be given.
    """

    def __init__(self, database: Database, statement: sa.sql.expression.Executable, columns: Collection[str]) -> None:
        compiled = statement.compile(database.engine, column_keys=columns)  # type: ignore[attr-defined]
        self._text = str(compiled)
        self._held = dict(compiled.params)
        self._order: Sequence[str] | None = compiled.positiontup

    def run(self, connection: sa.Connection, **values: object) -> sa.CursorResult[Any]:
        """Run it within the connection's transaction."""
        if self._order is None:
            return connection.exec_driver_sql(self._text, self._held | values)
        given = self._held | values
        return connection.exec_driver_sql(self._text, tuple(given[name] for name in self._order))


class _Statements:
    """What is asked of the index for each instance."""

    def __init__(self, database: Database) -> None:
        study = schema.studies.c
        opening = database.insert(schema.studies).values({column: sa.bindparam(column) for column in _OPENING})
        came = opening.excluded
        opened_at = sa.case((study.state == RECEIVING, study.opened_at), else_=came.opened_at)
        last = sa.case(
            (came.last_received_at > study.last_received_at, came.last_received_at), else_=study.last_received_at
        )
        when_quiet = last + sa.bindparam("quiet_s", type_=sa.Double)
        at_most = opened_at + sa.bindparam("max_age_s", type_=sa.Double)
        self.open_study = _Statement(
            database,
            opening.on_conflict_do_update(
                index_elements=[study.study_uid],
                set_={
                    "state": RECEIVING,
                    "opened_at": opened_at,
                    "last_received_at": last,
                    "due_at": sa.case((when_quiet < at_most, when_quiet), else_=at_most),
                },
            ),
            _OPENING,
        )
        self.add_series = _Statement(database, database.insert(schema.series).on_conflict_do_nothing(), _SERIES)
        instance = schema.instances
        self.add_instance = _Statement(
            database,
            database.insert(instance).on_conflict_do_nothing().returning(instance.c.sop_instance_uid),
            _INSTANCE,
        )
        self.kept = _Statement(
            database,
            sa.select(*(instance.c[column] for column in _Kept._fields)).where(
                instance.c.sop_instance_uid == sa.bindparam("uid")
            ),
            ("uid",),
        )


def _measured(data_set: Content) -> tuple[int, str]:
    """Return how many bytes there are, and their SHA-256."""
    if isinstance(data_set, Buffer):
        return len(data_set), hashlib.sha256(data_set).hexdigest()
    size = data_set.seek(0, os.SEEK_END)
    data_set.seek(0)
    return size, hashlib.file_digest(data_set, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO has readinto
