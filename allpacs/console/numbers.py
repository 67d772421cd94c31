"""Whole numbers that a visitor wrote: in an address, a query or a header."""

from __future__ import annotations

import json
from typing import Any

from starlette.convertors import Convertor, register_url_convertor

#: A number of more digits is none of ours: it would not fit the database, and Python takes time to read it.
_MOST_DIGITS = 15


def whole_number(text: str) -> int | None:
    """Return a number from 0 of at most 15 ASCII digits, or None where the text is something else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def strict_json(body: bytes) -> Any:
    """Return the value of a JSON text (RFC 8259), which knows neither NaN nor infinity.

    Raises
    ------
    ValueError
        It is not JSON, is nested too deep, or has a number of thousands of digits.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def register_convertor() -> None:
    """Let routes say ``{name:number}``: a number of at most nine digits; an address with more is not found."""
    register_url_convertor("number", _Number())


class _Number(Convertor[int]):
    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)
