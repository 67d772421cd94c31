"""Associations that allpacs requests: a thread that can be held safely, and the reason of a failed TLS handshake."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

from pynetdicom.association import Association

from allpacs.dicom.network.messages import LimitedMessages
from allpacs.dicom.network.sockets import GuardedSocket


def send_without_delay(association: Association) -> None:
    """Set TCP_NODELAY on the connection of an association."""
    association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def limit_answers(association: Any) -> None:
    """Bound what the peer may answer, once the connection is open: the size of messages, size and time of each PDU.

    The library waits for the rest of a PDU without end and keeps an answer of any size. And it waits without end for a
    peer that does not read.
    """
    connection = association.dul.socket
    connection.__class__ = GuardedSocket
    connection.put_back(bytearray())
    association.dimse.__class__ = LimitedMessages


def hold_at_checkpoint(association: Any) -> None:
    """Have an association's own thread held by a `Checkpoint` from now on."""
    association.__class__ = _Held
    association._reactor_checkpoint = Checkpoint(association)


class _Held(Association):  # type: ignore[misc]
    """An association of which its checkpoint alone says that its thread is held.

    pynetdicom serves an N-EVENT-REPORT request in one more thread, which says that the association's is not held when
    it has done so, whether it is or not: whoever was about to release the association waited for ever.
    """

    @property
    def _is_paused(self) -> bool:
        return True

    @_is_paused.setter
    def _is_paused(self, _: bool) -> None:
        """Take it for said."""


class Checkpoint(threading.Event):
    """Where an association's own thread is held while a request of ours waits for its answer.

    pynetdicom clears its event and then waits until that thread says that it is paused. But the thread says so each
    time around, before it looks at the event: where it has just passed, both go on, it takes the answer away from
    whoever asked ("unexpected service message"), and the request ends in a time-out. Here whoever clears the event
    goes on only once the thread stands still at it.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._held = threading.Event()
        self.set()

    def clear(self) -> None:
        """Hold the association's thread, and return once it is held, or has ended."""
        super().clear()
        if threading.current_thread() is self._association:
            return
        while self._association.is_alive() and not self._held.wait(0.01):
            pass

    def wait(self, timeout: float | None = None) -> bool:
        """Hold the association's thread while the event is cleared."""
        while True:
            if self.is_set():
                self._held.clear()
                if self.is_set():  # not cleared meanwhile by one who saw us held
                    return True
            self._held.set()
            if not super().wait(timeout):
                return False


class _TellingSocket(ssl.SSLSocket):
    """Remembers why its handshake failed: pynetdicom only says that there is no connection."""

    failure = ""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as failed:
            self.failure = failed.verify_message
            raise
        except OSError as failed:
            self.failure = getattr(failed, "reason", None) or type(failed).__name__
            raise


class ExplainedHandshake:
    """Stands where pynetdicom wants an `ssl.SSLContext`, and knows how the handshake went."""

    def __init__(self, context: ssl.SSLContext) -> None:
        context.sslsocket_class = _TellingSocket
        self._context = context
        self._socket: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket as `ssl.SSLContext.wrap_socket` does."""
        self._socket = self._context.wrap_socket(*arguments, **options)
        return self._socket

    @property
    def failure(self) -> str:
        """Reason why the handshake failed, or an empty string."""
        return self._socket.failure if isinstance(self._socket, _TellingSocket) else ""
