"""Which workers there are, and whether they are alive: each one's row counts its heartbeats.

Nobody compares clocks: a worker is taken for dead by another that has seen its count stand still for long enough, by
its own clock. Whoever claims a dead worker changes the count it saw, so that only one of several does.
"""

from __future__ import annotations

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database

_T = schema.workers.c
#: Count of a worker that has stopped in good order.
STOPPED = 0


class Workers:
    """Heartbeats by the worker's name (`work.executor_id`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, executor_id: str, incarnation: str) -> None:
        """Begin to beat under a name; whoever did so before learns of it at its next beat."""
        insert = self._database.insert(schema.workers).values(executor_id=executor_id, incarnation=incarnation, beats=1)
        with self._database.writing() as connection:
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[_T.executor_id],
                    set_={"incarnation": incarnation, "beats": sa.func.abs(_T.beats) + 1},
                )
            )

    def beat(self, executor_id: str, incarnation: str) -> bool:
        """Count one heartbeat; False where another process goes by that name, or took this one for dead."""
        with self._database.writing() as connection:
            counted = connection.execute(
                sa.update(schema.workers)
                .where(_T.executor_id == executor_id, _T.incarnation == incarnation)
                .values(beats=sa.func.abs(_T.beats) + 1)
            )
        return counted.rowcount == 1

    def deregister(self, executor_id: str, incarnation: str) -> None:
        """Say that this worker has stopped: what it left may be taken over at once."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.workers)
                .where(_T.executor_id == executor_id, _T.incarnation == incarnation)
                .values(beats=STOPPED)
            )

    def others(self, executor_id: str) -> dict[str, int]:
        """Return the counts of all other workers."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(_T.executor_id, _T.beats).where(_T.executor_id != executor_id)).all()
        return {row.executor_id: row.beats for row in rows}

    def claim(self, executor_id: str, beats: int) -> bool:
        """Take a worker for dead whose count still is what was seen; True for one of all that do so."""
        with self._database.writing() as connection:
            claimed = connection.execute(
                sa.update(schema.workers)
                .where(_T.executor_id == executor_id, _T.beats == beats)
                .values(beats=-abs(beats) - 1)
            )
        return claimed.rowcount == 1

    def forget(self, executor_id: str) -> None:
        """Remove a worker that was claimed and left nothing behind; one that beats again stays."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.workers).where(_T.executor_id == executor_id, _T.beats < STOPPED))
