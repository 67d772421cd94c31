"""Free ports of loopback, and waiting for a state."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(reached: Callable[[], Any], timeout_s: float = 60.0, what: str = "the awaited state") -> Any:
    """Ask again and again until the answer is true, and return it."""
    until = time.monotonic() + timeout_s
    while True:
        answer = reached()
        if answer:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"{what} was not reached within {timeout_s:g} s")
        time.sleep(0.05)
