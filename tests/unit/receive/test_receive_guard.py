"""Connections that announce too much, send too slowly or all at once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import structlog
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel

from allpacs.receive.memory import Memory
from allpacs.receive.scp import StorageScp
from receive_peer import MICROSCOPIC, Peer, make_instance, store_command

Start = Callable[..., StorageScp]
Connect = Callable[..., Peer]


def _closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _raw(scp: StorageScp) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scp.port), timeout=5)


def test_a_pdu_of_four_gigabytes_is_not_waited_for(receiver: Start, connect: Connect) -> None:
    scp = receiver()
    with _raw(scp) as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(1000))
        assert _closed_within(connection, 5)
    assert connect(scp.port).echo() == 0x0000


def test_a_peer_that_sends_a_byte_now_and_then_is_cut_off_and_frees_its_place(
    receiver: Start, connect: Connect
) -> None:
    scp = receiver(max_associations=1, acse_timeout_s=0.6)
    with _raw(scp) as slow:
        began = time.monotonic()
        for byte in struct.pack(">BBL", 1, 0, 200) + bytes(190):
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - began < 5
    deadline = time.monotonic() + 5
    while not connect(scp.port).established:
        assert time.monotonic() < deadline


def test_a_half_open_association_is_cut_off(receiver: Start, connect: Connect) -> None:
    scp = receiver(network_timeout_s=0.5, max_associations=1)
    peer = connect(scp.port)
    # Half a PDU, then silence: as when the peer's machine lost its power.
    peer.association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 100) + bytes(10))
    deadline = time.monotonic() + 5
    while not connect(scp.port).established:
        assert time.monotonic() < deadline


def test_a_message_that_never_ends_is_cut_off(receiver: Start, connect: Connect) -> None:
    with structlog.testing.capture_logs() as lines:
        scp = receiver(message_timeout_s=0.5)
        peer = connect(scp.port)
        (context,) = {
            one.context_id for one in peer.association.accepted_contexts if one.abstract_syntax.endswith("1.1")
        }
        raw = peer.association.dul.socket.socket
        # A command that is never whole: fragments that are not the last.
        fragment = struct.pack(">LBB", 4, context, 0x01) + bytes(2)
        deadline = time.monotonic() + 10
        while not any(line["event"] == "connection_closed" for line in lines):
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):
                raw.sendall(struct.pack(">BBL", 4, 0, len(fragment)) + fragment)
            time.sleep(0.05)
    assert connect(scp.port).echo() == 0x0000


def _refused(lines: Sequence[Mapping[str, Any]], peer: Peer) -> Any:
    """Wait until a peer's association was aborted, and return the reason that was logged."""
    deadline = time.monotonic() + 10
    while peer.established:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (reason,) = [line["reason"] for line in lines if line["event"] == "connection_closed"]
    return reason


def _send_fragments(peer: Peer, *fragments: bytes) -> None:
    raw = peer.association.dul.socket.socket
    with contextlib.suppress(OSError):  # the peer's own thread has closed it
        for fragment in fragments:
            raw.sendall(struct.pack(">BBL", 4, 0, len(fragment)) + fragment)


def test_a_command_that_is_too_large_is_not_taken(receiver: Start, connect: Connect) -> None:
    with structlog.testing.capture_logs() as lines:
        scp = receiver()
        peer = connect(scp.port)
        _send_fragments(peer, *[struct.pack(">LBB", 30_002, 1, 0x01) + bytes(30_000)] * 3)
        assert _refused(lines, peer) == "a command that is too large"
    assert connect(scp.port).send(make_instance(2)) == 0x0000
    assert scp._memory.held_bytes == 0


def test_a_second_command_in_one_message_is_not_taken(receiver: Start, connect: Connect) -> None:
    with structlog.testing.capture_logs() as lines:
        scp = receiver()
        peer = connect(scp.port)
        contexts = peer.association.accepted_contexts
        context = next(one.context_id for one in contexts if one.abstract_syntax == MICROSCOPIC)
        _send_fragments(peer, store_command(context), store_command(context))
        assert _refused(lines, peer) == "a second command in one message"
    assert connect(scp.port).send(make_instance(2)) == 0x0000


def test_a_message_without_an_instance_that_is_too_large_is_not_taken(receiver: Start, connect: Connect) -> None:
    """It would be decoded whole, into many times its size."""
    with structlog.testing.capture_logs() as lines:
        scp = receiver()
        peer = connect(scp.port)
        request = N_ACTION()
        request.MessageID = request.ActionTypeID = 1
        request.RequestedSOPClassUID = StorageCommitmentPushModel
        request.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
        request.ActionInformation = BytesIO(bytes(10_200_000))
        peer.association.dimse.send_msg(request, peer.association.accepted_contexts[0].context_id)
        assert _refused(lines, peer) == "a message without an instance that is too large"
    assert connect(scp.port).send(make_instance(2)) == 0x0000
    assert scp._memory.held_bytes == 0


def test_above_the_limit_all_wait_but_the_first() -> None:
    memory = Memory(200)
    assert memory.take("first", 60, 1.0)
    order = []

    def second() -> None:
        assert memory.take("second", 60, 10.0)
        order.append("second")

    waiting = threading.Thread(target=second, daemon=True)
    waiting.start()
    time.sleep(0.1)
    assert memory.take("first", 30, 1.0)
    order.append("first")
    memory.give_back("first")
    waiting.join(5)
    assert order == ["first", "second"]
    assert memory.held_bytes == 60


def test_many_large_instances_at_once_are_all_taken_with_bounded_memory(receiver: Start, connect: Connect) -> None:
    """Four senders of 1 MB with room for one and a little more: one after the other, none refused."""
    scp = receiver(max_memory_bytes=2_400_000)
    peers = [connect(scp.port, calling=f"PACS{number}") for number in range(4)]
    statuses: list[int] = []
    most = 0

    def send(number: int) -> None:
        data_set = make_instance(number, Rows=None, Columns=None)
        data_set.Rows = data_set.Columns = 576
        data_set.add_new(0x7FE00010, "OB", bytes(3 * 576 * 576))
        statuses.append(peers[number].send(data_set))

    senders = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(4)]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        most = max(most, scp._memory.held_bytes)
        time.sleep(0.001)
    assert statuses == [0x0000] * 4
    assert most < 2_400_000 + 4 * 140_000
    assert scp._memory.held_bytes == 0
