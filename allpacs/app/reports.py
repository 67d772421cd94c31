"""Which report formats the configuration asks for, and whether this machine can write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from allpacs.settings import Settings


def format_checks(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the check of each report format that has one and is asked for, with the name of what asks for it.

    A check returns one line for the operator and raises ConfigFault if the format cannot be written here.
    """
    from allpacs.report.format import formats

    for format_ in formats():
        asked_for = format_.setting is None or bool(getattr(settings.report, format_.setting))
        if format_.check is not None and asked_for:
            yield f"report.{format_.setting or format_.kind}", format_.check
