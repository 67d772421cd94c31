"""Keeps what third-party parsers and decoders raise on hostile bytes from escaping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from allpacs.domain.errors import AllpacsError, StoreDamaged, UndecodablePixels


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises
    ------
    StoreDamaged
        It cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as fault:
        raise StoreDamaged(f"the file cannot be opened: {fault.strerror}") from None
    with file:
        yield file


@contextmanager
def as_input_fault(reason: str) -> Iterator[None]:
    """Turn whatever is raised inside into the sender's fault.

    The message names the exception's type only: its text, and its traceback, may quote header values.

    Raises
    ------
    UndecodablePixels
        With the reason as its one line.
    """
    try:
        yield
    except AllpacsError:
        raise
    except Exception as fault:  # noqa: BLE001 - broken bytes make foreign parsers and decoders raise anything at all
        raise UndecodablePixels(f"{reason} ({type(fault).__name__})") from None
