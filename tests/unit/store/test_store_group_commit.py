"""Many senders share one transaction; one that fails undoes only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.domain.errors import StoreFault
from allpacs.domain.instance import InstanceIdentity
from allpacs.store import spool as spool_module
from allpacs.store.database import Database
from allpacs.store.group_commit import GroupCommit
from allpacs.store.store import Store

TABLE = sa.Table("noted", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))


@pytest.fixture
def database(tmp_path: Path, database_url: str | None) -> Iterator[Database]:
    database = Database.open(tmp_path, database_url)
    TABLE.metadata.create_all(database.engine)
    yield database
    database.close()


def numbers(database: Database) -> set[int]:
    with database.reading() as connection:
        return set(connection.scalars(sa.select(TABLE.c.number)))


def noting(number: int, until: threading.Event | None = None) -> Callable[[sa.Connection], int]:
    def work(connection: sa.Connection) -> int:
        connection.execute(sa.insert(TABLE).values(number=number))
        if until is not None:
            until.wait(10)
        return number

    return work


def test_changes_that_wait_share_a_commit(database: Database) -> None:
    commits: list[float] = []
    slow = threading.Event()
    sa.event.listen(database.engine, "commit", lambda _: commits.append(time.monotonic()))
    group = GroupCommit(database)
    with ThreadPoolExecutor(33) as threads:
        first = threads.submit(group.run, noting(0, until=slow))
        while not group._led or group._waiting:
            time.sleep(0.005)
        others = [threads.submit(group.run, noting(number)) for number in range(1, 33)]
        while len(group._waiting) < 32:
            time.sleep(0.005)
        slow.set()
        assert [one.result(10) for one in [first, *others]] == list(range(33))
    assert len(commits) == 2
    assert numbers(database) == set(range(33))


def test_a_change_that_fails_undoes_only_itself(database: Database) -> None:
    hold = threading.Event()
    group = GroupCommit(database)

    def failing(connection: sa.Connection) -> int:
        noting(7)(connection)
        raise KeyError("its own")

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(group.run, noting(0, until=hold))
        bad = threads.submit(group.run, failing)
        good = threads.submit(group.run, noting(1))
        time.sleep(0.1)
        hold.set()
        assert (first.result(10), good.result(10)) == (0, 1)
        with pytest.raises(KeyError):
            bad.result(10)
    assert numbers(database) == {0, 1}


def test_a_commit_that_fails_is_told_to_all_and_the_next_is_made(database: Database) -> None:
    failing = [True]

    def on_commit(_connection: sa.Connection) -> None:
        if failing[0]:
            raise StoreFault("the disk is broken")

    sa.event.listen(database.engine, "commit", on_commit)
    group = GroupCommit(database)
    with pytest.raises(StoreFault):
        group.run(noting(1))
    failing[0] = False
    assert group.run(noting(2)) == 2
    assert numbers(database) == {2}


def test_of_a_commit_that_fails_no_change_keeps_an_outcome_of_its_own(database: Database) -> None:
    """A change may have seen what another one wrote in the same transaction, and that is undone."""
    commits: list[None] = []
    hold = threading.Event()

    def on_commit(_connection: sa.Connection) -> None:
        commits.append(None)
        if len(commits) == 2:
            raise StoreFault("the disk is full")

    def there_already(connection: sa.Connection) -> int:
        assert connection.scalar(sa.select(TABLE.c.number).where(TABLE.c.number == 1)) == 1
        raise KeyError("it is there already")

    sa.event.listen(database.engine, "commit", on_commit)
    group = GroupCommit(database)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(group.run, noting(0, until=hold))
        while not group._led or group._waiting:
            time.sleep(0.005)
        both = [threads.submit(group.run, noting(1), order="1"), threads.submit(group.run, there_already, order="2")]
        while len(group._waiting) < 2:
            time.sleep(0.005)
        hold.set()
        assert first.result(10) == 0
        for one in both:
            with pytest.raises(StoreFault):
                one.result(10)
    assert numbers(database) == {0}


def test_folders_are_synced_before_the_row_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that a power cut needs: bytes, name, row, answer."""
    events: list[str] = []
    store = Store.open(tmp_path)
    fsync, sync_folder = spool_module.os.fsync, spool_module._sync_folder
    monkeypatch.setattr(spool_module.os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))

    def folder(path: Path) -> None:
        events.append("folder" if path.name == "1.2.3" else "parent")
        sync_folder(path)

    monkeypatch.setattr(spool_module, "_sync_folder", folder)
    sa.event.listen(store.database.engine, "commit", lambda _connection: events.append("commit"))
    events.clear()
    store.receiving.keep_instance(
        InstanceIdentity("1.2.3.5", "1.2.4", "1.2.840.10008.1.2.1", "1.2.3", "1.2.3.4"),
        b"meta", b"pixels", calling_ae="PACS", received_at=1.0, quiet_s=0.0, max_age_s=1.0,
    )  # fmt: skip
    kept = [event for event in events if event != "parent"]
    last_commit = len(kept) - 1 - kept[::-1].index("commit")
    assert kept.index("fsync") < kept.index("folder") < last_commit
    assert last_commit == len(kept) - 1
    store.close()
