"""What the processes of this machine have logged last: a small file each, for the console's operations page.

The lines are those of `allpacs.telemetry.logs`, with its allow-list of keys: no patient data. They are shown in the
browser only; a log collector that reads standard error keeps the full log.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

#: Size of a process's file, bytes; there is one more of that size behind it.
_MOST_BYTES = 256_000
#: What is read from the end of a file for the page, bytes.
_READ_BYTES = 64_000
#: Files of a process's name that are kept: it is started again with another pid.
_KEPT = 8
#: Keys with a column of their own.
_OWN_COLUMN = frozenset({"timestamp", "level", "event"})
#: From little to grave.
LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One event.

    Attributes
    ----------
    timestamp:
        UTC, ISO 8601.
    process:
        ``receive``, ``work``, ``console`` or ``serve``.
    details:
        Everything else that it says, by key.
    """

    timestamp: str
    level: str
    process: str
    event: str
    details: dict[str, Any]


class RecentLog:
    """A structlog processor that writes each event to this process's file, too.

    A folder or disk that cannot be written loses these lines, and nothing else: they stand in standard error.

    Parameters
    ----------
    folder:
        Of the store; machines that share it have a folder each below it.
    """

    def __init__(self, folder: Path, process: str) -> None:
        place = _place(folder)
        try:
            for one in (folder, place.parent, place):  # each for its owner only, whoever comes first
                one.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_old(place, process)
        except OSError:
            pass
        self._file = _PrivateFile(
            place / f"{process}-{os.getpid()}.jsonl", maxBytes=_MOST_BYTES, backupCount=1, delay=True
        )

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Write the event, which has passed the allow-list and has its level and time."""
        self._file.handle(makeLogRecord({"msg": "%s", "args": (json.dumps(event, default=str),)}))
        return event


def recent_lines(folder: Path, *, most: int, least_level: str = "debug") -> list[LogLine]:
    """Return what this machine's processes logged last, the newest first.

    Parameters
    ----------
    folder:
        Of the store.
    least_level:
        One of `LEVELS`.
    """
    wanted = LEVELS[LEVELS.index(least_level) :]
    lines = [
        LogLine(
            timestamp=str(event.get("timestamp", "")),
            level=str(event.get("level", "")),
            process=file.name.partition("-")[0],
            event=str(event.get("event", "")),
            details={key: value for key, value in event.items() if key not in _OWN_COLUMN},
        )
        for file in _place(folder).glob("*.jsonl*")
        for event in _events(file)
        if event.get("level") in wanted
    ]
    return sorted(lines, key=lambda line: line.timestamp, reverse=True)[:most]


def _place(folder: Path) -> Path:
    return folder / "logs" / socket.gethostname()


def _events(file: Path) -> Iterable[dict[str, Any]]:
    """Yield the last events of a file; a line that is not whole is left out."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _READ_BYTES))
            written = stream.read(_READ_BYTES)
    except OSError:  # it has made place for a newer one meanwhile
        return
    for line in written.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _forget_old(place: Path, process: str) -> None:
    files = sorted(place.glob(f"{process}-*.jsonl"), key=lambda file: file.stat().st_mtime)
    for file in files[: -_KEPT + 1]:
        for part in (file, file.with_name(file.name + ".1")):
            part.unlink(missing_ok=True)


class _PrivateFile(RotatingFileHandler):
    """For its owner only, and silent where it cannot be written."""

    def _open(self) -> Any:
        return open(
            self.baseFilename, self.mode, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
        )

    def handleError(self, record: LogRecord) -> None:  # noqa: N802 - the library's name
        """Leave it at that."""
