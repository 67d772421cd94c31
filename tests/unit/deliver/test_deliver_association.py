"""What an archive may do to an association that we request: answer without end, answer slowly, not read."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian

from allpacs.deliver.association import Peer
from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.commitment import request_commitment
from allpacs.dicom.commitment import SOP_CLASS_UID, Reference
from allpacs.domain.errors import DeliveryUnavailable
from support.deliver_samples import dicom_object, part10, scp, sr_artefact, tcp_server

Stage = Callable[[socket.socket, socket.socket], None]


def trickle(connection: socket.socket, start: bytes) -> None:
    """Send the start, and then a byte every 50 ms without end: never silent for long."""
    connection.sendall(start)
    while True:
        time.sleep(0.05)
        connection.sendall(b"\0")


def in_place_of_the_acceptance(connection: socket.socket, _pacs: socket.socket) -> None:
    trickle(connection, b"\x02\0" + struct.pack(">L", 5000))


def in_place_of_the_answer(connection: socket.socket, pacs: socket.socket) -> None:
    connection.sendall(pacs.recv(65536))  # the association is accepted
    trickle(connection, b"\x04\0" + struct.pack(">L", 16000))


def of_commands_that_never_end(connection: socket.socket, pacs: socket.socket) -> None:
    connection.sendall(pacs.recv(65536))
    pacs.recv(65536)  # the archive has the object and answers: this is not handed on
    part = b"\x01\x01" + bytes(60_000)  # context 1, part of a command
    while True:
        connection.sendall(b"\x04\0" + struct.pack(">LL", len(part) + 4, len(part)) + part)


def of_a_pdu_that_never_ends(connection: socket.socket, pacs: socket.socket) -> None:
    connection.sendall(pacs.recv(65536))
    connection.sendall(b"\x04\0\xff\xff\xff\xff")
    while True:
        connection.sendall(bytes(2**20))


@contextmanager
def between(stage: Stage, *, reads: bool = True, **settings: Any) -> Iterator[int]:
    """Stand between us and an archive, and misbehave from a stage on; yield the port."""
    with scp(**settings) as port:

        def talk(connection: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as pacs, contextlib.suppress(OSError):
                pacs.sendall(connection.recv(65536))
                if reads:
                    threading.Thread(target=forward, args=(connection, pacs), daemon=True).start()
                stage(connection, pacs)

        with tcp_server(talk) as own:
            yield own


def forward(connection: socket.socket, pacs: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            pacs.sendall(part)


@pytest.mark.parametrize(
    "stage",
    [in_place_of_the_acceptance, in_place_of_the_answer, of_commands_that_never_end, of_a_pdu_that_never_ends],
)
def test_an_archive_whose_answer_never_ends_is_left_in_time_and_not_taken_into_memory(stage: Stage) -> None:
    started = time.monotonic()
    tracemalloc.start()
    try:
        with between(stage) as port, pytest.raises(DeliveryUnavailable):
            CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=1).deliver([sr_artefact()])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 10
    assert peak_bytes < 64 * 2**20


def test_a_commitment_request_that_is_answered_without_end_is_left_in_time() -> None:
    contexts = ((SOP_CLASS_UID, (ExplicitVRLittleEndian,)),)
    started = time.monotonic()
    with between(in_place_of_the_answer, contexts=contexts) as port:
        peer = Peer("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=1)
        with pytest.raises(DeliveryUnavailable):
            request_commitment(peer, "2.25.1", [Reference(Comprehensive3DSRStorage, "2.25.2")], wait_s=1)
    assert time.monotonic() - started < 10


def test_what_was_stored_is_delivered_though_the_release_never_ends() -> None:
    def stage(connection: socket.socket, pacs: socket.socket) -> None:
        while (part := pacs.recv(65536)) and part[0] != 0x06:  # A-RELEASE-RP
            connection.sendall(part)
        trickle(connection, b"\x06\0" + struct.pack(">L", 1000))

    started = time.monotonic()
    with between(stage) as port:
        destination = CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=1)
        assert destination.deliver([sr_artefact()]).detail == "0x0000"
    assert time.monotonic() - started < 10


def test_an_archive_that_does_not_read_is_left_in_time() -> None:
    def stage(connection: socket.socket, pacs: socket.socket) -> None:
        connection.sendall(pacs.recv(65536))
        while True:  # so slowly that every write makes some progress
            time.sleep(0.05)
            if not connection.recv(1):
                return

    large = dicom_object("large")
    large.TextValue = "a" * 20_000_000
    artefact = replace(sr_artefact("large"), content=part10(large))
    started = time.monotonic()
    with between(stage, reads=False) as port, pytest.raises(DeliveryUnavailable):
        CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=1).deliver([artefact])
    assert time.monotonic() - started < 15
