"""From a message to a syslog server: a local spool first, then TLS (RFC 5425), or TCP where no TLS is configured.

A message is on disk before what it tells goes on, and stays there until it has been written to the server's
connection. Syslog has no acknowledgement: what was on its way when a connection broke may be lost or come twice, so
the connection is looked at again before a file is deleted.

A spool belongs to one process: to that which has its lock. What a process that is no more has left is sent by another.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from allpacs.audit.messages import (
    APPLICATION,
    DESTINATION,
    SOURCE,
    AuditEvent,
    Outcome,
    Participant,
    audit_message,
)
from allpacs.dicom.tls import Tls

#: Facility 10 (security), severity 5 (notice); PS3.15 A.6: MSGID "DICOM+RFC3881".
_PRIORITY = 10 * 8 + 5
_MESSAGE_ID = "DICOM+RFC3881"

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_TIMEOUT_S = 10.0
#: How often other spools are looked at, and how long a message has waited there by then, seconds.
_SWEEP_S = 60.0
_LOCK = "lock"

_log = structlog.get_logger("allpacs.audit")


class AuditTrail(Protocol):
    """Where it is told what happened."""

    def started(self, process: str) -> None:
        """A process of ours began its work."""

    def stopped(self, process: str) -> None:
        """A process of ours ended in good order."""

    def received(self, calling_ae: str, address: str, studies: list[str], instances: int, refused: int) -> None:
        """An association brought instances."""

    def sent(self, destination: str, study_uid: str, event: AuditEvent, *, failure: str | None = None) -> None:
        """Results went to a destination, or (`failure`) were given up; `event` is what its deliveries are."""

    def refused(self, who: str, address: str, reason: str) -> None:
        """Somebody who does not belong tried to connect."""

    def person(
        self, event: AuditEvent, who: str, address: str, *, studies: Sequence[str] = (), failure: str | None = None
    ) -> None:
        """A person did something in the console, or (`failure`) was not let."""


class NoTrail:
    """Tells nobody: no syslog server is configured."""

    def started(self, process: str) -> None:
        """Say nothing."""

    def stopped(self, process: str) -> None:
        """Say nothing."""

    def received(self, calling_ae: str, address: str, studies: list[str], instances: int, refused: int) -> None:
        """Say nothing."""

    def sent(self, destination: str, study_uid: str, event: AuditEvent, *, failure: str | None = None) -> None:
        """Say nothing."""

    def refused(self, who: str, address: str, reason: str) -> None:
        """Say nothing."""

    def person(
        self, event: AuditEvent, who: str, address: str, *, studies: Sequence[str] = (), failure: str | None = None
    ) -> None:
        """Say nothing."""


class SyslogTrail:
    """Spools messages and sends them, in the order of their making, in a thread of its own.

    Parameters
    ----------
    folder:
        The spool, made where it is missing. Where another process has it, one with a number behind its name is taken.
    ae_title, source_id:
        We, as a peer and as the audit's reader know us.
    most:
        Messages kept at most while the server is away; then the oldest go, and that is logged.
    spools:
        Folder of all spools of a store: what ended processes have left in theirs is sent, too.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        port: int,
        *,
        ae_title: str,
        source_id: str,
        tls: Tls | None = None,
        most: int = 100_000,
        spools: Path | None = None,
    ) -> None:
        self._folder, self._owned = _own(folder)
        self._spools = spools
        self._next_sweep = 0.0
        self._server = (host, port)
        self._we = Participant(ae_title, APPLICATION)
        self._source_id = source_id
        self._tls = tls
        self._most = most
        self._count = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wake.set()  # for what an earlier run has left
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, name="audit", daemon=True)
        self._thread.start()

    def started(self, process: str) -> None:
        """Application Activity: start."""
        self._tell(AuditEvent.APPLICATION_STARTED, [Participant(process, APPLICATION)])

    def stopped(self, process: str) -> None:
        """Application Activity: stop; what is spooled is sent for a moment, the rest at the next start."""
        self._tell(AuditEvent.APPLICATION_STOPPED, [Participant(process, APPLICATION)])
        self.close()

    def received(self, calling_ae: str, address: str, studies: list[str], instances: int, refused: int) -> None:
        """DICOM Instances Transferred, or a minor failure where some were refused."""
        self._tell(
            AuditEvent.INSTANCES_RECEIVED,
            [
                Participant(calling_ae, SOURCE, requestor=True, address=address),
                Participant(self._we.user_id, DESTINATION),
            ],
            outcome=Outcome.MINOR_FAILURE if refused else Outcome.SUCCESS,
            studies=studies,
            detail=f"{instances} instances kept, {refused} refused",
        )

    def sent(self, destination: str, study_uid: str, event: AuditEvent, *, failure: str | None = None) -> None:
        """DICOM Instances Transferred or Export, or a serious failure where it was given up."""
        self._tell(
            event,
            [Participant(self._we.user_id, SOURCE, requestor=True), Participant(destination, DESTINATION)],
            outcome=Outcome.SUCCESS if failure is None else Outcome.SERIOUS_FAILURE,
            studies=[study_uid],
            detail=failure,
        )

    def refused(self, who: str, address: str, reason: str) -> None:
        """Security Alert: node authentication."""
        self._tell(
            AuditEvent.NODE_REFUSED,
            [Participant(who or "unknown", SOURCE, requestor=True, address=address), self._we],
            outcome=Outcome.SERIOUS_FAILURE,
            detail=reason,
        )

    def person(
        self, event: AuditEvent, who: str, address: str, *, studies: Sequence[str] = (), failure: str | None = None
    ) -> None:
        """Tell of User Authentication, DICOM Instances Accessed, or a Security Alert."""
        self._tell(
            event,
            [Participant(who or "unknown", None, requestor=True, address=address), self._we],
            outcome=Outcome.SUCCESS if failure is None else Outcome.SERIOUS_FAILURE,
            studies=list(studies),
            detail=failure,
        )

    def close(self, within_s: float = 2.0) -> None:
        """Send what is spooled for a moment; leave the rest to the next start."""
        deadline = time.monotonic() + within_s
        while any(self._folder.glob("*.xml")) and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.05)
        self._stop.set()
        self._wake.set()
        self._thread.join(_TIMEOUT_S)
        owned, self._owned = self._owned, None
        if owned is not None:
            os.close(owned)

    def _tell(
        self,
        event: AuditEvent,
        participants: list[Participant],
        *,
        outcome: Outcome = Outcome.SUCCESS,
        studies: list[str] | None = None,
        detail: str | None = None,
    ) -> None:
        at = time.time()
        xml = audit_message(
            event,
            at=at,
            source_id=self._source_id,
            participants=participants,
            outcome=outcome,
            studies=studies or (),
            detail=detail,
        )
        with self._lock:
            self._count += 1
            name = f"{time.time_ns():020d}-{self._count:06d}-{uuid.uuid4().hex[:8]}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._folder / f"{name}.part"
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(xml)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self._folder / f"{name}.xml")
        except OSError as error:
            # What it tells of has happened: it is logged, and goes on.
            _log.error("audit_message_lost", kind=event.name, reason=error.strerror)
        self._wake.set()

    def _send_until_stopped(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._stop.is_set():
            self._wake.wait(_LONGEST_WAIT_S)
            self._wake.clear()
            while not self._stop.is_set():
                try:
                    self._send_all()
                except OSError as error:
                    _log.warning("audit_server_away", host=self._server[0], reason=type(error).__name__)
                    self._drop_oldest()
                    self._stop.wait(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                else:
                    wait_s = _FIRST_WAIT_S
                    break

    def _send_all(self) -> None:
        self._send(_messages(self._folder))
        if self._spools is not None and time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP_S
            self._send_what_others_left(self._spools)

    def _send(self, files: Sequence[Path]) -> None:
        if not files:
            return
        with socket.create_connection(self._server, timeout=_TIMEOUT_S) as plain:
            connection = plain if self._tls is None else self._tls().wrap_socket(plain, server_hostname=self._server[0])
            with connection:
                for file in files:
                    try:
                        xml, written = file.read_bytes(), file.stat().st_mtime
                    except FileNotFoundError:  # another process has sent it
                        continue
                    # RFC 5425 section 4.3: each message is preceded by its length.
                    frame = _syslog(xml, written)
                    connection.sendall(f"{len(frame)} ".encode() + frame)
                    if _is_closed(connection):
                        raise ConnectionResetError
                    file.unlink(missing_ok=True)

    def _send_what_others_left(self, spools: Path) -> None:
        """Send what waits in spools that no living process has, and remove those that are empty by then.

        A process of an earlier version may live and has no lock: what is new is left to it, and so is its folder.
        """
        for spool in sorted(path for path in spools.iterdir() if path.is_dir() and path != self._folder):
            waited = [file for file in _messages(spool) if _age_s(file) > _SWEEP_S]
            has_lock = (spool / _LOCK).exists()
            if not waited and not has_lock:
                continue
            try:
                lock = _lock(spool)
            except OSError:  # removed by another process, or there are no locks in this file system
                continue
            if lock is None:
                continue
            try:
                self._send(waited)
                if has_lock and [path.name for path in spool.iterdir()] == [_LOCK]:
                    with suppress(OSError):
                        (spool / _LOCK).unlink()
                        spool.rmdir()
            finally:
                if not has_lock:
                    (spool / _LOCK).unlink(missing_ok=True)
                os.close(lock)

    def _drop_oldest(self) -> None:
        files = _messages(self._folder)
        for file in files[: max(0, len(files) - self._most)]:
            with suppress(OSError):
                file.unlink()
            _log.error("audit_message_lost", reason="the spool is full, and the syslog server away")


def _messages(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.xml"))


def _age_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _own(folder: Path) -> tuple[Path, int | None]:
    """Return the folder, or the first with a number behind its name that no other process has, and its open lock."""
    number = 0
    while True:
        number += 1
        spool = folder if number == 1 else folder.with_name(f"{folder.name}.{number}")
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = _lock(spool)
        except OSError as error:  # a file system without locks: then the name alone keeps processes apart
            _log.warning("audit_spool_not_locked", folder=str(spool), reason=error.strerror)
            return spool, None
        if lock is not None:
            return spool, lock


def _lock(spool: Path) -> int | None:
    """Return the open lock of a spool, which holds until it is closed; None: another process has it.

    Raises
    ------
    OSError
        Nothing can be locked there.
    """
    path = spool / _LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):  # in the latter case it was removed while it was opened
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _is_closed(connection: socket.socket) -> bool:
    """Look whether the server has closed the connection, without waiting: of itself it says nothing.

    What can be read need not be a message: TLS 1.3 servers send session tickets, which are read and passed over here.
    """
    connection.settimeout(0)
    try:
        return not connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    finally:
        connection.settimeout(_TIMEOUT_S)


def _syslog(xml: bytes, at: float) -> bytes:
    """Return the message in RFC 5424 form, as PS3.15 A.6 asks for."""
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{_PRIORITY}>1 {stamp} {socket.gethostname()} allpacs {os.getpid()} {_MESSAGE_ID} - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml
