"""A limit on the memory of all unfinished messages together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Memory:
    """Bytes of unfinished messages, of all associations together.

    Above half of the limit everybody waits but the message that began first, which may fill the other half: so one
    always gets on, and its network pushes back on the others. A message that is larger than half of the limit is
    never taken.
    """

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._half = limit_bytes // 2
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[Any, int] = {}  # in order of the messages' beginnings

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        with self._changed:
            return sum(self._held.values())

    def take(self, owner: Any, count: int, wait_s: float) -> bool:
        """Count further bytes of an owner's message; wait while there is no room. False: its message is given up."""
        deadline = self._clock() + wait_s
        with self._changed:
            self._held[owner] = self._held.get(owner, 0) + count
            while sum(self._held.values()) > self._half and next(iter(self._held)) is not owner:
                if not self._changed.wait(max(0.0, min(1.0, deadline - self._clock()))) and self._clock() >= deadline:
                    break
            if self._held.get(owner, 0) > self._half:
                self._drop(owner)
                return False
            return owner in self._held

    def give_back(self, owner: Any) -> None:
        """Count an owner's message as over."""
        with self._changed:
            self._drop(owner)

    def _drop(self, owner: Any) -> None:
        self._held.pop(owner, None)
        self._changed.notify_all()
