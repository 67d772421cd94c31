"""What a person asks for again: a reading that failed, deliveries that were given up."""

from __future__ import annotations

from dataclasses import dataclass

from allpacs.store.store import Store


@dataclass(frozen=True, slots=True)
class RetryResult:
    """What will be done again.

    Attributes
    ----------
    read:
        The revision that will be read again, or None.
    delivered:
        Revision and destination of each delivery that will be tried again.
    """

    read: int | None
    delivered: tuple[tuple[int, str], ...]

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to do again."""
        return self.read is None and not self.delivered


def retry_study(store: Store, study_uid: str, *, now: float) -> RetryResult:
    """Read a study again that needs attention, and deliver again what was given up; doing so twice changes nothing."""
    revision = store.revisions.read_again(study_uid)
    revived = store.deliveries.revive(study_uid, now=now)
    for revised, _ in revived:
        store.revisions.settle(study_uid, revised, now=now)
    return RetryResult(revision, tuple(revived))
