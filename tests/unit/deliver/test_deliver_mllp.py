"""HL7 v2 over MLLP: what an acknowledgement means, and receivers that do not give one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hl7
import pytest

from allpacs.deliver.mllp import MllpDestination
from allpacs.dicom.tls import client_tls
from allpacs.domain.errors import DeliveryRejected, DeliveryUnavailable
from conformance.support.certificates import Authority
from conformance.support.hl7_server import hl7_server
from conformance.support.network import free_port
from support.deliver_samples import hl7_artefact, leaks, tcp_server

MESSAGE = hl7_artefact()


def acknowledged(code: str, error: str = "") -> Callable[[hl7.Message], str]:
    """Answer with this code, and with this error condition (table 0357)."""

    def answer(message: hl7.Message) -> str:
        ack = str(message.create_ack(code))
        return ack + (f"ERR||PID^1^3|{error}^Zebedee^HL70357|E||||Zebedee MRN-4711\r" if error else "")

    return answer


def delivered(answer: Callable[[hl7.Message], str | bytes | None], **options: object) -> str:
    with hl7_server({}, answer) as port:
        return MllpDestination("127.0.0.1", port, timeout_s=2, **options).deliver([MESSAGE]).detail  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_accepted(code: str) -> None:
    assert delivered(acknowledged(code)) == code


@pytest.mark.parametrize(("code", "error"), [("AE", "206"), ("AR", "207"), ("CE", "207")])
def test_an_error_that_passes_is_tried_again(code: str, error: str) -> None:
    with pytest.raises(DeliveryUnavailable, match=f"acknowledged {code}, error {error}") as told:
        delivered(acknowledged(code, error))
    assert not leaks(told.value.reason)


@pytest.mark.parametrize(
    ("code", "error", "why"),
    [
        ("AE", "", "will not help"),
        ("AR", "", "will not help"),
        ("AE", "204", "does not know an identifier"),
        ("CR", "203", "does not take HL7 2.5.1"),
        ("AE", "Zebedee", "acknowledged AE: "),
    ],
)
def test_a_refusal_is_for_a_person(code: str, error: str, why: str) -> None:
    with pytest.raises(DeliveryRejected, match=why) as told:
        delivered(acknowledged(code, error))
    assert not leaks(told.value.reason)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _message: None, "no whole acknowledgement"),
        (lambda _message: b"\x0bMSH|^~\\&|A", "no whole acknowledgement"),
        (lambda _message: b"HTTP/1.1 400 Bad Request\r\n\r\n\x1c\r", "no whole acknowledgement|no HL7 message"),
        (lambda _message: b"\x0bZebedee\x1c\r", "no HL7 message|no acknowledgement"),
        (lambda _message: "MSH|^~\\&|A||||20260101||ACK|1|P|2.5.1\r", "no acknowledgement"),
        (lambda _message: "MSH|^~\\&|A||||20260101||ACK|1|P|2.5.1\rMSA|AA|other\r", "another message"),
        (lambda _message: b"\x0bMSH|^~\\&|A||||20260101||ACK|1|P|2.5.1\rMSA|AA\x1c\r", "another message"),
        (lambda _message: b"\x0bMSH\x1c\r", "no HL7 message"),
        (lambda _message: b"\xff\xfe" * 700_000, "more than 1048576 bytes"),
        (lambda message: str(message.create_ack("ZZ")), "not a valid HL7 acknowledgement"),
    ],
)
def test_what_is_no_acknowledgement_leaves_it_open(answer: Callable[..., str | bytes | None], why: str) -> None:
    with pytest.raises(DeliveryUnavailable, match=why) as told:
        delivered(answer)
    assert not leaks(told.value.reason)


HEADER = "MSH|^~\\&|RIS|HOSP|ALLPACS|vm|20260101||ACK^R01^ACK|77|P|2.5.1"
TAKEN = "MSA|AA|2f0c1d"


def block(*segments: str, end: str = "\r", encoding: str = "utf-8") -> bytes:
    """Return segments as one MLLP block."""
    return b"\x0b" + "".join(segment + end for segment in segments).encode(encoding) + b"\x1c\r"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (block(HEADER, TAKEN, end="\n"), "AA"),
        (block(HEADER, TAKEN, end="\r\n"), "AA"),
        (block(HEADER, TAKEN, end="\r\r"), "AA"),
        (block(HEADER, TAKEN).replace(b"\r\x1c", b"\x1c"), "AA"),
        (block(HEADER, f"{TAKEN}|Empfänger Żółć", encoding="iso8859-2"), "AA"),
        (block(HEADER, f"{TAKEN}|Empfänger", encoding="latin-1"), "AA"),
        (block(HEADER, f"{TAKEN}|表示", encoding="shift-jis"), "AA"),  # the second byte of one is a delimiter
        (block(HEADER, "MSA|AA |2f0c1d "), "AA"),
        (block(HEADER, "MSA| AA| 2f0c1d"), "AA"),
        (block(HEADER, " MSA|aa|2f0c1d|"), "AA"),
        (block(HEADER, "MSA|ca|2f0c1d"), "CA"),
        (block(HEADER, "SFT|Vendor|1", "ZAC|1", TAKEN, "NTE|1||stored"), "AA"),
        (block("MSH|^~\\&|||||||ACK||P|2.3", TAKEN), "AA"),
        (block(f"{HEADER}||||||8859/1", TAKEN), "AA"),
        (block("MSH$%~\\&$RIS$HOSP$A$B$1$$ACK$7$P$2.5.1", "MSA$AA$2f0c1d"), "AA"),
        (block("FHS|^~\\&", "BHS|^~\\&", HEADER, TAKEN), "AA"),
        (block(HEADER, TAKEN, "ERR||OBX^1|0^Message accepted^HL70357|I"), "AA"),
        (b"\r\n\0" + block(HEADER, TAKEN), "AA"),
        (block(HEADER, TAKEN)[1:], "AA"),
        (block(HEADER, TAKEN)[:-1], "AA"),
        (block(HEADER, TAKEN)[:-1] + b"\n", "AA"),
        (block(HEADER, "MSA|AR|another one") + block(HEADER, TAKEN), "AA"),
        (block(HEADER, "ZZZ|1") + b"\x0bnoise\x1c\r" + block(HEADER, TAKEN), "AA"),
        (block(HEADER, "MSA|CA|2f0c1d") + block(HEADER, TAKEN), "CA"),
    ],
)
def test_the_form_of_an_acknowledgement_does_not_matter(answer: bytes, code: str) -> None:
    assert delivered(lambda _message: answer) == code


@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
@pytest.mark.parametrize(
    ("segments", "outcome"),
    [
        (("MSA|{}|2f0c1d||||207",), DeliveryUnavailable),  # before version 2.5
        (("MSA|{}|2f0c1d", "ERR|PID^1^5^206&Application record locked"), DeliveryUnavailable),
        (("MSA|{}|2f0c1d", "ERR||PID^1| 207 ^Internal^HL70357|E"), DeliveryUnavailable),
        (("MSA|{}|2f0c1d", "ERR|||207|E", "ERR|||206|E"), DeliveryUnavailable),
        (("MSA|{}|2f0c1d", "ERR|||207|E", "ERR|||101|E"), DeliveryRejected),
        (("MSA|{}|2f0c1d||||204",), DeliveryRejected),
        (("MSA|{}|2f0c1d", "ERR|PID^1^5^101&Required field missing"), DeliveryRejected),
        (("MSA|{} |2f0c1d",), DeliveryRejected),
    ],
)
def test_a_refusal_is_judged_by_all_its_errors_wherever_they_stand(
    code: str, segments: tuple[str, ...], outcome: type[Exception]
) -> None:
    answer = block(HEADER, *(segment.format(code) for segment in segments), end="\r\n")
    with pytest.raises(outcome, match=f"acknowledged {code}"):
        delivered(lambda _message: answer)


def test_an_acknowledgement_in_pieces_is_read_to_its_end() -> None:
    def talk(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65536)
        for byte in block(HEADER, TAKEN):
            connection.sendall(bytes([byte]))

    with tcp_server(talk) as port:
        assert MllpDestination("127.0.0.1", port, timeout_s=10).deliver([MESSAGE]).detail == "AA"


@pytest.mark.parametrize("trickle", [b"\x0b", block(HEADER, "MSA|AA|another one")])
def test_a_receiver_that_never_ends_is_left_in_time(trickle: bytes) -> None:
    stop = threading.Event()

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                connection.sendall(trickle)

    started = time.monotonic()
    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="within 1 s"):
        MllpDestination("127.0.0.1", port, timeout_s=1).deliver([MESSAGE])
    stop.set()
    assert time.monotonic() - started < 10


def test_a_receiver_that_says_nothing_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(silent.accept()[0]), daemon=True).start()
        destination = MllpDestination("127.0.0.1", silent.getsockname()[1], timeout_s=0.5)
        with pytest.raises(DeliveryUnavailable, match=r"no acknowledgement within 0\.5 s"):
            destination.deliver([MESSAGE])


def test_nobody_there() -> None:
    with pytest.raises(DeliveryUnavailable, match="no connection"):
        MllpDestination("127.0.0.1", free_port(), timeout_s=2).check()


def test_receiver_is_named_and_the_message_stays_the_same_otherwise() -> None:
    received: dict[str, bytes] = {}
    with hl7_server(received) as port:
        MllpDestination("127.0.0.1", port, application="RIS", facility="HOSP").deliver([MESSAGE])
    ((control_id, content),) = received.items()
    assert control_id == "2f0c1d"
    assert content.split(b"|")[4:6] == [b"RIS", b"HOSP"]
    assert content.split(b"\r")[1:] == MESSAGE.content.split(b"\r")[1:]
    assert "Żółć".encode() in content


def test_over_tls_the_receiver_must_be_trusted(tmp_path: Path) -> None:
    hospital, stranger = Authority(tmp_path, "hospital"), Authority(tmp_path, "stranger")
    theirs = hospital.issue("engine")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(theirs.certificate, theirs.key)
    with hl7_server({}, tls=server) as port:
        trusting = MllpDestination("127.0.0.1", port, timeout_s=5, tls=client_tls(hospital.issue("allpacs")))
        assert trusting.deliver([MESSAGE]).detail == "AA"
        distrusting = MllpDestination("127.0.0.1", port, timeout_s=5, tls=client_tls(stranger.issue("allpacs")))
        with pytest.raises(DeliveryUnavailable, match="no TLS"):
            distrusting.deliver([MESSAGE])
