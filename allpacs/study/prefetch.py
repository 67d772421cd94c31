"""Work that is begun before it is asked for: the next chunk's cells are sought while the network judges this one's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Prefetcher(Generic[K, T]):
    """Results by key, each worked out once and handed out once; may be called from any thread.

    Parameters
    ----------
    threads:
        How many pieces of work are done at a time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._lock = threading.Lock()
        self._begun: dict[K, Future[T]] = {}

    def begin(self, key: K, work: Callable[[], T]) -> None:
        """Begin to work, unless that was begun already. What `work` raises, `take` raises."""
        with self._lock:
            if key not in self._begun:
                self._begun[key] = self._pool.submit(work)

    def take(self, key: K, work: Callable[[], T]) -> T:
        """Return what was begun under the key, waiting for its end, and forget it; else do the work here and now."""
        with self._lock:
            begun = self._begun.pop(key, None)
        # Nobody has started it yet: waiting for a free thread would take longer.
        return work() if begun is None or begun.cancel() else begun.result()

    def forget(self, which: Callable[[K], bool]) -> None:
        """Drop what was begun under some keys."""
        with self._lock:
            for key in [key for key in self._begun if which(key)]:
                self._begun.pop(key).cancel()
