"""Sockets that limit the size of a PDU and the time it may take.

pynetdicom reads as many bytes as a PDU announces, however long they take. With this socket, a peer that announces 4 GB
or sends one byte a minute is disconnected and delays nobody else. So is one that reads one byte a minute.
"""

from __future__ import annotations

import select
import ssl
import time
from typing import Any

import structlog
from pynetdicom import evt
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

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; close the connection where the peer does not take it within the network timeout."""
        connection = self.socket  # another thread that aborts the association takes it away
        deadline = time.monotonic() + self.assoc.network_timeout
        left, sent = memoryview(bytestream), 0
        try:
            if connection is None:
                raise OSError("the connection is closed")
            while sent < len(left):
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                sent += connection.send(left[sent:])
                if sent < len(left) and time.monotonic() > deadline:
                    raise TimeoutError("a PDU that the peer took too long to read")
        except OSError:
            self.event_queue.put("Evt17")  # PS3.8 section 9.2.2: transport connection closed
        else:
            evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})

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
        assoc, connection = self.assoc, self.socket  # another thread that aborts the association takes it away
        if connection is None:
            return 0
        limit_s = assoc.network_timeout if assoc.is_established else assoc.acse_timeout
        deadline = time.monotonic() + limit_s
        read = 0
        while read < len(buffer):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                _log.warning("connection_closed", address=self._peer_address, reason="a PDU that took too long")
                raise TimeoutError("a PDU that took too long")
            connection.settimeout(left_s)
            got = connection.recv_into(buffer[read:])
            if not got:
                return read
            read += got
        return read

    def check_size(self, nr_bytes: int) -> None:
        """Raise `PduLimit` where so many bytes of a PDU are not taken."""
        ours = self.assoc.requestor if self.assoc.is_requestor else self.assoc.acceptor
        if nr_bytes > max(ours.maximum_length or 0, _LARGEST_OTHER_PDU) + 64:
            _log.warning("connection_closed", address=self._peer_address, reason="a PDU that is too large")
            raise PduLimit("a PDU that is too large")

    @property
    def _peer_address(self) -> str:
        peer = self.assoc.acceptor if self.assoc.is_requestor else self.assoc.requestor
        return str(peer.address)
