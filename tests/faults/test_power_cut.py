"""What is on the disk when the power goes, simulated: only what was synced counts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.domain.instance import InstanceIdentity
from allpacs.store import schema
from allpacs.store import spool as spool_module
from allpacs.store.store import Store

SENDERS, EACH = 8, 25


class Disk:
    """Knows of each file whether its bytes are on the platter, and of each folder which names in it are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._synced: set[int] = set()  # inodes whose bytes are down
        self.names: dict[Path, int] = {}  # names that are down, and what they name
        fsync, sync_folder = os.fsync, spool_module._sync_folder

        def on_fsync(descriptor: int) -> None:
            fsync(descriptor)
            with self._lock:
                self._synced.add(os.fstat(descriptor).st_ino)

        def on_sync_folder(folder: Path) -> None:
            sync_folder(folder)
            with self._lock:
                self.names.update({entry: entry.stat().st_ino for entry in folder.iterdir()})

        monkeypatch.setattr(spool_module.os, "fsync", on_fsync)
        monkeypatch.setattr(spool_module, "_sync_folder", on_sync_folder)

    def survives(self, path: Path) -> bool:
        """Whether a file would be there after a power cut now, with its bytes and all the folders to it."""
        with self._lock:
            return self.names.get(path) in self._synced and path.parent in self.names


def test_at_no_moment_is_an_instance_acknowledged_that_a_power_cut_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    store = Store.open(tmp_path)
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL: a commit is on the platter
    disk = Disk(monkeypatch)
    lost: list[str] = []

    def on_commit(connection: sa.Connection) -> None:
        """Look before the commit: what it makes true must be on the disk already."""
        paths = connection.scalars(sa.select(schema.instances.c.path)).all()
        lost.extend(path for path in paths if not disk.survives(store.spool.folder / path))

    sa.event.listen(store.database.engine, "commit", on_commit)

    def send(sender: int) -> int:
        for number in range(EACH):
            uid = f"1.2.{sender}.{number}"
            store.receiving.keep_instance(
                InstanceIdentity(uid, "1.2.1", "1.2.840.10008.1.2.1", f"1.3.{number % 5}", "1.4"),
                b"meta", uid.encode() * 50, calling_ae="PACS", received_at=100.0, quiet_s=1.0, max_age_s=60.0,
            )  # fmt: skip
            if not disk.survives(store.spool.folder / f"1.3.{number % 5}" / f"{uid}.dcm"):
                lost.append(uid)
        return EACH

    with ThreadPoolExecutor(SENDERS) as senders:
        kept = sum(senders.map(send, range(SENDERS)))
    assert lost == []
    record_property("figure", f"{kept} instances by {SENDERS} senders at once, none acknowledged before its bytes")
    store.close()
