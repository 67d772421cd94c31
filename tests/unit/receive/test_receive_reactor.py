"""Associations wake up for what happens, and look by themselves only for what nobody announces."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification

from allpacs.dicom.network import reactor
from allpacs.dicom.network.messages import success
from allpacs.dicom.network.reactor import WaitingAssociation, WaitingUpperLayer
from allpacs.dicom.tls import client_tls, server_tls
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from conformance.support.certificates import Authority
from receive_peer import MICROSCOPIC, Peer, make_instance

Start = Callable[..., StorageScp]
Connect = Callable[..., Peer]


def _serving() -> list[threading.Thread]:
    """Return the threads of associations under way, and those of their upper layers."""
    associations = [thread for thread in threading.enumerate() if isinstance(thread, WaitingAssociation)]
    return [*associations, *(one.dul for one in associations if one.dul.is_alive())]


def _all_end_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _serving() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _serving()


@pytest.fixture
def looks_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a look without a reason so rare that whatever relied on one would outlast the test."""
    assert _all_end_within(60)  # those of an earlier test, before they wait for so long, too
    monkeypatch.setattr(reactor, "_LOOK_S", 600.0)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert _all_end_within(10)


@pytest.mark.usefixtures("looks_never")
def test_messages_and_release_are_served_without_a_look(receiver: Start, connect: Connect) -> None:
    peer = connect(receiver().port)
    for _ in range(5):
        assert peer.echo() == 0x0000
        assert peer.send(make_instance()) == 0x0000
    peer.release()
    assert _all_end_within(10)


@pytest.mark.usefixtures("looks_never")
def test_an_abort_ends_the_association_without_a_look(receiver: Start, connect: Connect) -> None:
    peer = connect(receiver().port)
    peer.association.abort()
    assert _all_end_within(10)


@pytest.mark.usefixtures("looks_never")
def test_a_lost_connection_ends_the_association_without_a_look(receiver: Start, connect: Connect) -> None:
    peer = connect(receiver().port)
    connection = peer.association.dul.socket.socket
    connection.shutdown(socket.SHUT_RDWR)
    assert _all_end_within(10)


@pytest.mark.usefixtures("looks_never")
def test_what_tls_has_read_ahead_is_not_left_lying(receiver: Start, tmp_path: Path) -> None:
    hospital = Authority(tmp_path, "hospital")
    scp = receiver(tls=server_tls(hospital.issue("allpacs")))
    context: ssl.SSLContext = client_tls(hospital.issue("pacs"))()
    with (
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
    ):
        peer.sendall(_associate_request())
        assert _pdu(peer)[0] == 2  # PS3.8 section 9.3.3: A-ASSOCIATE-AC
        # Two requests in one record of TLS: the second is decrypted with the first, and the socket has nothing left.
        peer.sendall(_echo_request(1) + _echo_request(2))
        assert [_pdu(peer)[0] for _ in range(2)] == [4, 4]  # P-DATA-TF


