"""What the index gives back: frozen rows, and the states they go through.

A study is ``receiving`` until it has been quiet long enough; closing it makes a revision, which then moves
``queued → reading → reported → delivered``, or ends as ``attention`` (a person has to look) or ``superseded``. A study
that is not receiving is in the state of its latest revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

#: State of a study that still takes instances; otherwise it is in the state of its latest revision.
RECEIVING = "receiving"


class RevisionState(StrEnum):
    """Where the reading of one revision stands."""

    QUEUED = "queued"
    READING = "reading"
    REPORTED = "reported"
    DELIVERED = "delivered"
    ATTENTION = "attention"
    SUPERSEDED = "superseded"


#: States in which a revision asks for nothing more of the worker's model.
READ = (RevisionState.REPORTED, RevisionState.DELIVERED, RevisionState.ATTENTION, RevisionState.SUPERSEDED)


class DeliveryState(StrEnum):
    """Where the delivery to one destination stands; ``sent`` and ``committed`` are final."""

    QUEUED = "queued"
    SENDING = "sending"
    RETRYING = "retrying"
    UNCOMMITTED = "uncommitted"  # sent; the destination has been asked to commit to it and has not answered yet
    SENT = "sent"  # to a destination that does not offer to commit
    COMMITTED = "committed"
    DEAD = "dead"


#: States of a delivery that has done its work.
ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study.

    Attributes
    ----------
    state:
        `RECEIVING` or a `RevisionState`.
    revision:
        Last closed revision; 0 where none has been closed yet.
    due_at:
        When the study is to be closed, or None where it is not receiving.
    instances:
        Instances of all revisions, and of the one still open.
    """

    study_uid: str
    source_ae: str
    state: str
    revision: int
    opened_at: float
    last_received_at: float
    due_at: float | None
    instances: int


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One stored SOP Instance.

    Attributes
    ----------
    path:
        Absolute path of the Part 10 file.
    sha256:
        64 hexadecimal digits over the data set as it was sent (without file meta information).
    revision:
        Revision that first included it, or None where none has yet.
    """

    sop_instance_uid: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    received_at: float
    path: Path
    size_bytes: int
    sha256: str
    revision: int | None


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """One closed revision of a study, and how far its reading has come.

    Attributes
    ----------
    attempts:
        How often its reading was asked for: 1, and one more for each retry.
    pieces, pieces_read:
        How many pieces its reading has, and how many of them are done; None where it has not been planned.
    size_bytes:
        What the study's instances had together when it closed; 0 where a person signed and no pixels are read again.
    """

    study_uid: str
    revision: int
    state: RevisionState
    created_at: float
    finished_at: float | None
    reason: str | None
    bundle_digest: str | None
    attempts: int
    pieces: int | None = None
    pieces_read: int | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One destination of one revision.

    Attributes
    ----------
    attempts:
        Attempts begun so far.
    attempts_forgiven:
        How many of them were made before a person asked for the delivery again: they do not count towards giving up.
    next_attempt_at:
        When a delivery that is retried, or not committed to, is due again.
    sent_at:
        When the destination took the results; None where it has not, or did not commit to them.
    """

    study_uid: str
    revision: int
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: float | None
    reason: str | None
    updated_at: float
    attempts_forgiven: int = 0
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class CommitmentRow:
    """What a destination answered when it was asked to commit to the results of one attempt.

    Attributes
    ----------
    reason:
        Why it did not, in one line; None where it did.
    """

    transaction_uid: str
    study_uid: str
    revision: int
    destination: str
    attempt: int
    committed: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class PendingReport:
    """What a sender asked us to commit to and has not been told yet.

    Attributes
    ----------
    instances:
        SOP Class and SOP Instance UID of each.
    attempts:
        How often it could not be told.
    """

    calling_ae: str
    transaction_uid: str
    instances: tuple[tuple[str, str], ...]
    received_at: float
    attempts: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One event worth keeping: UIDs, AE titles, statuses and reasons only."""

    at: float
    event: str
    study_uid: str | None
    sop_instance_uid: str | None
    calling_ae: str | None
    status: int | None
    reason: str | None
