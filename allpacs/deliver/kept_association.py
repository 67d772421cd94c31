"""One association to a peer, kept open for a moment, so that results which follow one another share it.

To associate and to release takes longer than to send a report. A peer that ends the association in between is no
failure: a new one is requested.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pynetdicom.association import Association

from allpacs.deliver.association import MAX_CONTEXTS, Context, Peer, associated

#: How long an association that is not used stays open, seconds: short, since peers limit how many they hold.
IDLE_S = 2.0


class KeptAssociation:
    """Lends the association to one user at a time.

    Parameters
    ----------
    idle_s:
        After this many seconds without use it is released.
    """

    def __init__(self, peer: Peer, idle_s: float = IDLE_S) -> None:
        self._peer, self._idle_s = peer, idle_s
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._association: Association | None = None
        self._contexts: frozenset[Context] = frozenset()
        self._timer: threading.Timer | None = None

    @contextmanager
    def lent(self, contexts: Sequence[Context]) -> Iterator[tuple[Association, bool]]:
        """Give an association with these contexts, and whether it was open already; abort it if the body raises.

        While another thread has it, a second one is requested and released at the end.

        Raises
        ------
        DeliveryUnavailable, DeliveryRejected
            The association does not come about, for now or for good.
        """
        if not self._lock.acquire(blocking=False):
            with associated(self._peer, contexts) as association:
                yield association, False
            return
        try:
            self._stop_timer()
            kept = self._fits(contexts)
            if not kept:
                self._associate(contexts)
            assert self._association is not None  # noqa: S101 - for the type checker
            try:
                yield self._association, kept
            except BaseException as failure:
                self._forget(failure)
                raise
            self._timer = threading.Timer(self._idle_s, self.close)
            self._timer.start()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Release the association, unless it is in use."""
        if self._lock.acquire(blocking=False):
            try:
                self._stop_timer()
                self._forget(None)
            finally:
                self._lock.release()

    def _fits(self, contexts: Sequence[Context]) -> bool:
        alive = self._association is not None and bool(self._association.is_established)
        return alive and self._contexts.issuperset(contexts)

    def _associate(self, contexts: Sequence[Context]) -> None:
        """Replace the association by one with these contexts and, if they fit, those of the one before."""
        wanted = self._contexts.union(contexts)
        self._forget(None)
        offered = frozenset(contexts) if len(wanted) > MAX_CONTEXTS else wanted
        self._association = self._open.enter_context(associated(self._peer, sorted(offered)))
        self._contexts = offered

    def _forget(self, failure: BaseException | None) -> None:
        """Release the association, or abort it after a failure; one that the peer has ended is only forgotten."""
        gone, self._open = self._open, ExitStack()
        alive = self._association is not None and bool(self._association.is_established)
        self._association, self._contexts = None, frozenset()
        if failure is not None:
            gone.__exit__(type(failure), failure, failure.__traceback__)
        elif alive:
            gone.close()
        else:
            gone.pop_all()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
