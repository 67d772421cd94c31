"""Associations that wait for what comes next, and serve C-STORE requests in the thread that reads them.

pynetdicom serves an association with two threads: one reads and sends PDUs (the upper layer, PS3.8 section 9.2), one
serves the DIMSE messages that they make up. Both poll, with a sleep of a millisecond between two looks, and one
instance passes from one to the other several times: of the 15 ms that a received instance of 608 KB took, most were
such sleeps. Here each thread waits for what the other, or the peer, does:

    upper layer   its socket is readable, or a primitive is to be sent     poll on the socket and on a pipe
    messages      a message is whole, or the peer releases or aborts       an event

Neither waits longer than `_LOOK_S`, since time-outs, the end of the other thread and `kill` are announced by nobody.

A C-STORE request is served by the upper layer's thread, which has read it: handing it to the other thread and its
answer back took a quarter of an instance's time. Data PDUs are read into one buffer and taken apart there; the library
copies each six times over.

Requests of the peer are served even while another thread waits for the answer to a request of ours (N-EVENT-REPORT):
answers have a queue of their own (`allpacs.dicom.network.messages`). The library blocks the association's thread during
that time and takes the next message for the answer.

What is done once something has happened is the library's: the state machine and the services are not touched.
"""

from __future__ import annotations

import os
import queue
import select
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler

from allpacs.dicom.network.messages import Messages
from allpacs.dicom.network.sockets import GuardedSocket

_log = structlog.get_logger("allpacs.dicom.network")

#: Longest wait for something that is not announced, seconds.
_LOOK_S = 0.05

#: State of the upper layer in which data are transferred (PS3.8 section 9.2.1).
_DATA_TRANSFER = "Sta6"
#: PDU type of P-DATA-TF (PS3.8 section 9.3.5).
_DATA = 4
#: Type, reserved byte and length of a PDU (PS3.8 section 9.3.1).
_PDU_HEAD = struct.Struct(">BxL")
#: Item length and presentation context ID of a Presentation Data Value (PS3.8 section 9.3.5.1).
_PDV_HEAD = struct.Struct(">LB")


class _AnnouncingQueue(queue.Queue[Any]):
    """A queue that tells when something was put in."""

    def __init__(self, announce: Callable[[], object]) -> None:
        super().__init__()
        self._announce = announce

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._announce()


class _MessageQueue(_AnnouncingQueue):
    """Requests for the association's thread, but for the messages that are passed on at once."""

    def __init__(self, announce: Callable[[], object], passes_on: Callable[[int | None, Any], bool]) -> None:
        super().__init__(announce)
        self._passes_on = passes_on

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if not self._passes_on(*item):
            super().put(item, block, timeout)


class _DataPdu:
    """A P-DATA-TF PDU that was read, as far as the state machine looks at one.

    Parameters
    ----------
    fragments:
        Presentation context IDs and values; good until the next PDU is read.
    """

    def __init__(self, fragments: list[tuple[int, memoryview]]) -> None:
        self._fragments = fragments

    def to_primitive(self) -> P_DATA:
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self._fragments)
        return primitive


