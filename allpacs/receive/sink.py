"""The port that received instances leave through: whatever keeps them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Literal, Protocol

from allpacs.domain.instance import InstanceIdentity

#: Bytes in memory, copied nowhere on their way to the disk.
Buffer = bytes | bytearray | memoryview
#: The same, or a file of them; where in it the caller has come to does not matter.
Content = Buffer | BinaryIO


class Sink(Protocol):
    """Keeps instances durably. Times are UTC seconds since the epoch."""

    def keep_instance(
        self,
        identity: InstanceIdentity,
        file_meta: Buffer,
        data_set: Content,
        *,
        calling_ae: str,
        received_at: float,
        quiet_s: float,
        max_age_s: float,
    ) -> Literal["stored", "same"]:
        """Keep an instance; when this returns, its bytes and its row are on disk.

        The file is `file_meta` (preamble, ``DICM``, File Meta Information) followed by `data_set`. Both belong to the
        caller, and are not read after the return.

        Raises
        ------
        InstanceRefused
            0x0111: other bytes are kept under this SOP Instance UID.
        StoreFault
            The instance could not be kept.
        """

    def scratch(self) -> BinaryIO:
        """Return a new file, to write and to read, on the disk that instances are kept on; closed, it is gone.

        Raises
        ------
        StoreFault
            There can be none.
        """

    def note_refusal(
        self, *, at: float, calling_ae: str, sop_instance_uid: str | None, status: int, reason: str
    ) -> None:
        """Keep a record of an instance that was not admitted.

        Raises
        ------
        StoreFault
            The record could not be kept.
        """

    def association_ended(self, study_uids: Iterable[str], now: float) -> None:
        """Make those of the studies that still receive due at once.

        Raises
        ------
        StoreFault
            The studies could not be changed; they will be due when they have been quiet.
        """

    def count_reached(self, study_uid: str, instances: int, now: float) -> bool:
        """Make a study that still receives due at once where so many of its instances are kept; return whether it is.

        Raises
        ------
        StoreFault
            The study could not be changed; it will be due when it has been quiet.
        """

    def free_bytes(self) -> int:
        """Return how much disk is left.

        Raises
        ------
        StoreFault
            The disk cannot be asked.
        """

    def waiting(self) -> int:
        """Return how many revisions wait to be read.

        Raises
        ------
        StoreFault
            The index cannot be asked.
        """


class PendingReport(Protocol):
    """What a sender asked us to commit to and has not been told yet."""

    @property
    def calling_ae(self) -> str:
        """Who asked."""

    @property
    def transaction_uid(self) -> str:
        """The name it gave the question."""

    @property
    def instances(self) -> tuple[tuple[str, str], ...]:
        """SOP Class and SOP Instance UID of each instance."""

    @property
    def received_at(self) -> float:
        """When it asked."""

    @property
    def attempts(self) -> int:
        """How often it could not be told."""


class CommitmentSink(Protocol):
    """Remembers both sides of Storage Commitment durably; every call may raise `StoreFault`."""

    def schedule(
        self, calling_ae: str, transaction_uid: str, instances: Iterable[tuple[str, str]], *, now: float, due_at: float
    ) -> None:
        """Note what a sender asked."""

    def due(self, now: float) -> Sequence[PendingReport]:
        """Return what is to be answered now."""

    def postpone(self, pending: Any, until: float) -> bool:
        """Claim a report and set its next attempt; return False if another process has claimed it."""

    def confirm(self, pending: Any) -> None:
        """Note that it has been answered, or cannot be."""

    def held(self, sop_instance_uids: Sequence[str]) -> Mapping[str, str]:
        """Return the SOP Class UID of those instances that are kept."""

    def answered(self, transaction_uid: str, committed: Collection[str], failure: str | None) -> bool:
        """Note what a peer answered to us, and return whether it was asked."""


class TransferAudit(Protocol):
    """Is told what is to be in the audit trail; returns when it is kept, and never raises."""

    def received(self, calling_ae: str, address: str, studies: list[str], instances: int, refused: int) -> None:
        """An association brought instances."""

    def refused(self, who: str, address: str, reason: str) -> None:
        """Somebody who does not belong tried to connect."""
