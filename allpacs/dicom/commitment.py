"""The data sets of Storage Commitment, Push Model: what is asked, and what is answered.

Both sides need them: as an SCU we ask a PACS to commit to our results (`allpacs.deliver.commitment`), as an SCP our
senders ask us to commit to what they sent (`allpacs.receive.commitment`).

Source: PS3.4 Annex J; PS3.3 C.14 (failure reasons).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from allpacs.dicom.status import PROCESSING_FAILURE
from allpacs.domain.errors import InputFault
from allpacs.domain.identity import is_uid

#: Storage Commitment Push Model SOP Class and its one well-known SOP Instance.
SOP_CLASS_UID: Final = "1.2.840.10008.1.20.1"
SOP_INSTANCE_UID: Final = "1.2.840.10008.1.20.1.1"

#: Action Type ID of the request (PS3.4 Table J.3-1), Event Type IDs of the answer (Table J.3-3).
REQUEST: Final = 1
ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2

#: References of one request that are looked at, at most: a request is held in memory.
MOST_REFERENCES: Final = 50_000


@dataclass(frozen=True, slots=True)
class Reference:
    """One SOP Instance by its class and UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What an SCP answers to a request.

    Attributes
    ----------
    committed:
        What it vouches for.
    failed:
        What it does not, with the Failure Reason.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: Mapping[Reference, int] = field(default_factory=dict)

    @property
    def event_type(self) -> int:
        """Event Type ID of the N-EVENT-REPORT."""
        return SOME_FAILED if self.failed else ALL_COMMITTED

    @property
    def reason(self) -> str | None:
        """One line that says what is not committed and why; None where all is."""
        if not self.failed:
            return None
        reasons = sorted({f"0x{reason:04X}" for reason in self.failed.values()})
        return f"storage commitment failed for {len(self.failed)} objects ({', '.join(reasons)})"


def action_information(transaction_uid: str, references: Iterable[Reference]) -> Dataset:
    """Return the Action Information of a request (PS3.4 Table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = UID(transaction_uid)
    dataset.ReferencedSOPSequence = [_item(one) for one in references]
    return dataset


def event_information(answer: Answer) -> Dataset:
    """Return the Event Information of an answer (PS3.4 Table J.3-4)."""
    dataset = Dataset()
    dataset.TransactionUID = UID(answer.transaction_uid)
    if answer.committed:
        dataset.ReferencedSOPSequence = [_item(one) for one in answer.committed]
    if answer.failed:
        dataset.FailedSOPSequence = [_item(one, reason) for one, reason in answer.failed.items()]
    return dataset


def read_action(dataset: Dataset) -> tuple[str, tuple[Reference, ...]]:
    """Return transaction UID and references of a request.

    Raises
    ------
    InputFault
        It is none.
    """
    references = _references(dataset, "ReferencedSOPSequence")
    if not references:
        raise InputFault("a storage commitment request without references")
    return _transaction(dataset), tuple(references)


def read_event(dataset: Dataset) -> Answer:
    """Return the answer of an N-EVENT-REPORT.

    Raises
    ------
    InputFault
        It is none.
    """
    failed = _references(dataset, "FailedSOPSequence")
    return Answer(_transaction(dataset), tuple(_references(dataset, "ReferencedSOPSequence")), failed)


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(reference.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(reference.sop_instance_uid)
    if reason is not None:
        item.FailureReason = reason
    return item


def _transaction(dataset: Dataset) -> str:
    uid = str(dataset.get("TransactionUID", ""))
    if not is_uid(uid):
        raise InputFault("a storage commitment without a valid Transaction UID")
    return uid


def _references(dataset: Dataset, keyword: str) -> dict[Reference, int]:
    """Return the references of a sequence with their failure reasons, in order."""
    items = dataset.get(keyword) or []
    if len(items) > MOST_REFERENCES:
        raise InputFault(f"a storage commitment of more than {MOST_REFERENCES} references")
    found = {}
    for item in items:
        one = Reference(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        if not (is_uid(one.sop_class_uid) and is_uid(one.sop_instance_uid)):
            raise InputFault("a storage commitment with a reference that is none")
        reason = item.get("FailureReason")
        found[one] = reason if isinstance(reason, int) else PROCESSING_FAILURE
    return found
