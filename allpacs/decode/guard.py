"""Turns what third-party parsers and decoders raise into a fault of the sender, unless it is this machine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from allpacs.domain.away import open_fault
from allpacs.domain.errors import AllpacsError, StoreFault, UndecodablePixels


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises
    ------
    StoreDamaged
        It is gone, or cannot be opened.
    StoreFault
        Its file system is away, or this process has too many open files: it can be opened later.
    """
    try:
        file = path.open("rb")
    except OSError as fault:
        # A kept image lies in its study's folder, and that in the spool.
        raise open_fault(path.absolute().parent.parent, fault, "the file cannot be opened") from None
    with file:
        yield file


def machine_fault(error: Exception, what: str) -> StoreFault | None:
    """Return the fault of this machine that an exception tells of, or None: memory, or a file that cannot be used.

    Decoders raise `OSError` for broken bytes, too, but without the error number of an operating system.
    """
    if isinstance(error, MemoryError):
        return StoreFault(f"{what}: not enough memory")
    if isinstance(error, OSError) and error.errno is not None:
        return StoreFault(f"{what}: {error.strerror}")
    return None


@contextmanager
def as_input_fault(reason: str) -> Iterator[None]:
    """Turn whatever broken bytes raise inside into the sender's fault, and trouble of this machine into its own.

    The message names the exception's type only: its text, and its traceback, may quote header values.

    Raises
    ------
    UndecodablePixels
        With the reason as its one line.
    StoreFault
        The disk is full, a file cannot be read, or there is not enough memory. The sender is not to blame, and the
        same bytes can be read later.
    """
    try:
        yield
    except AllpacsError:
        raise
    except Exception as fault:  # noqa: BLE001 - broken bytes make foreign parsers and decoders raise anything at all
        raise machine_fault(fault, reason) or UndecodablePixels(f"{reason} ({type(fault).__name__})") from None
