"""An EHR that takes HL7 v2 messages over MLLP (HL7 MLLP release 1; acknowledgement: HL7 v2.5.1 chapter 2.9).

How an acknowledgement (MSA-1, ERR-3) is judged:

======================================================  ============================================================
acknowledgement                                         meaning
======================================================  ============================================================
AA, CA                                                  delivered
AE, CE, AR, CR with error 206 (locked) or 207           unavailable: tried again
(internal error)
every other AE, CE, AR, CR                              rejected: a person has to look
no connection, time-out, no or a broken answer, one     unavailable: the message may have been taken; its control id
that is about another message                           tells the receiver that it is the same when it comes again
======================================================  ============================================================

An acknowledgement's free text may repeat patient data and is never copied.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import hl7
from hl7.mllp import InvalidBlockError, open_hl7_connection

from allpacs.dicom.tls import Tls
from allpacs.domain.artefacts import HL7_V2, Artefact, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable

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
        asyncio.run(self._exchange(None))
        return f"{self._name} takes connections"

    def _send(self, artefact: Artefact) -> str:
        try:
            message = hl7.parse(artefact.content.decode("utf-8"))
            control_id = str(message["MSH.F10"])
        except (hl7.HL7Exception, LookupError, ValueError):
            raise DeliveryRejected(f"artefact {artefact.uid} is not an HL7 v2 message") from None
        message["MSH.F5"], message["MSH.F6"] = self._application, self._facility
        return self._judged(asyncio.run(self._exchange(message)), control_id)

    async def _exchange(self, message: hl7.Message | None) -> hl7.Message | None:
        """Send a message and return its acknowledgement; with none, only connect."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await open_hl7_connection(
                    self._host, self._port, encoding="utf-8", ssl=self._context(), server_hostname=self._server_name()
                )
                try:
                    if message is None:
                        return None
                    writer.writemessage(message)
                    await writer.drain()
                    answer: hl7.Message = await reader.readmessage()
                    return answer
                finally:
                    writer.close()
        except TimeoutError:
            raise DeliveryUnavailable(f"{self._name}: no acknowledgement within {self._timeout_s:g} s") from None
        except ssl.SSLError as failed:
            reason = getattr(failed, "verify_message", None) or failed.reason
            raise DeliveryUnavailable(f"{self._name}: no TLS ({reason}); check certificates there and here") from None
        except OSError as failed:
            said = failed.strerror or type(failed).__name__
            raise DeliveryUnavailable(f"{self._name}: no connection, or it was lost ({said})") from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, InvalidBlockError):
            raise DeliveryUnavailable(f"{self._name}: no whole acknowledgement came back") from None
        except (hl7.HL7Exception, LookupError, ValueError):
            raise DeliveryUnavailable(f"{self._name}: what came back is no HL7 message") from None

    def _context(self) -> ssl.SSLContext | None:
        return None if self._tls is None else self._tls()

    def _server_name(self) -> str | None:
        return None if self._tls is None else self._host

    def _judged(self, answer: hl7.Message | None, control_id: str) -> str:
        try:
            code, about = str(answer["MSA.F1"]), str(answer["MSA.F2"])  # type: ignore[index]
        except (LookupError, TypeError):
            raise DeliveryUnavailable(f"{self._name}: what came back is no acknowledgement") from None
        if about != control_id:
            raise DeliveryUnavailable(f"{self._name}: what came back acknowledges another message")
        if code in _ACCEPTED:
            return code
        if code not in _REFUSED:
            raise DeliveryUnavailable(f"{self._name}: an acknowledgement that is none")
        error = _error_condition(answer)
        said = f"{self._name}: acknowledged {code}" + (f", error {error}" if error else "")
        if error in _PASSING:
            raise DeliveryUnavailable(said)
        raise DeliveryRejected(f"{said}: {_WHAT_TO_DO.get(error, 'sending it again will not help')}")


def _error_condition(answer: hl7.Message | None) -> str:
    """Return ERR-3.1, a code of table 0357; empty where it does not say, or says something else than digits."""
    try:
        code = str(answer["ERR.F3.R1.C1"])  # type: ignore[index]
    except (LookupError, TypeError):
        return ""
    return code if code.isdecimal() and len(code) == 3 else ""
