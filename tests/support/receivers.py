"""Receivers with a short way to write their settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from allpacs.receive.config import ReceiverConfig
from allpacs.receive.scp import StorageScp
from allpacs.receive.sink import Sink

_SETTINGS = {field.name for field in fields(ReceiverConfig)}


def make_scp(sink: Sink, *, ae_title: str = "ALLPACS", **arguments: Any) -> StorageScp:
    """Return a receiver; arguments are fields of `ReceiverConfig` or parameters of `StorageScp`."""
    settings = {name: value for name, value in arguments.items() if name in _SETTINGS and value is not None}
    others = {name: value for name, value in arguments.items() if name not in _SETTINGS}
    return StorageScp(sink, ReceiverConfig(ae_title=ae_title, **settings), **others)
