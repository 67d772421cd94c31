"""The spool: all of a file or none of it, and faults named as such."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from allpacs.domain.errors import StoreFault
from allpacs.store.spool import Spool


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_buffers_are_written_one_after_the_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write(Path("1.2", "1.3.dcm"), [b"ab", memoryview(bytearray(b"cd")), b"", bytearray(b"e")])
    assert (tmp_path / "spool" / "1.2" / "1.3.dcm").read_bytes() == b"abcde"


def test_a_file_left_by_a_crash_is_overwritten(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(Path("1.2", "1.3.dcm"), [b"left behind"])
    spool.write(Path("1.2", "1.3.dcm"), [b"new"])
    assert (tmp_path / "1.2" / "1.3.dcm").read_bytes() == b"new"


def test_only_the_owner_reads_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write(Path("1.2", "1.3.dcm"), [b"x"])
    for path in (tmp_path / "spool" / "1.2", tmp_path / "spool" / "1.2" / "1.3.dcm"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_full_disk_is_a_store_fault_and_leaves_nothing_behind(small_disk: Path) -> None:
    spool = Spool(small_disk)
    assert spool.free_bytes() <= 256 * 1024
    with pytest.raises(StoreFault, match="No space left"):
        spool.write(Path("1.2", "1.3.dcm"), [bytes(1024 * 1024)])
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    spool.write(Path("1.2", "1.3.dcm"), [b"fits"])


def test_a_place_that_cannot_be_taken_is_a_store_fault_and_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "1.2").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreFault):
        spool.write(Path("1.2", "1.3.dcm"), [b"x"])
    assert list((tmp_path / "incoming").iterdir()) == []


def test_sweep_removes_only_what_is_old(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    old, new = spool.stage([b"old"]), spool.stage([b"new"])
    os.utime(old, (1000.0, 1000.0))
    assert spool.sweep(before=2000.0) == 1
    assert not old.exists()
    assert new.exists()