class WaitingUpperLayer(DULServiceProvider):  # type: ignore[misc]
    """Reads and sends PDUs, waiting for its socket and for the association.

    Parameters
    ----------
    arrived:
        Set when something is there for the association's own thread.
    """

    def __init__(self, assoc: Association, arrived: threading.Event) -> None:
        self._bell = _Bell()
        self._poll = select.poll()  # not select(): it cannot watch descriptors above 1023
        self._poll.register(self._bell.descriptor, select.POLLIN)
        self._watched: int | None = None
        self._arrived = arrived
        self._buffer = bytearray()
        self.serving = False
        super().__init__(assoc)
        self.to_provider_queue = _AnnouncingQueue(self._ring)
        self.to_user_queue = _AnnouncingQueue(arrived.set)

    def run_reactor(self) -> None:
        """Do what the library's reactor does, until the association ends."""
        try:
            super().run_reactor()
        # A message that is none makes the library's state machine raise, after its own place for that.
        except Exception as error:  # noqa: BLE001
            _log.warning(
                "connection_closed",
                address=self.assoc.requestor.address,
                reason=f"a message that is none ({type(error).__name__})",
            )
        finally:
            if self.socket is not None:
                self.socket.close()
            self.to_user_queue.put(None)  # who still waits for a request to associate need not wait any longer
            self._arrived.set()  # the association's thread looks whether this one is still alive
            self._bell.close()

    @property
    def _run_loop_delay(self) -> float:
        """Wait until there is something to do, and return for how long to sleep on top of that: not at all.

        The library's reactor asks for this where it found nothing to do, and sleeps for so long.
        """
        if threading.current_thread() is not self:
            return 0.001  # `stop_dul`: the association's thread waits for this one to end
        connection = None if self.socket is None else self.socket.socket
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return 0.0  # read already, but not asked for yet: the socket itself may have nothing left
        descriptor = -1 if connection is None else connection.fileno()
        self._watch(descriptor if descriptor >= 0 else None)
        if any(ready == self._bell.descriptor for ready, _ in self._poll.poll(_LOOK_S * 1000)):
            self._bell.hush()
        return 0.0

    @_run_loop_delay.setter
    def _run_loop_delay(self, _: float) -> None:
        """Take the library's own delay for said: it sets one when it is made."""

    def idle_timer_expired(self) -> bool:
        """Whether the peer has been silent for too long; while it waits for us it is not."""
        return not self.serving and bool(super().idle_timer_expired())

    def serve(self, message: C_STORE, context_id: int | None) -> None:
        """Serve a request in this thread, which has read it."""
        self.serving = True
        try:
            self.assoc._serve_request(message, context_id)
        finally:
            self._idle_timer.restart()
            self.serving = False

    def _read_pdu_data(self) -> None:
        """Read a PDU and announce it to the state machine; one of data without copying it about."""
        connection, length = self.socket, 0
        if self.state_machine.current_state != _DATA_TRANSFER:
            super()._read_pdu_data()
            return
        try:
            head = connection.recv(_PDU_HEAD.size)
            if len(head) < _PDU_HEAD.size or head[0] != _DATA:
                connection.put_back(head)
                super()._read_pdu_data()
                return
            _, length = _PDU_HEAD.unpack(head)
            connection.check_size(length)
            if len(self._buffer) < length:
                self._buffer = bytearray(length)
            data = memoryview(self._buffer)[:length]
            read = connection.recv_into(data)
        except OSError as error:
            _log.debug("connection_closed", address=self.assoc.requestor.address, reason=type(error).__name__)
            read = -1
        if read < length:
            self.event_queue.put("Evt17")  # PS3.8 section 9.2.2: transport connection closed
            return
        evt.trigger(self.assoc, evt.EVT_DATA_RECV, {"data": data})
        try:
            pdu = _DataPdu(list(_fragments(data)))
        except ValueError:
            self.event_queue.put("Evt19")  # unrecognised or invalid PDU
            return
        self._recv_pdu.put(pdu)
        self.event_queue.put("Evt10")

    def stop_dul(self) -> bool:
        """Stop where the state machine is idle, and return whether it is."""
        if self.state_machine.current_state == "Sta1":
            self._kill_thread = True
            self._bell.ring()
        stopped: bool = super().stop_dul()
        return stopped

    def _ring(self) -> None:
        if threading.current_thread() is not self:  # which looks by itself before it waits
            self._bell.ring()

    def _watch(self, descriptor: int | None) -> None:
        if descriptor == self._watched:
            return
        if self._watched is not None:
            self._poll.unregister(self._watched)
        if descriptor is not None:
            self._poll.register(descriptor, select.POLLIN)
        self._watched = descriptor


