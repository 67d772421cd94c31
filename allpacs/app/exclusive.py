"""One ``allpacs serve`` per store and worker name, on free ports: a second one ends before it starts anything."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from allpacs.domain.errors import ConfigFault, StoreFault
from allpacs.store.database import private_file

if TYPE_CHECKING:
    from allpacs.settings import Settings

#: Processes whose supervisor was killed stop by themselves; their ports are free after at most so many seconds.
ORPHANS_STOP_S = 30.0
_POLL_S = 0.1


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Keep the store and the ports of ``allpacs serve`` for this process while the block runs.

    The operating system releases the lock when this process ends, however it ends. The lock's file holds a mark while
    the block runs: a mark that is left shows that the previous supervisor was killed, and that its processes may need
    a moment to release their ports. Workers of different names (`work.executor_id`) share a store, as on several
    machines, so each name has its own lock.

    Raises
    ------
    ConfigFault
        Another ``allpacs serve`` uses this store under this name, or another program uses one of the ports.
    StoreFault
        The folder of the store cannot be written.
    """
    folder = settings.store.folder
    name = hashlib.sha256(settings.work.executor_id.encode()).hexdigest()[:16]
    path = folder / f"serve-{name}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file(path)
        file = path.open("r+b")
    except OSError as error:
        raise StoreFault(f"store: {path}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreFault(f"store: {path}: {error.strerror or error}") from error
            raise ConfigFault(
                f"another allpacs serve already uses the store {folder} as {settings.work.executor_id}: "
                "stop it, or set store.folder"
            ) from None
        was_killed = bool(file.read(1))
        _check_ports(settings, wait_s=ORPHANS_STOP_S if was_killed else 0.0)
        file.seek(0)
        file.write(b"1")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # the store may be away by now; the mark only makes the next start patient
                file.truncate(0)


def _check_ports(settings: Settings, wait_s: float) -> None:
    """Raise `ConfigFault` if a port that the processes need is still in use after `wait_s` seconds."""
    receive, console = settings.receive, settings.console
    needed = [("receive.port", receive.host, receive.port)]
    if console.enabled:
        needed.append(("console.port", console.host, console.port))
    until = time.monotonic() + wait_s
    for key, host, port in needed:
        while _in_use(host, port):
            if time.monotonic() >= until:
                raise ConfigFault(
                    f"cannot listen on {host}:{port}, the port is in use: stop the other process or set {key}"
                )
            time.sleep(_POLL_S)


def _in_use(host: str, port: int) -> bool:
    """Return whether a process listens on this address; other faults are left to the process that will listen."""
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an ended listener's remains do not count
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False
