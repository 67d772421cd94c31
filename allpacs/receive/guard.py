"""What one connection may hold: how long a PDU may take, how large it may be, how much memory a message may fill.

pynetdicom reads as many bytes as a PDU announces, for as long as they take, and keeps a message in memory until it is
whole. Here a peer that announces 4 GB, sends a byte a minute, or is one of hundreds that all send at once, holds up
itself and nobody else.
"""

from __future__ import annotations

import select
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom.transport import AssociationSocket

#: PDUs other than data may be longer than the largest data PDU we take: A-ASSOCIATE-RQ with all its contexts.
_LARGEST_OTHER_PDU = 1 << 20

_log = structlog.get_logger("allpacs.receive")


class PduLimit(OSError):
    """A PDU that is too large, or took too long: the connection is closed."""


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads whole PDUs, of limited size and in limited time; a peer that does not read is not waited for either."""

    def __init__(self, assoc: Any, client_socket: Any) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._put_back = bytearray()

    @property
    def ready(self) -> bool:
        """Whether there is something to read, or the connection has ended.

        The library asks select(), which cannot watch descriptors above 1023: with a few hundred associations, each
        with its socket, pipe and file, there are such.
        """
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True  # read from the network already
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # PS3.8 section 9.2.2: transport connection closed
            return False

    def put_back(self, read: bytearray) -> None:
        """Let the next `recv` begin with what was read already."""
        self._put_back = read

    def recv(self, nr_bytes: int) -> bytearray:
        """Return so many bytes, or fewer where the peer has closed the connection.

        Raises
        ------
        PduLimit
            So many are not taken.
        TimeoutError
            They did not come in time.
        """
        self.check_size(nr_bytes)
        received = bytearray(nr_bytes)
        begun, self._put_back = self._put_back[:nr_bytes], self._put_back[nr_bytes:]
        received[: len(begun)] = begun
        read = len(begun) + self.recv_into(memoryview(received)[len(begun) :])
        return received if read == nr_bytes else received[:read]

    def recv_into(self, buffer: memoryview) -> int:
        """Fill a buffer; return how many bytes came: fewer where the peer has closed the connection.

        Raises
        ------
        TimeoutError
            They did not come in time.
        """
        assoc = self.assoc
        limit_s = assoc.network_timeout if assoc.is_established else assoc.acse_timeout
        deadline = time.monotonic() + limit_s
        read = 0
        while read < len(buffer):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                _log.warning("connection_closed", address=assoc.requestor.address, reason="a PDU that took too long")
                raise TimeoutError("a PDU that took too long")
            self.socket.settimeout(left_s)
            got = self.socket.recv_into(buffer[read:])
            if not got:
                return read
            read += got
        self.socket.settimeout(assoc.network_timeout)  # for what is sent
        return read

    def check_size(self, nr_bytes: int) -> None:
        """Raise `PduLimit` where so many bytes of a PDU are not taken."""
        if nr_bytes > max(self.assoc.acceptor.maximum_length or 0, _LARGEST_OTHER_PDU) + 64:
            _log.warning("connection_closed", address=self.assoc.requestor.address, reason="a PDU that is too large")
            raise PduLimit("a PDU that is too large")


class Memory:
    """Bytes of unfinished messages, of all associations together.

    Above half of the limit everybody waits but the message that began first, which may fill the other half: so one
    always gets on, and its network pushes back on the others. A message that is larger than half of the limit is
    never taken.
    """

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._half = limit_bytes // 2
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[Any, int] = {}  # in order of the messages' beginnings

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        with self._changed:
            return sum(self._held.values())

    def take(self, owner: Any, count: int, wait_s: float) -> bool:
        """Count further bytes of an owner's message; wait while there is no room. False: its message is given up."""
        deadline = self._clock() + wait_s
        with self._changed:
            self._held[owner] = self._held.get(owner, 0) + count
            while sum(self._held.values()) > self._half and next(iter(self._held)) is not owner:
                if not self._changed.wait(max(0.0, min(1.0, deadline - self._clock()))) and self._clock() >= deadline:
                    break
            if self._held.get(owner, 0) > self._half:
                self._drop(owner)
                return False
            return owner in self._held

    def give_back(self, owner: Any) -> None:
        """Count an owner's message as over."""
        with self._changed:
            self._drop(owner)

    def _drop(self, owner: Any) -> None:
        self._held.pop(owner, None)
        self._changed.notify_all()
