"""A kept file that is gone is damage; a file system that is away is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from allpacs.decode.guard import opened
from allpacs.domain.away import open_fault
from allpacs.domain.errors import StoreDamaged, StoreFault


def _fault_of(path: Path) -> StoreFault:
    with pytest.raises(StoreFault) as raised, opened(path):
        pass
    return raised.value


def test_a_file_that_is_gone_from_a_spool_that_is_there_is_damage(tmp_path: Path) -> None:
    (tmp_path / "spool" / "1.9").mkdir(parents=True)  # another study
    assert isinstance(_fault_of(tmp_path / "spool" / "1.2" / "1.2.3.dcm"), StoreDamaged)


@pytest.mark.parametrize("mount_point", [True, False])
def test_a_spool_that_is_away_may_come_back(tmp_path: Path, mount_point: bool) -> None:
    if mount_point:
        (tmp_path / "spool" / "incoming").mkdir(parents=True)  # by a process that started meanwhile
    assert type(_fault_of(tmp_path / "spool" / "1.2" / "1.2.3.dcm")) is StoreFault


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ETIMEDOUT])
def test_trouble_of_the_file_system_may_pass(tmp_path: Path, number: int) -> None:
    (tmp_path / "1.9").mkdir()
    assert type(open_fault(tmp_path, OSError(number, os.strerror(number)), "image")) is StoreFault


def test_a_file_that_may_not_be_read_needs_a_person(tmp_path: Path) -> None:
    (tmp_path / "1.9").mkdir()
    assert isinstance(open_fault(tmp_path, PermissionError(errno.EACCES, "Permission denied"), "image"), StoreDamaged)
