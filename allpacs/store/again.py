"""What a person asks for again: a reading that failed, deliveries that were given up."""

from __future__ import annotations

from dataclasses import dataclass

from allpacs.store.store import Store


@dataclass(frozen=True, slots=True)
class AskedAgain:
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


def ask_again(store: Store, study_uid: str, *, now: float) -> AskedAgain:
    """Read a study again that needs attention, and deliver again what was given up; doing so twice changes nothing."""
    revision = store.revisions.read_again(study_uid)
    revived = store.deliveries.revive(study_uid, now=now)
    for revised, _ in revived:
        store.revisions.settle(study_uid, revised, now=now)
    return AskedAgain(revision, tuple(revived))
