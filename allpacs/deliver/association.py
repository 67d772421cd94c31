"""Associations with another application entity: whether they come about, and what a C-STORE-RSP status means.

How a C-STORE-RSP status is judged (PS3.4 Table B.2-1, PS3.7 Annex C):

=================================================  ================================================================
status                                             meaning
=================================================  ================================================================
0000                                               stored
B000, B006, B007 and the other warnings            stored, with a warning
0111 duplicate SOP instance                        a result was stored before, with a warning: its UID is derived from
                                                   what it was made from, so the same UID is the same object; of any
                                                   other file (`allpacs send`) it says that it was not stored
A7xx, 0110, 0213, cancel, no answer                unavailable: tried again
A9xx, Cxxx, 0117, 0122, 0124 and everything else   rejected
=================================================  ================================================================

The peer's free text (0000,0902) may repeat patient data and is never copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import Verification
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from allpacs.dicom import status as status_codes
from allpacs.dicom.network.requestor import ExplainedHandshake, hold_at_checkpoint, limit_answers, send_without_delay
from allpacs.dicom.tls import Tls
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_ae_title

#: Statuses that may pass: the object is sent again later.
_TEMPORARY = {
    status_codes.PROCESSING_FAILURE,
    status_codes.RESOURCE_LIMITATION,
    *range(status_codes.OUT_OF_RESOURCES, status_codes.OUT_OF_RESOURCES_LAST + 1),
}

#: (SOP Class UID, Transfer Syntax UID) of one presentation context.
Context = tuple[str, str]
#: Presentation contexts of one association at most: their ids are the odd numbers of a byte (PS3.8 9.3.2.2).
MAX_CONTEXTS = 128


class Verdict(Enum):
    """What a C-STORE-RSP status means for the delivery."""

    STORED = auto()
    WARNING = auto()  # stored too
    LATER = auto()
    NEVER = auto()


def judge(status: int) -> Verdict:
    """Judge a C-STORE-RSP status by the table above."""
    if status == status_codes.SUCCESS:
        return Verdict.STORED
    if status == status_codes.DUPLICATE_SOP_INSTANCE or code_to_category(status) == "Warning":
        return Verdict.WARNING
    if status in _TEMPORARY:
        return Verdict.LATER
    return Verdict.LATER if code_to_category(status) == "Cancel" else Verdict.NEVER


def status_text(status: int) -> str:
    """Return a status as the operator reads it, for example ``0xA700 Refused: Out of Resources``."""
    _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))
    return f"0x{status:04X} {meaning}".rstrip()


class NoContextAccepted(DeliveryRejected):
    """The peer takes our association and none of the services that it is asked for."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another application entity, and who we are to it.

    Raises
    ------
    ConfigFault
        An AE title that is none, or no host.

    Attributes
    ----------
    timeout_s:
        Longest wait for the connection and for each answer (ACSE, DIMSE), seconds; a PDU that was begun has twice that.
    tls:
        Asked for the settings of each connection; None: no TLS.
    """

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float = 30.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for title in (self.called_ae, self.calling_ae):
            if not is_ae_title(title):
                raise ConfigFault(f"{title!r} is no AE title: write 1 to 16 ASCII characters without a backslash")
        if not self.host:
            raise ConfigFault(f"{self.called_ae}: the host is missing; write AE@host:port")

    @property
    def name(self) -> str:
        """``AE@host:port``."""
        return f"{self.called_ae}@{self.host}:{self.port}"


def echo(
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    *,
    timeout_s: float = 30.0,
    tls: Tls | None = None,
) -> str:
    """Verify by C-ECHO that a peer is there and takes our associations; return one line.

    Raises
    ------
    DeliveryUnavailable
        It does not; the message says what to look at.
    """
    peer = Peer(host, port, called_ae, calling_ae, timeout_s, tls)
    try:
        with associated(peer, [(Verification, ImplicitVRLittleEndian)]) as association:
            answer = association.send_c_echo()
    except DeliveryRejected as rejected:
        raise DeliveryUnavailable(rejected.reason) from rejected
    if "Status" not in answer:
        raise DeliveryUnavailable(f"{peer.name}: no answer to C-ECHO within {timeout_s:g} s")
    if answer.Status != status_codes.SUCCESS:
        raise DeliveryUnavailable(f"{peer.name}: C-ECHO answered {status_text(answer.Status)}")
    return f"{peer.name} answered C-ECHO: 0x0000"


def contexts_of(dataset: Dataset) -> set[Context]:
    """Return the contexts for one object: its own transfer syntax, and the default one where it can be turned into it.

    Every application entity must offer the default transfer syntax for what is not compressed (PS3.5 10.1).
    """
    own = UID(dataset.file_meta.TransferSyntaxUID)
    syntaxes = {str(own)}
    if not own.is_private and own.is_transfer_syntax and not own.is_compressed and own.is_little_endian:
        syntaxes.add(str(ImplicitVRLittleEndian))
    return {(str(dataset.SOPClassUID), syntax) for syntax in syntaxes}


def store(association: Association, dataset: Dataset, message_id: int) -> int:
    """Send one object and return the status of its C-STORE-RSP.

    Raises
    ------
    DeliveryUnavailable
        No answer, or the association was aborted.
    DeliveryRejected
        The object cannot be sent on this association: no presentation context was accepted for it.
    """
    uid = dataset.SOPInstanceUID
    if not association.is_established:
        raise DeliveryUnavailable("the association was aborted by the peer")
    try:
        answer = association.send_c_store(dataset, msg_id=message_id)
    except (ValueError, AttributeError) as unfit:
        if str(unfit).startswith("No presentation context"):
            syntax = dataset.file_meta.TransferSyntaxUID.name
            reason = f"the peer accepts no presentation context for {dataset.SOPClassUID.name} in {syntax}"
        else:
            reason = "cannot be encoded in its transfer syntax"
        raise DeliveryRejected(f"{uid}: {reason}") from None
    except RuntimeError:  # aborted since we looked
        raise DeliveryUnavailable(f"{uid}: the association was aborted by the peer") from None
    if "Status" not in answer:
        raise DeliveryUnavailable(f"{uid}: no answer to C-STORE: time-out or abort; whether it was stored is unknown")
    return int(answer.Status)


@contextmanager
def associated(
    peer: Peer, contexts: Sequence[Context], handlers: Sequence[tuple[Any, Any]] = (), *, as_scp: bool = False
) -> Iterator[Association]:
    """Associate for the contexts, release at the end; abort where the body raised.

    Parameters
    ----------
    handlers:
        Of pynetdicom's events, for what the peer asks of us.
    as_scp:
        Propose to be the SCP of the contexts (PS3.7 D.3.3.4): for N-EVENT-REPORT on an association of our own.

    Raises
    ------
    DeliveryUnavailable, DeliveryRejected
        The association does not come about, for now or for good.
    """
    ae = AE(ae_title=peer.calling_ae)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = peer.timeout_s
    ae.network_timeout = 2 * peer.timeout_s  # must outlast one slow answer

    handshake = ExplainedHandshake(peer.tls()) if peer.tls is not None else None
    connected: list[str] = []
    rejections: list[A_ASSOCIATE_RJ] = []

    def on_open(event: evt.Event) -> None:
        connected.append(peer.name)
        # A request goes out as several small writes: without this each waits for the peer's delayed
        # acknowledgement of the one before, 40 ms an object.
        send_without_delay(event.assoc)
        limit_answers(event.assoc)

    def on_pdu(event: evt.Event) -> None:
        # Seen here it is never missed: pynetdicom 3.0 itself takes a rejection that comes very quickly for a failed
        # connection.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    try:
        association = ae.associate(
            peer.host,
            peer.port,
            contexts=[_context(*context) for context in contexts],
            ae_title=peer.called_ae,
            tls_args=(handshake, peer.host) if handshake is not None else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open), (evt.EVT_PDU_RECV, on_pdu), *handlers],
            ext_neg=[build_role(UID(uid), scp_role=True) for uid in sorted({one for one, _ in contexts})]
            if as_scp
            else None,
        )
    except (OSError, UnicodeError) as unknown:  # the name of the host
        raise DeliveryUnavailable(f"{peer.name}: the host is not known; check host and port") from unknown
    if not association.is_established:
        if rejections:
            raise _rejection(peer, rejections[0])
        if handshake is not None and handshake.failure:
            raise DeliveryUnavailable(f"{peer.name}: no TLS ({handshake.failure}); check certificates there and here")
        if not connected:
            raise DeliveryUnavailable(f"{peer.name}: no connection; check host, port and firewall")
        if association.rejected_contexts:
            names = ", ".join(sorted({UID(sop_class).name for sop_class, _ in contexts}))
            raise NoContextAccepted(f"{peer.name}: accepts no presentation context for {names}; enable it there")
        # Since TLS 1.3 a client learns that its certificate was refused only after its own part of the handshake.
        perhaps = "" if handshake is None else "; it may not trust our certificate"
        raise DeliveryUnavailable(f"{peer.name}: no answer to the association request: time-out or abort{perhaps}")
    hold_at_checkpoint(association)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    else:
        association.release()


def _context(sop_class: str, transfer_syntax: str) -> PresentationContext:
    return build_context(UID(sop_class), [UID(transfer_syntax)])


def _rejection(peer: Peer, rejection: A_ASSOCIATE_RJ) -> DeliveryUnavailable | DeliveryRejected:
    """Judge an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    line = f"{peer.name}: association rejected ({rejection.result_str}: {rejection.reason_str})"
    # Source 3, with its congestion and local limit, passes even where the result says otherwise.
    if rejection.result == 2 or rejection.source == 3:
        return DeliveryUnavailable(line)
    return DeliveryRejected(f"{line}; check both AE titles there and here")
