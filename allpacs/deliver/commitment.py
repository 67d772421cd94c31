"""Storage Commitment as SCU: asking a PACS to vouch for what it has taken.

The answer comes on the same association while it is open, or later on one that the PACS opens to our receiver.

Source: PS3.4 Annex J, PS3.7 section 10.1.1 (N-EVENT-REPORT) and 10.1.4 (N-ACTION).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt

from allpacs.deliver.association import NoContextAccepted, Peer, associated
from allpacs.dicom.commitment import (
    REQUEST,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    Answer,
    Reference,
    action_information,
    event_information,
    read_event,
)
from allpacs.dicom.status import SUCCESS
from allpacs.domain.artefacts import Asked, Commitment
from allpacs.domain.errors import DeliveryUnavailable, InputFault

#: A moment for an answer of a few bytes.
_TELLING_S = 5.0
_CONTEXTS = [(SOP_CLASS_UID, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]


#: The peer accepts no presentation context for storage commitment, whatever it is asked about.
NOT_SUPPORTED = Commitment(Asked.NOT_OFFERED, "storage commitment not offered")


def request_commitment(
    peer: Peer, transaction_uid: str, references: Sequence[Reference], *, wait_s: float
) -> Commitment:
    """Ask a peer to commit to objects that it has taken, and wait a moment for its answer.

    Raises
    ------
    DeliveryUnavailable
        It did not answer the request; whether it will answer later is unknown.
    DeliveryRejected
        No association with it, for good.
    """
    answers: list[Answer] = []
    answered, told = threading.Event(), threading.Event()

    def on_event_report(event: evt.Event) -> tuple[int, None]:
        try:
            answer = read_event(event.event_information)
        except (InputFault, ValueError, AttributeError, TypeError):
            return 0x0115, None  # invalid argument value (PS3.7 C.4.3)
        if answer.transaction_uid == transaction_uid:
            answers.append(answer)
            answered.set()
        return 0x0000, None

    def on_sent(_event: evt.Event) -> None:
        if answered.is_set():  # then this is what we have answered to it
            told.set()

    handlers = [(evt.EVT_N_EVENT_REPORT, on_event_report), (evt.EVT_PDU_SENT, on_sent)]
    try:
        with associated(peer, _CONTEXTS, handlers) as association:
            status, _ = association.send_n_action(
                action_information(transaction_uid, references), REQUEST, SOP_CLASS_UID, SOP_INSTANCE_UID
            )
            if "Status" not in status:
                raise DeliveryUnavailable(f"{peer.name}: no answer to the storage commitment request")
            if status.Status != SUCCESS:
                return Commitment(Asked.NOT_OFFERED, f"storage commitment refused (0x{status.Status:04X})")
            if answered.wait(wait_s):
                # Released before, the association would have no place for our answer: the library's thread ends over
                # it, and the release waits for its time-out.
                told.wait(_TELLING_S)
    except NoContextAccepted:
        return NOT_SUPPORTED
    except RuntimeError:  # aborted since we looked
        raise DeliveryUnavailable(f"{peer.name}: the association was aborted by the peer") from None
    if not answers:
        return Commitment(Asked.PENDING, "storage commitment asked for")
    return judged(answers[0], references)


def judged(answer: Answer, references: Sequence[Reference]) -> Commitment:
    """Judge an answer: everything that was asked about has to be in it."""
    if answer.reason is not None:
        return Commitment(Asked.FAILED, answer.reason)
    missing = {one.sop_instance_uid for one in references} - {one.sop_instance_uid for one in answer.committed}
    if missing:
        return Commitment(Asked.FAILED, f"storage commitment says nothing of {len(missing)} objects")
    return Commitment(Asked.COMMITTED, "committed")


def report_commitment(peer: Peer, answer: Answer) -> None:
    """Tell a sender, on an association of our own, what we commit to.

    Raises
    ------
    DeliveryUnavailable, DeliveryRejected
        It could not be told.
    """
    with associated(peer, _CONTEXTS, as_scp=True) as association:
        try:
            status, _ = association.send_n_event_report(
                event_information(answer), answer.event_type, SOP_CLASS_UID, SOP_INSTANCE_UID
            )
        except (RuntimeError, ValueError):
            raise DeliveryUnavailable(f"{peer.name}: the association was aborted by the peer") from None
    if "Status" not in status:
        raise DeliveryUnavailable(f"{peer.name}: no answer to the storage commitment report")
    if status.Status != SUCCESS:
        raise DeliveryUnavailable(f"{peer.name}: storage commitment report answered 0x{status.Status:04X}")