def _fragments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield presentation context ID and value of each Presentation Data Value of a PDU (PS3.8 section 9.3.5.1).

    Raises
    ------
    ValueError
        Lengths that do not fit.
    """
    start = 0
    while start < len(data):
        if len(data) - start < _PDV_HEAD.size:
            raise ValueError("a Presentation Data Value that is cut short")
        length, context_id = _PDV_HEAD.unpack_from(data, start)
        end = start + length + 4  # the length does not count itself
        if length < 2 or end > len(data):  # context ID and message control header are the least
            raise ValueError("a Presentation Data Value of another length than stated")
        yield context_id, data[start + _PDV_HEAD.size : end]
        start = end


class WaitingAssociation(Association):  # type: ignore[misc]
    """An association that we accepted, serving messages as they come."""

    is_established: bool

    def __init__(self, ae: AE) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._arrived = threading.Event()
        self.dul = WaitingUpperLayer(self, self._arrived)
        self.dimse = Messages(self)
        self.dimse.msg_queue = _MessageQueue(self._arrived.set, self._passes_on)
        self.network_timeout = ae.network_timeout  # the timer is the upper layer's

    @property
    def _is_paused(self) -> bool:
        """Whether this thread leaves answers to whoever waits for one, which the library asks for: it always does."""
        return True

    @_is_paused.setter
    def _is_paused(self, _: bool) -> None:
        """Take it for said: the library says so before and after each request that it serves."""

    def _passes_on(self, context_id: int | None, message: Any) -> bool:
        """Serve an instance in the upper layer's thread, which has read it, and hand over an answer; False: neither."""
        if isinstance(message, C_STORE) and message.is_valid_request:
            if threading.current_thread() is not self.dul or not self.is_established:
                return False
            self.dul.serve(message, context_id)
            return True
        if message is None or message.MessageIDBeingRespondedTo is None:
            return False
        self.dimse.answered(context_id, message)
        return True

    def _abort_blocking(self, block: bool = True) -> None:
        """Abort; where the upper layer's own thread does so, it cannot wait for its end."""
        if block and threading.current_thread() is self.dul:
            super()._abort_blocking(block=False)
            self._arrived.set()
        else:
            super()._abort_blocking(block)

    def _run_reactor(self) -> None:
        """Serve messages until the peer releases or aborts, the connection is lost or silent for too long.

        The order of the looks is that of the library's own reactor.
        """
        told = False
        while not self._kill:
            if not (self.dimse.msg_queue.qsize() or self.dul.to_user_queue.qsize()):
                self._arrived.wait(_LOOK_S)
            self._arrived.clear()
            context_id, message = self.dimse.get_msg(block=False)
            if message:
                self._serve_request(message, context_id)
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                told = True
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)  # announces it to whoever follows the association messages
                self.is_aborted = True
                self.is_established = False
                told = True
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif self._sent_abort:  # by the upper layer's thread, which cannot end itself
                told = True
                self.is_aborted = True
                self.is_established = False
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                self.abort()
                self.kill()
        if not told:  # its upper layer ended by itself: whoever counts associations has to know
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
        self.dimse.answered(None, None)


class WaitingHandler(RequestHandler):  # type: ignore[misc]
    """Makes a `WaitingAssociation` of each connection, as the library's handler makes its own."""

    def _create_association(self) -> WaitingAssociation:
        association = WaitingAssociation(self.ae)
        association._server = self.server
        association.name = f"association-{self.client_address[1]}"
        association.set_socket(GuardedSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(self.server.contexts)
        association.requestor.address_info = self.remote
        for event, bound in self.server._handlers.items():
            if event.is_intervention and bound:
                association.bind(event, *bound)
            elif event.is_notification:
                for handler in bound:
                    association.bind(event, *handler)
        return association


class _Bell:
    """A pipe that wakes a poll; rung from any thread, also after it was closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.descriptor, self._rope = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._rope, False)
        self._open = True

    def ring(self) -> None:
        # Under the lock: once closed, the number may be another connection's, or that of a file being spooled.
        with self._lock, suppress(BlockingIOError):  # full: it rings already
            if self._open:
                os.write(self._rope, b"\0")

    def hush(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._rope)
            os.close(self.descriptor)
