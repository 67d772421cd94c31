"""Instances larger than the memory for messages: they go by disk while they are received."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom import Dataset, dcmread

from allpacs.domain.errors import StoreFault
from allpacs.receive.large import LargeDataSet
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from receive_peer import MICROSCOPIC, Peer, make_instance, store_command

Start = Callable[..., StorageScp]
Connect = Callable[..., Peer]

#: A quarter of it is large.
MEMORY_BYTES = 1_000_000


def large_instance(number: int, side: int = 400) -> Dataset:
    instance = make_instance(number)
    instance.Rows = instance.Columns = side
    instance.add_new(0x7FE00010, "OB", os.urandom(3 * side * side))
    return instance


def in_spool(store: Store) -> list[Path]:
    return [store.spool.folder / path for path in store.spool.files()]


def test_every_byte_is_kept_once_and_memory_stays_small(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(max_memory_bytes=MEMORY_BYTES)
    peer = connect(scp.port)
    sent = large_instance(1, side=2000)  # twelve times the memory
    most = 0
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, scp._memory.held_bytes)
            time.sleep(0.0005)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    assert peer.send(sent) == 0x0000
    assert peer.send(sent) == 0x0000  # the same again is no fault
    done.set()
    looking.join(5)
    assert most < MEMORY_BYTES // 4 + 2 * 140_000  # what came before it was known to be large, and a PDU
    (file,) = in_spool(store)
    assert dcmread(file).PixelData == sent.PixelData
    assert not scp._large


def test_several_at_once(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(max_memory_bytes=MEMORY_BYTES)
    peers = [connect(scp.port, calling=f"PACS{number}") for number in range(3)]
    sent = {number: large_instance(number) for number in range(3)}
    statuses: list[int] = []
    senders = [
        threading.Thread(target=lambda n=number: statuses.append(peers[n].send(sent[n])), daemon=True)
        for number in range(3)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)
    assert statuses == [0x0000] * 3
    assert {dcmread(file).PixelData for file in in_spool(store)} == {one.PixelData for one in sent.values()}


def test_one_that_breaks_off_leaves_nothing(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(max_memory_bytes=MEMORY_BYTES)
    peer = connect(scp.port)
    contexts = peer.association.accepted_contexts
    context = next(one.context_id for one in contexts if one.abstract_syntax == MICROSCOPIC)
    raw = peer.association.dul.socket.socket
    for fragment in (store_command(context), *[struct.pack(">LBB", 50_002, context, 0) + bytes(50_000)] * 8):
        raw.sendall(struct.pack(">BBL", 4, 0, len(fragment)) + fragment)
    deadline = time.monotonic() + 10
    while not scp._large:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    raw.close()
    while scp._large:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert scp._memory.held_bytes == 0
    assert not in_spool(store)
    assert not list((store.spool.folder / "incoming").iterdir())
    assert connect(scp.port).send(make_instance(2)) == 0x0000


def test_one_that_never_ends_is_cut_off(receiver: Start, connect: Connect, store: Store) -> None:
    scp = receiver(max_memory_bytes=MEMORY_BYTES, message_timeout_s=1.0)
    peer = connect(scp.port)
    contexts = peer.association.accepted_contexts
    context = next(one.context_id for one in contexts if one.abstract_syntax == MICROSCOPIC)
    raw = peer.association.dul.socket.socket
    part = struct.pack(">LBB", 50_002, context, 0) + bytes(50_000)
    deadline = time.monotonic() + 20
    with suppress(OSError):  # the peer, or its own thread, has closed it
        for fragment in chain([store_command(context)], repeat(part)):
            assert time.monotonic() < deadline
            raw.sendall(struct.pack(">BBL", 4, 0, len(fragment)) + fragment)
            time.sleep(0.02)
    while scp._large:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not in_spool(store)


def test_a_disk_that_fills_meanwhile_is_told_at_the_end() -> None:
    room = [None, StoreFault("not enough free disk")]

    def look_for_room(_: int) -> None:
        if fault := room.pop(0):
            raise fault

    opened: list[BinaryIO] = []

    def scratch() -> BinaryIO:
        opened.append(BytesIO())
        return opened[0]

    large = LargeDataSet(scratch, look_for_room, memoryview(b"begun"))
    for _ in range(3):
        large.write(bytes(40_000_000))
    with pytest.raises(StoreFault, match="not enough free disk"):
        large.content()
    assert opened[0].closed


def test_without_a_file_the_rest_of_the_message_is_passed_over() -> None:
    def scratch() -> BinaryIO:
        raise StoreFault("spool: Read-only file system")

    large = LargeDataSet(scratch, lambda _: None, memoryview(b"begun"))
    large.write(b"more")
    with pytest.raises(StoreFault, match="Read-only"):
        large.content()
    large.close()
