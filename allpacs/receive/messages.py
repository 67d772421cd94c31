"""DIMSE messages that we send on associations we have accepted."""

from __future__ import annotations

import struct
import threading
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

#: Message control header of the last fragment of a command (PS3.8 section E.2).
_LAST_OF_COMMAND = b"\x03"
_US = struct.Struct("<H")


class Messages(DIMSEServiceProvider):  # type: ignore[misc]
    """Sends each message whole: its PDUs never come among those of another thread's.

    The one answer that is sent for every instance, that it was stored, is put together here: the library's way by a
    data set takes a third of a millisecond.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._one_at_a_time = threading.Lock()

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
            super().send_msg(primitive, context_id)


def success(answer: C_STORE) -> bytes | None:
    """Return the command set of a C-STORE response that says success (PS3.7 section 9.3.1.2), None of any other."""
    if answer.Status != 0x0000 or answer.ErrorComment is not None or answer.OffendingElement is not None:
        return None
    elements = (
        _command_element(0x0002, _padded(answer.AffectedSOPClassUID))
        + _command_element(0x0100, _US.pack(0x8001))  # Command Field: C-STORE-RSP
        + _command_element(0x0120, _US.pack(answer.MessageIDBeingRespondedTo))
        + _command_element(0x0800, _US.pack(0x0101))  # Command Data Set Type: none
        + _command_element(0x0900, _US.pack(answer.Status))
        + _command_element(0x1000, _padded(answer.AffectedSOPInstanceUID))
    )
    return _command_element(0x0000, struct.pack("<L", len(elements))) + elements


def _command_element(element: int, value: bytes) -> bytes:
    """Return an element of group 0000: always implicit VR little endian (PS3.7 section 6.3.1)."""
    return struct.pack("<HHL", 0, element, len(value)) + value


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" if len(value) % 2 else value
