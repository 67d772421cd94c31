"""An EHR that takes HL7 v2 messages over MLLP (HL7 MLLP release 1; acknowledgement: HL7 v2.5.1 chapter 2.9).

How an acknowledgement (MSA-1, ERR-3) is judged:

======================================================  ============================================================
acknowledgement                                         meaning
======================================================  ============================================================
AA, CA                                                  delivered
AE, CE, AR, CR, every error of which is 206 (locked)    unavailable: tried again
or 207 (internal error)
every other AE, CE, AR, CR                              rejected: a person has to look. AR and CR leave it to the
                                                        sender whether the same message is sent again (2.9.2)
one that is about another message (MSA-2), or has no    not the answer to ours: the next one is waited for
MSA segment
no connection, time-out, no or a broken answer          unavailable: the message may have been taken; its control id
                                                        tells the receiver that it is the same when it comes again
======================================================  ============================================================

Receivers are not strict about the form, and a message that was taken must not be sent for ever because of it: segments
may end with CR, LF or both, text may be in any encoding that extends ASCII, fields may be padded with blanks, codes may
be in lower case, a block may lack its start character or the carriage return behind its end. The error stands in ERR-3,
or where older versions have it: MSA-6 or ERR-1.

An acknowledgement's free text may repeat patient data and is never copied.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import dropwhile

import hl7

from allpacs.audit.messages import AuditEvent
from allpacs.dicom.tls import Tls
from allpacs.domain.artefacts import HL7_V2, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

_START, _END, _RETURN = b"\x0b", b"\x1c", b"\r"
#: Bytes that are taken of what comes back on one connection; an acknowledgement has some hundred.
_MAX_ANSWER_BYTES = 1 << 20

_ACCEPTED = frozenset({"AA", "CA"})
_REFUSED = frozenset({"AE", "CE", "AR", "CR"})
#: Message error conditions (table 0357) that pass by themselves: application record locked, application internal error.
_PASSING = frozenset({"206", "207"})
#: Of table 0357: what to look at.
_WHAT_TO_DO = {
    "101": "it misses a required field",
    "200": "it does not take this type of message",
    "201": "it does not take this type of event",
    "203": "it does not take HL7 2.5.1",
    "204": "it does not know an identifier: patient or order",
    "205": "it has this already under another key",
}
_SEGMENT_END = re.compile(r"[\r\n]+")
#: Where an error condition stands: in ERR-3 since version 2.5, before that in MSA-6 or the fourth component of ERR-1.
_ERROR_FIELDS = (("ERR", 3, 1), ("MSA", 6, 1), ("ERR", 1, 4))


class MllpDestination:
    """Sends each HL7 v2 message on a connection of its own and checks what is acknowledged.

    Parameters
    ----------
    application, facility:
        Receiving application and facility (MSH-5, MSH-6); empty where the receiver does not care.
    timeout_s:
        Longest wait for the connection and for the acknowledgement, seconds.
    tls:
        Asked for the settings of each connection; None: no TLS.
    """

    audit_event = AuditEvent.EXPORTED

    def __init__(
        self,
        host: str,
        port: int,
        *,
        application: str = "",
        facility: str = "",
        timeout_s: float = 30.0,
        tls: Tls | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._name = f"{host}:{port}"
        self._application = application
        self._facility = facility
        self._timeout_s = timeout_s
        self._tls = tls

    @property
    def takes(self) -> frozenset[str]:
        """HL7 v2 messages."""
        return frozenset({HL7_V2})

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Send each message; artefacts of kinds that it does not take are left out.

        Raises
        ------
        DeliveryUnavailable, DeliveryRejected
            See the table above.
        """
        answers = [self._send(artefact) for artefact in artefacts if artefact.is_taken_by(self.takes)]
        return Receipt(detail=", ".join(answers) or "nothing sent")

    def check(self) -> str:
        """Connect, which is all that MLLP offers without sending a message.

        Raises
        ------
        DeliveryUnavailable
            There is no connection.
        """
        asyncio.run(self._exchange(None, ""))
        return f"{self._name} takes connections"

    def _send(self, artefact: Artefact) -> str:
        try:
            message = hl7.parse(artefact.content.decode("utf-8"))
            control_id = str(message["MSH.F10"])
        except (hl7.HL7Exception, LookupError, ValueError):
            raise DeliveryRejected(f"artefact {artefact.uid} is not an HL7 v2 message") from None
        message["MSH.F5"], message["MSH.F6"] = self._application, self._facility
        return asyncio.run(self._exchange(str(message).encode(), control_id))

    async def _exchange(self, message: bytes | None, control_id: str) -> str:
        """Send a message and return the code that it is acknowledged with; without one, only connect."""
        missing = "no whole acknowledgement came back"
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._context(), server_hostname=self._server_name()
                )
                try:
                    if message is None:
                        return ""
                    writer.write(_START + message + _END + _RETURN)
                    await writer.drain()
                    async with aclosing(_blocks(reader)) as blocks:
                        async for block in blocks:
                            answer, missing = _acknowledgement(block, control_id)
                            if answer is not None:
                                return self._judged(answer)
                finally:
                    writer.close()
        except TimeoutError:
            waited = f"no acknowledgement within {self._timeout_s:g} s"
            reason = waited if missing.startswith("no whole") else f"{waited}: {missing}"
            raise DeliveryUnavailable(f"{self._name}: {reason}") from None
        except ssl.SSLError as failed:
            reason = getattr(failed, "verify_message", None) or failed.reason
            raise DeliveryUnavailable(f"{self._name}: no TLS ({reason}); check certificates there and here") from None
        except OSError as failed:
            said = failed.strerror or type(failed).__name__
            raise DeliveryUnavailable(f"{self._name}: no connection, or it was lost ({said})") from None
        except asyncio.LimitOverrunError:
            raise DeliveryUnavailable(f"{self._name}: more than {_MAX_ANSWER_BYTES} bytes came back") from None
        raise DeliveryUnavailable(f"{self._name}: {missing}")

    def _context(self) -> ssl.SSLContext | None:
        return None if self._tls is None else self._tls()

    def _server_name(self) -> str | None:
        return None if self._tls is None else self._host

    def _judged(self, answer: hl7.Message) -> str:
        """Return the code of an acknowledgement that accepts our message; raise for every other."""
        code = _component(answer.segment("MSA"), 1).upper()
        if code in _ACCEPTED:
            return code
        if code not in _REFUSED:
            raise DeliveryUnavailable(f"{self._name}: not a valid HL7 acknowledgement: MSA-1 is not of table 0008")
        errors = _error_conditions(answer)
        said = f"{self._name}: acknowledged {code}" + (f", error {', '.join(errors)}" if errors else "")
        if errors and _PASSING.issuperset(errors):
            raise DeliveryUnavailable(said)
        grave = next((error for error in errors if error not in _PASSING), "")
        raise DeliveryRejected(f"{said}: {_WHAT_TO_DO.get(grave, 'sending it again will not help')}")


