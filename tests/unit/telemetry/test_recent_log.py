"""The last log lines of this machine's processes: few, for their owner only, and never in the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import structlog

from allpacs.telemetry import recent_log
from allpacs.telemetry.logs import configure_logs
from allpacs.telemetry.recent_log import RecentLog, recent_lines


def log_to(folder: Path, process: str = "work") -> None:
    configure_logs("info", "json", [RecentLog(folder, process)])


def test_lines_of_all_processes_come_newest_first(tmp_path: Path) -> None:
    for process in ("receive", "work", "receive"):
        log_to(tmp_path / "store", process)
        structlog.get_logger().info("said_something", process="of its own", count=1)
    structlog.get_logger().debug("said_too_little")
    lines = recent_lines(tmp_path / "store", most=10)
    assert [line.process for line in lines] == ["receive", "work", "receive"]
    assert [line.timestamp for line in lines] == sorted((line.timestamp for line in lines), reverse=True)
    assert lines[0].details == {"process": "of its own", "count": 1}
    assert len(recent_lines(tmp_path / "store", most=2)) == 2
    assert recent_lines(tmp_path / "store", most=10, least_level="warning") == []


def test_a_file_stays_small_and_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_log, "_MOST_BYTES", 2000)
    log_to(tmp_path / "store")
    for number in range(200):
        structlog.get_logger().info("said_something", count=number)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 4000
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    folders = [tmp_path / "store", *(path for path in (tmp_path / "store").rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert recent_lines(tmp_path / "store", most=1)[0].details == {"count": 199}


def test_files_of_processes_long_gone_are_forgotten(tmp_path: Path) -> None:
    log_to(tmp_path)
    structlog.get_logger().info("said_something")
    (own,) = tmp_path.rglob("*.jsonl")
    for number in range(20):
        old = own.with_name(f"work-9{number:06d}.jsonl")
        old.write_text("{}\n")
        os.utime(old, (number, number))
    log_to(tmp_path)
    kept = sorted(path.name for path in own.parent.iterdir())
    assert len(kept) == 7
    assert own.name in kept
    assert "work-9000019.jsonl" in kept


def test_lines_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    log_to(tmp_path)
    structlog.get_logger().info("said_something")
    (own,) = tmp_path.rglob("*.jsonl")
    with own.open("ab") as file:
        file.write(b'[1]\n\xff\n{"level": "info", "event": "half')
    assert [line.event for line in recent_lines(tmp_path, most=10)] == ["said_something"]


def test_a_folder_that_cannot_be_written_disturbs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file where the folder belongs")
    log_to(tmp_path / "store")
    structlog.get_logger().info("said_something")
    written = capsys.readouterr().err
    assert "said_something" in written
    assert "Traceback" not in written
    assert recent_lines(tmp_path / "store", most=10) == []
