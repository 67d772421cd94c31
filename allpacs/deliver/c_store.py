"""A PACS that takes results by C-STORE (PS3.4 Annex B), and sending files to any Storage SCP.

`allpacs.deliver.association` says how statuses and refused associations are judged.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, MediaStorageDirectoryStorage
from pynetdicom.association import Association

from allpacs.audit.messages import AuditEvent
from allpacs.deliver.association import (
    MAX_CONTEXTS,
    Context,
    Peer,
    Verdict,
    associated,
    contexts_of,
    echo,
    judge,
    status_text,
    store,
)
from allpacs.deliver.commitment import NOT_SUPPORTED, request_commitment
from allpacs.deliver.comprehensive import as_comprehensive
from allpacs.deliver.kept_association import KeptAssociation
from allpacs.dicom.commitment import Reference
from allpacs.dicom.status import DUPLICATE_SOP_INSTANCE, SUCCESS
from allpacs.dicom.tls import Tls
from allpacs.domain.artefacts import DICOM, Artefact, Asked, Commitment, Receipt
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import is_uid

__all__ = ["MAX_CONTEXTS", "CStoreDestination", "SentFile", "echo", "send_files"]

_log = structlog.get_logger(__name__)

CommitmentPolicy = Literal["when_offered", "always", "never"]

#: For how long a peer that offered no storage commitment is not asked for it again, seconds.
_ASK_AGAIN_S = 300.0

#: What reading a broken file raises.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError,
    RecursionError, struct.error, zlib.error,
)  # fmt: skip


class _Stale(Exception):
    """An association that was kept is of no use any more."""


class CStoreDestination:
    """Sends DICOM results to a Storage SCP: all of a delivery, and of deliveries that follow, on one association.

    Parameters
    ----------
    timeout_s, tls:
        See `Peer`.
    commitment:
        Whether results are delivered only when the peer has committed to them: where it offers that, always (a peer
        that does not offer it is a fault), or never.
    commitment_within_s:
        How long the peer's answer is waited for before it is asked again, seconds.
    commitment_wait_s:
        How long the association stays open for an answer, seconds; later ones come to our receiver.
    """

    audit_event = AuditEvent.INSTANCES_SENT

    def __init__(
        self,
        host: str,
        port: int,
        called_ae: str,
        calling_ae: str,
        *,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
        commitment: CommitmentPolicy = "when_offered",
        commitment_within_s: float = 600.0,
        commitment_wait_s: float = 1.0,
    ) -> None:
        self._peer = Peer(host, port, called_ae, calling_ae, timeout_s, tls)
        self._commitment = commitment
        self.commitment_within_s = commitment_within_s
        self._commitment_wait_s = commitment_wait_s
        self._takes_3d: bool | None = None  # negotiated with each association
        self._kept = KeptAssociation(self._peer)
        self._no_commitment_until = 0.0

    @property
    def takes(self) -> frozenset[str]:
        """DICOM objects."""
        return frozenset({DICOM})

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
        objects = [_read(artefact) for artefact in artefacts if artefact.is_taken_by(self.takes)]
        if not objects:
            return Receipt(detail="nothing sent")
        try:
            return self._send(objects)
        except _Stale:  # the peer ended the association after the delivery before: with a new one all are sent again
            return self._send(objects)

    def _send(self, objects: Sequence[Dataset]) -> Receipt:
        """Send the objects on one association.

        Raises
        ------
        _Stale
            It was kept from an earlier delivery, and the peer answered nothing on it.
        DeliveryUnavailable, DeliveryRejected
            See `deliver`.
        """
        statuses: list[int] = []
        later = ""
        never: list[str] = []
        with self._kept.lent(_offered(objects)) as (association, kept):
            self._takes_3d = _takes_3d(association)
            for message_id, dataset in enumerate(_as_taken(objects, self._takes_3d), start=1):
                try:
                    status = store(association, dataset, message_id % 0x10000)
                except DeliveryRejected as rejected:
                    never.append(rejected.reason)
                    continue
                except DeliveryUnavailable:
                    if kept and not statuses:
                        raise _Stale from None
                    raise
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

    def request_commitment(self, artefacts: Sequence[Artefact], transaction_uid: str) -> Commitment:
        """Ask for Storage Commitment of what was sent (PS3.4 Annex J).

        Raises
        ------
        DeliveryUnavailable
            No association, or no answer to the request.
        DeliveryRejected
            No association for good; or commitment is required and not offered.
        """
        objects = [_read(artefact) for artefact in artefacts if artefact.is_taken_by(self.takes)]
        if self._commitment == "never" or not objects:
            return Commitment(Asked.NOT_OFFERED, "")
        if self._takes_3d is None:  # sent by a process that has ended since
            with associated(self._peer, _offered(objects)) as association:
                self._takes_3d = _takes_3d(association)
        objects = _as_taken(objects, self._takes_3d)
        references = [Reference(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in objects]
        if self._commitment == "when_offered" and time.monotonic() < self._no_commitment_until:
            return NOT_SUPPORTED
        self._kept.close()  # a peer may hold only one of ours
        said = request_commitment(self._peer, transaction_uid, references, wait_s=self._commitment_wait_s)
        if said == NOT_SUPPORTED:  # a refusal of one request says nothing of the next
            self._no_commitment_until = time.monotonic() + _ASK_AGAIN_S
        if said.asked is Asked.NOT_OFFERED and self._commitment == "always":
            raise DeliveryRejected(f"{self._peer.name}: {said.reason}; enable it there, or set commitment otherwise")
        return said

    def check(self) -> str:
        """Ask by C-ECHO (PS3.4 Annex A).

        Raises
        ------
        DeliveryUnavailable
            No association, or a status other than 0x0000.
        """
        peer = self._peer
        return echo(peer.host, peer.port, peer.called_ae, peer.calling_ae, timeout_s=peer.timeout_s, tls=peer.tls)


def _offered(objects: Sequence[Dataset]) -> list[Context]:
    """Return the contexts for some objects: for a Comprehensive 3D SR also those of a Comprehensive SR."""
    contexts: set[Context] = set().union(*map(contexts_of, objects))
    contexts |= {(ComprehensiveSRStorage, syntax) for cls, syntax in contexts if cls == Comprehensive3DSRStorage}
    return sorted(contexts)


def _takes_3d(association: Association) -> bool:
    """Whether the peer takes Comprehensive 3D SR as it is; False where it has accepted Comprehensive SR only."""
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    return Comprehensive3DSRStorage in accepted or ComprehensiveSRStorage not in accepted


def _as_taken(objects: Sequence[Dataset], takes_3d: bool) -> list[Dataset]:
    def as_taken(one: Dataset) -> Dataset:
        return as_comprehensive(one) if one.SOPClassUID == Comprehensive3DSRStorage and not takes_3d else one

    return [as_taken(one) for one in objects]


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
        """Whether the peer has it now. After 0x0111 it has something else under that UID, or does not say."""
        return self.status not in (None, DUPLICATE_SOP_INSTANCE) and judge(self.status) in (
            Verdict.STORED,
            Verdict.WARNING,
        )

    @property
    def warned(self) -> bool:
        """Whether the peer has it and said that something about it is not as it should be."""
        return self.stored and self.status != SUCCESS


def send_files(
    paths: Iterable[Path],
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    progress: Callable[[SentFile], None] | None = None,
    *,
    timeout_s: float = 30.0,
    tls: Tls | None = None,
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
            with associated(peer, contexts) as association:
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
        status = store(association, dataset, message_id)
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


def _batches(
    headers: Sequence[tuple[Path, Dataset]],
) -> Iterator[tuple[list[Context], list[tuple[Path, Dataset]]]]:
    """Split, in order, into runs whose contexts fit one association."""
    contexts: set[Context] = set()
    batch: list[tuple[Path, Dataset]] = []
    for path, header in headers:
        needed = contexts | contexts_of(header)
        if len(needed) > MAX_CONTEXTS:
            yield sorted(contexts), batch
            needed, batch = contexts_of(header), []
        contexts = needed
        batch.append((path, header))
    if batch:
        yield sorted(contexts), batch