async def _blocks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yield the content of each block that comes back, until the connection ends.

    What stands before a block's start character belongs to no block, nor do line ends and zeros between blocks.

    Raises
    ------
    asyncio.LimitOverrunError
        More comes than an acknowledgement may have.
    """
    buffer, taken = b"", 0
    while part := await reader.read(65536):
        taken += len(part)
        if taken > _MAX_ANSWER_BYTES:
            raise asyncio.LimitOverrunError("too much", taken)
        *blocks, buffer = (buffer + part).split(_END)
        for block in blocks:
            yield block.rpartition(_START)[2]


def _acknowledgement(block: bytes, control_id: str) -> tuple[hl7.Message | None, str]:
    """Return the acknowledgement of the message in a block; or None, and why it is none."""
    # All that is read of it is ASCII, which every encoding of MSH-18 extends: as ISO 8859-1, nothing fails to decode.
    segments = [segment.strip(" \t\0") for segment in _SEGMENT_END.split(block.decode("latin-1"))]
    # An envelope (FHS, BHS) may stand before the message.
    message = list(dropwhile(lambda segment: not segment.startswith("MSH"), filter(None, segments)))
    try:
        answer = hl7.parse("\r".join(message))
        segment = answer.segment("MSA")
    except KeyError:
        return None, "what came back is no acknowledgement"
    except (hl7.HL7Exception, LookupError, ValueError, TypeError, AssertionError):
        return None, "what came back is no HL7 message"
    if _component(segment, 2) != control_id.strip():
        return None, "what came back acknowledges another message"
    return answer, ""


def _component(segment: hl7.Segment, field: int, component: int = 1) -> str:
    """Return the first subcomponent of a component, without padding; empty where the segment has none."""
    try:
        value = str(segment.extract_field(1, field, 1, component, 1))
    except (LookupError, TypeError, ValueError):
        return ""
    return value.strip()


def _error_conditions(answer: hl7.Message) -> list[str]:
    """Return the codes of table 0357 that an acknowledgement states; whatever else stands there is left out."""
    codes: list[str] = []
    for name, field, component in _ERROR_FIELDS:
        segments = [segment for segment in answer if str(segment[0]) == name]
        found = [_component(segment, field, component) for segment in segments]
        codes += [code for code in found if code.isascii() and code.isdecimal() and len(code) == 3]
    return list(dict.fromkeys(codes))
