"""DIMSE messages on associations we have accepted: those we send, the answers to them, and how large one may be."""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from allpacs.dicom.elements import implicit_element, padded
from allpacs.dicom.status import SUCCESS

#: Message control header of the last fragment of a command (PS3.8 section E.2).
_LAST_OF_COMMAND = b"\x03"
_US = struct.Struct("<H")

#: A command set of more is none: that of an instance has some hundred bytes.
_LARGEST_COMMAND_BYTES: Final = 1 << 16
#: Data sets other than those of instances are decoded whole, into many times their size. A request for storage
#: commitment with `allpacs.dicom.commitment.MOST_REFERENCES` has 8 MB.
_LARGEST_DATA_SET_BYTES: Final = 10_000_000

_log = structlog.get_logger("allpacs.dicom.network")

F = TypeVar("F")


class LimitedMessages(DIMSEServiceProvider):  # type: ignore[misc]
    """Takes no message that is too large: the library keeps whatever a peer sends until the message is complete.

    Attributes
    ----------
    takes_instances:
        Whether the data set of a C-STORE request may be of any size. On associations that we request nobody sends us
        any.
    """

    message: DIMSEMessage | None
    takes_instances = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Add fragments to the message that they belong to; abort the association where it is too large."""
        if self.message is None:
            self.message = DIMSEMessage()
        reason = _too_large(self.message, primitive, self.takes_instances)
        if reason is None:
            super().receive_primitive(primitive)
            return
        _log.warning("connection_closed", calling_ae=self.assoc.requestor.ae_title, reason=reason)
        self.message = None
        if self.takes_instances:
            self.dul.event_queue.put("Evt19")  # invalid PDU (PS3.8 section 9.2.2): the upper layer aborts
        else:  # whoever waits for the answer aborts, too, and the library's own thread ends over a second abort
            self.dul.socket.close()


class Messages(LimitedMessages):
    """Sends each message whole, its PDUs never among those of another thread's, and takes none that is too large.

    The one answer that is sent for every instance, that it was stored, is put together here: the library's way by a
    data set takes a third of a millisecond.

    Answers of the peer are kept apart from its requests. The library has one queue for both: there, a request that
    comes while a thread waits for an answer is taken for that.
    """

    takes_instances = True

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._one_at_a_time = threading.Lock()
        self._answer: queue.Queue[tuple[int | None, Any]] = queue.Queue(1)  # to the request that was sent last

    def answered(self, context_id: int | None, answer: Any) -> None:
        """Hand an answer to the thread that waits for one, None where there will be none; nobody waits: forget it."""
        with suppress(queue.Full):
            self._answer.put_nowait((context_id, answer))

    def get_msg(self, block: bool = False) -> tuple[int | None, Any]:
        """Return the next request; with `block`, wait for the answer to the request of ours that was sent last.

        None: there is no request, or there was no answer in time.
        """
        try:
            return self._answer.get(timeout=self.dimse_timeout) if block else self.msg_queue.get_nowait()
        except queue.Empty:
            return None, None

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Hand a message to the upper layer."""
        with self._one_at_a_time:
            if isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo is not None:
                command = success(primitive)
                if command is not None:
                    answer = P_DATA()
                    answer.presentation_data_value_list.append((context_id, _LAST_OF_COMMAND + command))
                    self.dul.send_pdu(answer)
                    return
            if primitive.MessageIDBeingRespondedTo is None:
                self._answer = queue.Queue(1)
            super().send_msg(primitive, context_id)


def _too_large(message: DIMSEMessage, primitive: P_DATA, takes_instances: bool) -> str | None:
    """Say why the next fragments of a message are not taken; None where they are."""
    command = data = 0
    for _, fragment in primitive.presentation_data_value_list:
        if fragment[0] & 1:  # message control header (PS3.8 section E.2): of the command
            command += len(fragment)
        else:
            data += len(fragment)
    if command and type(message) is not DIMSEMessage:
        return "a second command in one message"  # which could make another message of what came as an instance
    if message.encoded_command_set.tell() + command > _LARGEST_COMMAND_BYTES:
        return "a command that is too large"
    unlimited = takes_instances and isinstance(message, C_STORE_RQ)
    if not unlimited and message.data_set.tell() + data > _LARGEST_DATA_SET_BYTES:
        return "a message without an instance that is too large"
    return None


def success(answer: C_STORE) -> bytes | None:
    """Return the command set of a C-STORE response that says success (PS3.7 section 9.3.1.2), None of any other."""
    if answer.Status != SUCCESS or answer.ErrorComment is not None or answer.OffendingElement is not None:
        return None
    # Command sets are always implicit VR little endian (PS3.7 section 6.3.1).
    elements = (
        implicit_element(0x0002, padded(answer.AffectedSOPClassUID.encode("ascii"), b"UI"))
        + implicit_element(0x0100, _US.pack(0x8001))  # Command Field: C-STORE-RSP
        + implicit_element(0x0120, _US.pack(answer.MessageIDBeingRespondedTo))
        + implicit_element(0x0800, _US.pack(0x0101))  # Command Data Set Type: none
        + implicit_element(0x0900, _US.pack(answer.Status))
        + implicit_element(0x1000, padded(answer.AffectedSOPInstanceUID.encode("ascii"), b"UI"))
    )
    return implicit_element(0x0000, struct.pack("<L", len(elements))) + elements


def unfinished_instance_bytes(assoc: Association) -> int | None:
    """Return the number of bytes received so far of an unfinished C-STORE request, or None if there is none."""
    message = assoc.dimse.message
    return message.data_set.tell() if isinstance(message, C_STORE_RQ) else None


def is_instance(message: DIMSEMessage) -> bool:
    """Whether a DIMSE message is a C-STORE request."""
    return isinstance(message, C_STORE_RQ)


def spill(assoc: Association, make_file: Callable[[memoryview], F]) -> F:
    """Write the rest of an association's unfinished C-STORE data set to a file.

    Parameters
    ----------
    make_file:
        Return an object with ``name``, ``file``, ``write`` and ``flush`` that starts with the given bytes.
    """
    message = assoc.dimse.message
    with message.data_set.getbuffer() as received:
        file = make_file(received)
    message.data_set = type(message.data_set)()
    message._data_set_file = file
    return file


def spilled_file(request: C_STORE) -> Any:
    """Return the file that `spill` attached to a C-STORE request, or None if its data set is in memory."""
    return request._dataset_file


def close_connection(assoc: Association) -> None:
    """Close the TCP connection of an association at once, without an A-ABORT."""
    assoc.dul.socket.close()