def test_an_idle_association_looks_a_few_times_a_second_and_no_more(
    receiver: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    inherited = reactor.WaitingUpperLayer._watch

    def counted(self: Any, descriptor: int | None) -> None:
        nonlocal looks
        looks += 1
        inherited(self, descriptor)

    monkeypatch.setattr(reactor.WaitingUpperLayer, "_watch", counted)
    peer = connect(receiver().port)
    assert peer.echo() == 0x0000
    time.sleep(0.2)
    before = looks
    time.sleep(1.0)
    assert looks - before <= 1.0 / reactor._LOOK_S + 2
    peer.release()


def test_a_silent_association_is_aborted(receiver: Start, connect: Connect) -> None:
    peer = connect(receiver(network_timeout_s=0.3).port)
    assert _all_end_within(10)
    assert not peer.established


def test_descriptors_above_1023_are_watched(receiver: Start, connect: Connect) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    kept: list[socket.socket] = []
    try:
        scp = receiver()
        while not kept or kept[-1].fileno() < 1030:
            kept.append(socket.socket())
        with socket.create_connection(("127.0.0.1", scp.port), timeout=5) as raw:
            assert raw.fileno() > 1023
            raw.sendall(_associate_request())
            assert _pdu(raw)[0] == 2
    finally:
        for one in kept:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_instance_is_served_by_the_thread_that_reads_it(receiver: Start, connect: Connect, store: Store) -> None:
    names = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            names.append((name, type(threading.current_thread())))
            return getattr(store.receiving, name)

    assert connect(receiver(Watched()).port).send(make_instance()) == 0x0000
    assert ("keep_instance", WaitingUpperLayer) in names


def test_a_peer_that_waits_for_us_is_not_silent(receiver: Start, connect: Connect, store: Store) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            if name == "keep_instance":
                time.sleep(1.0)
            return getattr(store.receiving, name)

    peer = connect(receiver(Slow(), network_timeout_s=0.4).port)
    assert [peer.send(make_instance(number)) for number in (1, 2)] == [0x0000, 0x0000]


@pytest.mark.parametrize("uid", ["1.2.34", "1.2.345"])
def test_success_is_said_as_the_library_says_it(uid: str) -> None:
    answer = C_STORE()
    answer.MessageID = answer.MessageIDBeingRespondedTo = 7
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = MICROSCOPIC, uid
    answer.Status = 0x0000
    message = C_STORE_RSP()
    message.primitive_to_message(answer)
    (part,) = message.encode_msg(1, 16384)
    ((_, fragment),) = part.presentation_data_value_list
    assert success(answer) == fragment[1:]
    answer.Status = 0xA700
    assert success(answer) is None


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0",  # no whole length
        b"\0\0\0\1\1",  # no message control header
        b"\0\0\0\x40\1\3",  # longer than the PDU
        b"\xff\xff\xff\xff\1\3",
    ],
)
def test_a_data_pdu_whose_lengths_do_not_fit_is_answered_with_an_abort(receiver: Start, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", receiver().port), timeout=10) as peer:
        peer.sendall(_associate_request())
        assert _pdu(peer)[0] == 2
        peer.sendall(b"\4\0" + len(body).to_bytes(4, "big") + body)
        assert _pdu(peer)[0] == 7  # A-ABORT


@pytest.mark.usefixtures("looks_never")
def test_a_connection_without_a_request_ends_when_the_peer_closes_it(receiver: Start) -> None:
    socket.create_connection(("127.0.0.1", receiver().port), timeout=10).close()
    deadline = time.monotonic() + 10
    while not _serving() and time.monotonic() < deadline - 9:
        time.sleep(0.001)  # it may have come and gone already
    assert _all_end_within(10)  # and not after the ACSE time-out of 30 s


def _pdu(connection: socket.socket) -> bytes:
    """Return the next PDU (PS3.8 section 9.3.1: type, reserved, length)."""
    head = connection.recv(6)
    return head + connection.recv(int.from_bytes(head[2:], "big"))


def _echo_request(message_id: int) -> bytes:
    """Return the PDU of a C-ECHO-RQ in the presentation context that `_associate_request` asks for."""
    primitive = C_ECHO()
    primitive.MessageID = message_id
    primitive.AffectedSOPClassUID = Verification
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    return b"".join(P_DATA_TF(part).encode() for part in message.encode_msg(1, 16384))


def _associate_request() -> bytes:
    """Return an A-ASSOCIATE-RQ for Verification, as pynetdicom encodes it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ae = AE("PACS")
        ae.acse_timeout = 0.2
        ae.add_requested_context(Verification)
        listener.settimeout(10)
        asking = threading.Thread(
            target=ae.associate, args=(*listener.getsockname(),), kwargs={"ae_title": "ALLPACS"}, daemon=True
        )
        asking.start()
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65536)
        asking.join(10)
    return request


def test_a_bell_that_was_closed_rings_nobody_else(tmp_path: Path) -> None:
    bell = reactor._Bell()
    bell.close()
    files = [(tmp_path / str(number)).open("wb") for number in range(4)]  # take the bell's numbers
    bell.ring()
    for file in files:
        file.close()
    assert all(not (tmp_path / str(number)).stat().st_size for number in range(4))


def test_a_full_bell_is_rung_without_waiting() -> None:
    bell = reactor._Bell()
    for _ in range(70_000):  # a pipe holds 65,536
        bell.ring()
    bell.hush()
    bell.close()
