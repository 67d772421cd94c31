"""Keeps a fault of allpacs itself within the frame or region where it happens."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from allpacs.decode.guard import machine_fault
from allpacs.domain.errors import AllpacsError, InternalFault

_PACKAGE = Path(__file__).parents[1]

_log = structlog.get_logger("allpacs.study")


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Turn an unexpected exception into an `InternalFault` that names its type, and log where it was raised.

    Exception texts and local values stay out of message and log, for they may quote header values.

    Raises
    ------
    InternalFault
        Something unexpected was raised: a bug, to be reported with the log line.
    StoreFault
        This machine has no memory or no file for it now.
    """
    try:
        yield
    except AllpacsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, other frames and studies go on
        raise machine_fault(error, what) or _internal(what, error) from None


def _internal(what: str, error: Exception) -> InternalFault:
    places = [place for place in traceback.extract_tb(error.__traceback__) if place.filename != __file__]
    ours = [place for place in places if Path(place.filename).is_relative_to(_PACKAGE)] or places
    raised_at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    _log.error("internal_error", reason=f"{what}: {type(error).__name__} at {raised_at}")
    return InternalFault(f"{what}: internal error ({type(error).__name__})")
