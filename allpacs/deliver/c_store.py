"""A PACS that takes results by C-STORE (PS3.4 Annex B), and sending files to any Storage SCP.

How a C-STORE-RSP status is judged (PS3.4 Table B.2-1, PS3.7 Annex C):

=================================================  ================================================================
status                                             meaning
=================================================  ================================================================
0000                                               stored
B000, B006, B007 and the other warnings            stored, with a warning
0111 duplicate SOP instance                        stored before, with a warning: a result's UID is derived from what
                                                   it was made from, so the same UID is the same object
A7xx, 0110, 0213, cancel, no answer                unavailable: tried again
A9xx, Cxxx, 0117, 0122, 0124 and everything else   rejected
=================================================  ================================================================

The peer's free text (0000,0902) may repeat patient data and is never copied.
"""

from __future__ import annotations

import socket
import ssl
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from io import BytesIO
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from allpacs.domain.artefacts import Artefact, ArtefactKind, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid

_log = structlog.get_logger(__name__)

#: Presentation contexts of one association at most: their ids are the odd numbers of a byte (PS3.8 9.3.2.2).
MAX_CONTEXTS = 128

_DUPLICATE = 0x0111
_PROCESSING_FAILURE = 0x0110  # what many archives answer while their database is down
_RESOURCE_LIMITATION = 0x0213

#: What reading a broken file raises.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError,
    RecursionError, struct.error, zlib.error,
)  # fmt: skip

#: (SOP Class UID, Transfer Syntax UID) of one presentation context.
_Context = tuple[str, str]


class Verdict(Enum):
    """What a C-STORE-RSP status means for the delivery."""

    STORED = auto()
    WARNING = auto()  # stored too
    LATER = auto()
    NEVER = auto()


def judge(status: int) -> Verdict:
    """Judge a C-STORE-RSP status by the table above."""
    if status == 0x0000:
        return Verdict.STORED
    if status == _DUPLICATE or code_to_category(status) == "Warning":
        return Verdict.WARNING
    if 0xA700 <= status <= 0xA7FF or status in (_PROCESSING_FAILURE, _RESOURCE_LIMITATION):
        return Verdict.LATER
    return Verdict.LATER if code_to_category(status) == "Cancel" else Verdict.NEVER


def status_text(status: int) -> str:
    """Return a status as the operator reads it, for example ``0xA700 Refused: Out of Resources``."""
    _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))
    return f"0x{status:04X} {meaning}".rstrip()


@dataclass(frozen=True, slots=True)
class Peer:
    """Another application entity, and who we are to it.

    Attributes
    ----------
    timeout_s:
        Longest wait for the connection and for each answer (ACSE, DIMSE), seconds.
    tls:
        TLS settings (PS3.15 B.12); None: no TLS.
    """

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float = 30.0
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """``AE@host:port``."""
        return f"{self.called_ae}@{self.host}:{self.port}"


