"""A peer that is a server: one process, started with the block, asked until it answers, ended with the block."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

#: Longest wait for a server that starts, and for one that was told to end, seconds.
_STARTS_S, _ENDS_S = 60.0, 30.0


@contextmanager
def server(
    command: Sequence[str], log: Path, answers: Callable[[], object], *, folder: Path | None = None
) -> Iterator[None]:
    """Run a server while the block runs.

    Parameters
    ----------
    log:
        Where it writes what it says.
    answers:
        Asks it something; raises `httpx.HTTPError` while it does not answer.
    folder:
        Where it runs; None: here.

    Raises
    ------
    httpx.HTTPError
        It ended, or did not answer in time.
    """
    with log.open("wb") as words:
        process = subprocess.Popen(command, cwd=folder, stdout=words, stderr=words)
    try:
        until = time.monotonic() + _STARTS_S
        while True:
            try:
                answers()
                break
            except httpx.HTTPError:
                if time.monotonic() > until or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_ENDS_S)
