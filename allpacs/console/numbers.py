"""Whole numbers that a visitor wrote: in an address, a query or a header."""

from __future__ import annotations

#: A number of more digits is none of ours: it would not fit the database, and Python takes time to read it.
_MOST_DIGITS = 15


def whole_number(text: str) -> int | None:
    """Return a number from 0 of at most 15 ASCII digits, or None where the text is something else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None