class CStoreDestination:
    """Sends DICOM results to a Storage SCP: all artefacts of a delivery on one association.

    Parameters
    ----------
    timeout_s, tls:
        See `Peer`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        called_ae: str,
        calling_ae: str,
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._peer = Peer(host, port, called_ae, calling_ae, timeout_s, tls)

    @property
    def takes(self) -> frozenset[ArtefactKind]:
        """DICOM objects."""
        return frozenset({ArtefactKind.SR})

    def deliver(self, artefacts: Sequence[Artefact]) -> Receipt:
        """Send each artefact and check its status; artefacts of kinds that it does not take are left out.

        One rejected object does not hold up the others; it is reported when the others were sent.

        Raises
        ------
        DeliveryUnavailable
            No connection, time-out, abort, transient rejection, or a status that may pass.
        DeliveryRejected
            Permanent rejection, no presentation context accepted, or a status for good.
        """
        objects = [_read(artefact) for artefact in artefacts if artefact.kind in self.takes]
        if not objects:
            return Receipt(detail="nothing sent")
        statuses: list[int] = []
        later = ""
        never: list[str] = []
        with _associated(self._peer, _contexts_of(objects)) as association:
            for message_id, dataset in enumerate(objects, start=1):
                try:
                    status = _store(association, dataset, message_id % 0x10000)
                except DeliveryRejected as rejected:
                    never.append(rejected.reason)
                    continue
                statuses.append(status)
                _log.info(
                    "result_sent",
                    called_ae=self._peer.called_ae,
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    status=f"0x{status:04X}",
                )
                line = f"{dataset.SOPInstanceUID}: {status_text(status)}"
                if judge(status) is Verdict.NEVER:
                    never.append(line)
                elif judge(status) is Verdict.LATER:
                    later = line
                    break
        if later:
            raise DeliveryUnavailable(f"{self._peer.name}: {later}")
        if never:
            raise DeliveryRejected(f"{self._peer.name}: {'; '.join(never)}")
        told = [f"0x{status:04X}" for status in statuses]
        warnings = sorted({status for status in statuses if judge(status) is Verdict.WARNING})
        return Receipt(detail=", ".join(told), warning="; ".join(status_text(status) for status in warnings) or None)

    def check(self) -> str:
        """Ask by C-ECHO (PS3.4 Annex A).

        Raises
        ------
        DeliveryUnavailable
            No association, or a status other than 0x0000.
        """
        peer = self._peer
        return echo(peer.host, peer.port, peer.called_ae, peer.calling_ae, timeout_s=peer.timeout_s, tls=peer.tls)


def echo(
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    *,
    timeout_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> str:
    """Verify by C-ECHO that a peer is there and takes our associations; return one line.

    Raises
    ------
    DeliveryUnavailable
        It does not; the message says what to look at.
    """
    peer = Peer(host, port, called_ae, calling_ae, timeout_s, tls)
    try:
        with _associated(peer, [(Verification, ImplicitVRLittleEndian)]) as association:
            answer = association.send_c_echo()
    except DeliveryRejected as rejected:
        raise DeliveryUnavailable(rejected.reason) from rejected
    if "Status" not in answer:
        raise DeliveryUnavailable(f"{peer.name}: no answer to C-ECHO within {timeout_s:g} s")
    if answer.Status != 0x0000:
        raise DeliveryUnavailable(f"{peer.name}: C-ECHO answered {status_text(answer.Status)}")
    return f"{peer.name} answered C-ECHO: 0x0000"


@dataclass(frozen=True, slots=True)
class SentFile:
    """What became of one file.

    Attributes
    ----------
    sop_instance_uid:
        Empty where the file is no DICOM object that can be sent.
    status:
        C-STORE-RSP status, or None where the file was not sent or not answered.
    note:
        One line for the operator: the status in words, or why there is none.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    note: str

    @property
    def stored(self) -> bool:
        """Whether the peer has it now."""
        return self.status is not None and judge(self.status) in (Verdict.STORED, Verdict.WARNING)


