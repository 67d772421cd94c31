"""Many small changes in one transaction: associations that store at the same time share a sync of the disk.

The first that comes leads: it takes whatever waits, runs each of several changes in a savepoint of its own, so that one
that fails undoes only itself, and commits once. What came meanwhile is led by the first of the waiting. With one sender
nothing waits and nothing is delayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from allpacs.store.database import Database

T = TypeVar("T")

#: Changes in one transaction, at most: the last of them waits for all.
MOST_AT_ONCE = 64


@dataclass(eq=False, slots=True)
class _Change(Generic[T]):
    order: str
    work: Callable[[sa.Connection], T]
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    result: T | None = None
    error: BaseException | None = None


class GroupCommit:
    """Runs changes of several threads in shared transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: list[_Change[Any]] = []
        self._led = False

    def run(self, work: Callable[[sa.Connection], T], *, order: str = "") -> T:
        """Run a change, and return its result once it is durable.

        Parameters
        ----------
        order:
            Changes of one transaction are run in this order: two processes then never wait for each other's rows.

        Raises
        ------
        StoreFault
            The transaction failed.
        Exception
            Whatever `work` raises; then nothing of it is kept.
        """
        change: _Change[T] = _Change(order, work)
        with self._lock:
            self._waiting.append(change)
            if not self._led:
                self._led = change.leads = True
        if not change.leads:
            change.woken.wait()
        if change.leads:
            self._lead()
        if change.error is not None:
            raise change.error
        return change.result  # type: ignore[return-value]

    def _lead(self) -> None:
        """Commit what waits, the leader's own change first of all, and hand the lead on."""
        with self._lock:
            taken, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        try:
            with self._database.writing() as connection:
                if len(taken) == 1:  # what undoes the transaction undoes the change
                    taken[0].result = taken[0].work(connection)
                else:
                    for change in sorted(taken, key=lambda one: one.order):
                        self._run(connection, change)
        except BaseException as error:  # noqa: BLE001 - each of them is told
            for change in taken:  # also those with an error of their own: what they had seen of the others is undone
                change.error = error
        with self._lock:
            self._led = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].woken.set()
        for change in taken:
            change.woken.set()

    @staticmethod
    def _run(connection: sa.Connection, change: _Change[Any]) -> None:
        try:
            with connection.begin_nested():
                change.result = change.work(connection)
        except sa.exc.DBAPIError:
            raise  # the transaction itself is in doubt
        except Exception as error:  # noqa: BLE001 - the change's own, told to who made it
            change.error = error
