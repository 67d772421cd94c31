"""Whether what the index says is there is there, byte for byte, and nothing else."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from allpacs.domain.errors import StoreFault
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.spool import Spool

_INSTANCE = schema.instances.c
_ARTEFACT = schema.artefacts.c
_ROWS_AT_ONCE = 1000
#: A younger file may be one that is just being kept, its row not yet committed.
SETTLED_S = 600.0
_BLOCK = 1 << 20
#: Preamble, prefix, and the element that tells the length of the File Meta Information (PS3.10 section 7.1).
_META = struct.Struct("<132xHH2sHL")


class Damage(StrEnum):
    """What can be wrong with something that was kept."""

    MISSING = "missing"
    ALTERED = "altered"
    ORPHAN = "orphan"  # a file that the index does not know


@dataclass(frozen=True, slots=True)
class Damaged:
    """One thing that is wrong.

    Attributes
    ----------
    what:
        ``instance`` or ``artefact``.
    path:
        Relative to the folder of its kind.
    """

    damage: Damage
    what: str
    study_uid: str
    path: str


@dataclass(slots=True)
class Scrubbed:
    """What one scrub has looked at."""

    instances: int = 0
    artefacts: int = 0
    bytes: int = 0


class Scrub:
    """Compares spool, results, index and digests."""

    def __init__(self, database: Database, spool: Spool, artefacts: Spool) -> None:
        self._database = database
        self._spool = spool
        self._artefacts = artefacts

    def run(self, seen: Scrubbed, *, not_after: float | None = None) -> Iterator[Damaged]:
        """Yield what is wrong, counting in `seen` what was looked at.

        Parameters
        ----------
        not_after:
            As `orphans` has it.

        Raises
        ------
        StoreFault
            The index or a folder cannot be read.
        """
        for row in self._rows(schema.instances, (_INSTANCE.study_uid, _INSTANCE.sop_instance_uid)):
            if row.deleted_at is not None:
                continue
            seen.instances += 1
            yield from self._look(self._spool, "instance", row, seen, row.size_bytes)
        for row in self._rows(schema.artefacts, (_ARTEFACT.study_uid, _ARTEFACT.revision, _ARTEFACT.kind)):
            if row.path:
                seen.artefacts += 1
                yield from self._look(self._artefacts, "artefact", row, seen, None)
        for path in self.orphans(not_after=not_after):
            yield Damaged(Damage.ORPHAN, "instance", path.parent.name, path.as_posix())

    def orphans(self, *, not_after: float | None = None) -> Iterator[Path]:
        """Yield the files of the spool, relative to it, that the index does not know.

        Parameters
        ----------
        not_after:
            Only files last written before: a younger one's row may be about to be committed.
        """
        for path in self._spool.files():
            if not_after is not None and _modified(self._spool.folder / path) >= not_after:
                continue
            with self._database.reading() as connection:
                known = self._knows(connection, path)
            if not known:
                yield path

    def put_aside(self, path: Path, which: os.stat_result) -> bool:
        """Move a file of the spool that the index does not know out of the way; return whether it was.

        Not where a receiver has put an instance's bytes over it meanwhile: those belong to a row.

        Parameters
        ----------
        which:
            The file as it was when it was found to be of no use.

        Raises
        ------
        StoreFault
            The spool or the index cannot be read or written.
        """
        with self._database.writing() as connection:
            if self._knows(connection, path):
                return False
            return self._spool.quarantine(path, which)

    @staticmethod
    def _knows(connection: sa.Connection, path: Path) -> bool:
        query = sa.select(_INSTANCE.sop_instance_uid).where(
            _INSTANCE.sop_instance_uid == path.stem, _INSTANCE.path == path.as_posix()
        )
        return connection.scalar(query) is not None

    def _rows(self, table: sa.Table, key: tuple[sa.Column[object], ...]) -> Iterator[sa.Row[tuple[object, ...]]]:
        """Yield all rows, some at a time: a scrub takes hours, and holds no transaction open."""
        after: tuple[object, ...] | None = None
        while True:
            query = sa.select(table).order_by(*key).limit(_ROWS_AT_ONCE)
            if after is not None:
                query = query.where(sa.tuple_(*key) > sa.tuple_(*after))
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            yield from rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = tuple(getattr(rows[-1], column.name) for column in key)

    def _look(self, spool: Spool, what: str, row: sa.Row, seen: Scrubbed, size: int | None) -> Iterator[Damaged]:  # type: ignore[type-arg]
        path = spool.folder / row.path
        damage = None
        try:
            with path.open("rb") as file:
                length = file.seek(0, 2)
                seen.bytes += length
                file.seek(_data_set_at(file) if what == "instance" else 0)
                if (size is not None and length != size) or _digest(file) != row.sha256:
                    damage = Damage.ALTERED
        except FileNotFoundError:
            damage = Damage.MISSING
        except OSError as error:
            raise StoreFault(f"{what} {row.path}: {error.strerror or error}") from error
        if damage is not None:
            yield Damaged(damage, what, row.study_uid, row.path)


def _data_set_at(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(_META.size)
    if len(head) < _META.size or head[128:132] != b"DICM":
        return 0
    group, element, _, _, length = _META.unpack(head)
    return _META.size + length if (group, element) == (2, 0) else 0


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return float("inf")