def send_files(
    paths: Iterable[Path],
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    progress: Callable[[SentFile], None] | None = None,
    *,
    timeout_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> list[SentFile]:
    """Send DICOM files, each in its own transfer syntax, on as few associations as their contexts allow.

    Parameters
    ----------
    paths:
        Files of any storage SOP class; others are listed as not sent.
    progress:
        Called after each file.

    Returns
    -------
    list of SentFile
        One for each path; those that are not DICOM first, the others in the order of the paths.

    Raises
    ------
    DeliveryUnavailable, DeliveryRejected
        No association could be made and so nothing was sent. One that is lost later is told in the notes instead.
    """
    peer = Peer(host, port, called_ae, calling_ae, timeout_s, tls)
    outcomes: list[SentFile] = []

    def tell(path: Path, uid: str, status: int | None, note: str) -> None:
        outcomes.append(SentFile(path, uid, status, note))
        if progress is not None:
            progress(outcomes[-1])

    headers: list[tuple[Path, Dataset]] = []
    for path in paths:
        try:
            headers.append((path, _header(path)))
        except ValueError as unfit:
            tell(path, "", None, str(unfit))

    anything_sent = False
    for contexts, batch in _batches(headers):
        waiting = list(batch)
        try:
            with _associated(peer, contexts) as association:
                for message_id, (path, header) in enumerate(batch, start=1):
                    status, note = _send_file(association, path, message_id % 0x10000)
                    del waiting[0]
                    anything_sent = True
                    tell(path, header.SOPInstanceUID, status, note)
        except (DeliveryUnavailable, DeliveryRejected) as lost:
            if not anything_sent:
                raise
            for path, header in waiting:
                tell(path, header.SOPInstanceUID, None, f"not sent: {lost.reason}")
    return outcomes


def _send_file(association: Association, path: Path, message_id: int) -> tuple[int | None, str]:
    """Return status and note of one file; raise DeliveryUnavailable only where the association is lost."""
    try:
        dataset = _sendable(dcmread(path))
    except _UNREADABLE as broken:
        return None, f"not sent: cannot be read ({type(broken).__name__})"
    try:
        status = _store(association, dataset, message_id)
    except DeliveryRejected as unfit:
        return None, f"not sent: {unfit.reason}"
    return status, status_text(status)


def _header(path: Path) -> Dataset:
    """Return the UIDs that sending needs; ValueError (one line) where the file cannot be sent."""
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    except InvalidDicomError:
        raise ValueError("not a DICOM file") from None
    except _UNREADABLE as broken:
        raise ValueError(f"cannot be read ({type(broken).__name__})") from None
    return _sendable(header)


def _sendable(dataset: Dataset) -> Dataset:
    transfer_syntax = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    if not all(is_uid(str(dataset.get(k, ""))) for k in ("SOPClassUID", "SOPInstanceUID")) or not transfer_syntax:
        raise ValueError("no storage object: SOP class, SOP instance or transfer syntax UID is missing")
    if dataset.SOPClassUID == MediaStorageDirectoryStorage:
        raise ValueError("no storage object: a DICOMDIR")
    return dataset


def _read(artefact: Artefact) -> Dataset:
    try:
        return _sendable(dcmread(BytesIO(artefact.content)))
    except _UNREADABLE:
        raise DeliveryRejected(f"artefact {artefact.uid} is not a DICOM file that can be sent") from None


def _contexts(dataset: Dataset) -> set[_Context]:
    """Return the contexts for one object: its own transfer syntax, and the default one where it can be turned into it.

    Every application entity must offer the default transfer syntax for what is not compressed (PS3.5 10.1).
    """
    own = UID(dataset.file_meta.TransferSyntaxUID)
    syntaxes = {str(own)}
    if not own.is_private and own.is_transfer_syntax and not own.is_compressed and own.is_little_endian:
        syntaxes.add(str(ImplicitVRLittleEndian))
    return {(str(dataset.SOPClassUID), syntax) for syntax in syntaxes}


def _contexts_of(datasets: Iterable[Dataset]) -> list[_Context]:
    return sorted(set().union(*map(_contexts, datasets)))


def _batches(
    headers: Sequence[tuple[Path, Dataset]],
) -> Iterator[tuple[list[_Context], list[tuple[Path, Dataset]]]]:
    """Split, in order, into runs whose contexts fit one association."""
    contexts: set[_Context] = set()
    batch: list[tuple[Path, Dataset]] = []
    for path, header in headers:
        needed = contexts | _contexts(header)
        if len(needed) > MAX_CONTEXTS:
            yield sorted(contexts), batch
            needed, batch = _contexts(header), []
        contexts = needed
        batch.append((path, header))
    if batch:
        yield sorted(contexts), batch


def _store(association: Association, dataset: Dataset, message_id: int) -> int:
    """Send one object and return the status of its C-STORE-RSP."""
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
def _associated(peer: Peer, contexts: Sequence[_Context]) -> Iterator[Association]:
    """Associate for the contexts, release at the end; abort where the body raised."""
    ae = AE(ae_title=peer.calling_ae)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = peer.timeout_s
    ae.network_timeout = 2 * peer.timeout_s  # must outlast one slow answer

    connected: list[str] = []
    rejections: list[A_ASSOCIATE_RJ] = []

    def on_open(event: evt.Event) -> None:
        connected.append(peer.name)
        # A request goes out as several small writes: without this each waits for the peer's delayed
        # acknowledgement of the one before, 40 ms an object.
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
            tls_args=(peer.tls, peer.host) if peer.tls is not None else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open), (evt.EVT_PDU_RECV, on_pdu)],
        )
    except OSError as unknown:  # the name of the host
        raise DeliveryUnavailable(f"{peer.name}: {unknown.strerror}; check host and port") from unknown
    if not association.is_established:
        if rejections:
            raise _rejection(peer, rejections[0])
        if not connected:
            raise DeliveryUnavailable(f"{peer.name}: no connection; check host, port and firewall")
        if association.rejected_contexts:
            names = ", ".join(sorted({UID(sop_class).name for sop_class, _ in contexts}))
            raise DeliveryRejected(f"{peer.name}: accepts no presentation context for {names}; enable it there")
        raise DeliveryUnavailable(f"{peer.name}: no answer to the association request: time-out or abort")
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
