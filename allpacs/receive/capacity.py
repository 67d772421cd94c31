"""Whether there is room for an instance: disk, work that waits, and each source's share.

Above a limit instances are refused with 0xA700, so that the sender keeps them and tries again; they are taken again
only when there is clearly more room (hysteresis), not at each file that is deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from allpacs.domain.errors import StoreFault
from allpacs.receive.sink import Sink

#: Between two questions for the length of the queue, seconds.
_ASK_EVERY_S = 1.0
#: The queue has to be this much shorter than its limit again.
_SHORTER = 0.9


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    """When instances are refused.

    Attributes
    ----------
    min_free_bytes, resume_free_bytes:
        Refused below the first, taken again from the second on.
    max_waiting:
        Revisions that wait to be read, at most; None: no limit.
    """

    min_free_bytes: int = 0
    resume_free_bytes: int = 0
    max_waiting: int | None = None


class Capacity:
    """Remembers whether instances are refused; shared by all associations."""

    def __init__(self, sink: Sink, limits: CapacityLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._disk_full = False
        self._queue_full = False
        self._asked_at = float("-inf")

    def check(self, coming_bytes: int) -> None:
        """Return where an instance of so many bytes may come.

        Raises
        ------
        StoreFault
            It may not; the message says what is short.
        """
        left = self._sink.free_bytes() - coming_bytes
        with self._lock:
            needed = self._limits.resume_free_bytes if self._disk_full else 0
            self._disk_full = left < max(self._limits.min_free_bytes, needed)
            if self._disk_full:
                raise StoreFault("not enough free disk")
            self._look_at_queue()
            if self._queue_full:
                raise StoreFault("too many studies wait to be read")

    def _look_at_queue(self) -> None:
        limit = self._limits.max_waiting
        if limit is None or self._clock() - self._asked_at < _ASK_EVERY_S:
            return
        self._asked_at = self._clock()
        waiting = self._sink.waiting()
        self._queue_full = waiting > (limit * _SHORTER if self._queue_full else limit)


class RateLimit:
    """How many instances a second one source may send; faster ones are held back, which slows the sender down.

    A token bucket: `burst` instances at once, then `per_s`.
    """

    def __init__(
        self,
        per_s: float,
        burst: int = 20,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = float(burst)
        self._at = clock()

    def wait(self) -> float:
        """Take one instance's share, wait until it is due, and return for how long that was, seconds."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s) - 1
            self._at = now
            wait_s = max(0.0, -self._tokens / self._per_s)
        if wait_s:
            self._sleep(wait_s)
        return wait_s
