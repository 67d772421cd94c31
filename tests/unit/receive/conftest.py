"""Receivers on free ports with a real store behind them, and peers that associate with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from receive_peer import TRANSFER_SYNTAXES, Peer
from support.receivers import make_scp


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def receiver(store: Store) -> Iterator[Callable[..., StorageScp]]:
    """Start receivers; arguments are those of `StorageScp`."""
    started: list[StorageScp] = []

    def start(sink: Any = None, **arguments: Any) -> StorageScp:
        scp = make_scp(
            sink or store.receiving, **{"ae_title": "ALLPACS", "transfer_syntaxes": TRANSFER_SYNTAXES, **arguments}
        )
        scp.start()
        started.append(scp)
        return scp

    yield start
    for scp in started:
        scp.stop(grace_s=0.0)


@pytest.fixture
def connect() -> Iterator[Callable[..., Peer]]:
    """Associate peers; arguments are those of `Peer`."""
    peers: list[Peer] = []

    def associate(port: int, **arguments: Any) -> Peer:
        peer = Peer(port, **arguments)
        peers.append(peer)
        return peer

    yield associate
    for peer in peers:
        if peer.established:
            peer.release()


@pytest.fixture
def peer(receiver: Callable[..., StorageScp], connect: Callable[..., Peer]) -> Peer:
    """A peer associated with a receiver of default settings."""
    return connect(receiver().port)
