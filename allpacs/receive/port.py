"""The port that received instances leave through: whatever keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from allpacs.domain.instance import InstanceIdentity

#: Bytes in memory, copied nowhere on their way to the disk.
Buffer = bytes | bytearray | memoryview


class Sink(Protocol):
    """Keeps instances durably. Times are UTC seconds since the epoch."""

    def keep_instance(
        self,
        identity: InstanceIdentity,
        file_meta: Buffer,
        data_set: Buffer,
        *,
        calling_ae: str,
        received_at: float,
        quiet_s: float,
        max_age_s: float,
    ) -> Literal["stored", "same"]:
        """Keep an instance; when this returns, its bytes and its row are on disk.

        The file is `file_meta` (preamble, ``DICM``, File Meta Information) followed by `data_set`. The buffers belong
        to the caller, and are not read after the return.

        Raises
        ------
        InstanceRefused
            0x0111: other bytes are kept under this SOP Instance UID.
        StoreFault
            The instance could not be kept.
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

    def free_bytes(self) -> int:
        """Return how much disk is left.

        Raises
        ------
        StoreFault
            The disk cannot be asked.
        """
