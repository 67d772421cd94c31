"""The processes of one machine that can be asked how they are."""

from __future__ import annotations

from enum import StrEnum


class Process(StrEnum):
    """Who can be asked."""

    RECEIVE = "receive"
    WORK = "work"
