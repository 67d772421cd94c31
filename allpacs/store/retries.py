"""What a person asks for again: an analysis or deliveries that failed."""

from __future__ import annotations

from collections.abc import Collection
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
    moved:
        Revision and old destination of each delivery that goes to another destination now.
    """

    read: int | None
    delivered: tuple[tuple[int, str], ...]
    moved: tuple[tuple[int, str], ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to do again."""
        return self.read is None and not self.delivered and not self.moved


def retry_study(
    store: Store, study_uid: str, *, now: float, to: str | None = None, configured: Collection[str] = ()
) -> RetryResult:
    """Analyse a study again that needs attention, and repeat its failed deliveries; doing so twice changes nothing.

    Parameters
    ----------
    to:
        Destination that takes over the results of destinations that are not `configured` any more; None: nobody.
    configured:
        Names of all configured destinations.
    """
    moved = [] if to is None else store.deliveries.retarget(study_uid, to, configured, now=now)
    for revised, _ in moved:
        store.revisions.settle(study_uid, revised, now=now)
    revision = store.revisions.read_again(study_uid)
    revived = store.deliveries.revive(study_uid, now=now)
    for revised, _ in revived:
        store.revisions.settle(study_uid, revised, now=now)
    return RetryResult(revision, tuple(revived), tuple(moved))
