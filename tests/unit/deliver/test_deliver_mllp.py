"""HL7 v2 over MLLP: what an acknowledgement means, and receivers that do not give one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
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


HEADER = "MSH|^~\\&|RIS|HOSP|ALLPACS|vm|20260101||ACK^R01^ACK|77|P|2.5.1"


def framed(text: str, encoding: str = "utf-8") -> bytes:
    return b"\x0b" + text.encode(encoding) + b"\x1c\r"


@pytest.mark.parametrize(
    "answer",
    [
        lambda uid: framed(f"{HEADER}\r\nMSA|AA|{uid}\r\n"),
        lambda uid: framed(f"{HEADER}\nMSA|AA|{uid}\n"),
        lambda uid: framed(f"{HEADER}\rMSA|AA|{uid}"),
        lambda uid: framed(f"{HEADER}\r\rMSA|AA|{uid}\r"),
        lambda uid: framed(f"{HEADER}\rMSA|AA|{uid}|Empfänger\r", "iso-8859-1"),
        lambda uid: framed(f"{HEADER}\rMSA| AA |{uid} \r"),
        lambda uid: framed(f"{HEADER}\rMSA|aa|{uid}\r"),
        lambda uid: framed(f"{HEADER}\rSFT|x\rZAC|1\rMSA|AA|{uid}\r"),
        lambda uid: framed(f"MSH$%~\\&$RIS$HOSP$A$B$1$$ACK$7$P$2.5.1\rMSA$AA${uid}\r"),
        lambda uid: framed(f"MSH|^~\\&|||||||ACK||P|2.3\rMSA|AA|{uid}\r"),
        lambda uid: framed(f"FHS|^~\\&\rBHS|^~\\&\r{HEADER}\rMSA|AA|{uid}\r"),
        lambda uid: b"\r\n\0" + framed(f"{HEADER}\rMSA|AA|{uid}\r"),
        lambda uid: framed(f"{HEADER}\rMSA|AA|{uid}\r")[1:],
        lambda uid: framed(f"{HEADER}\rMSA|AA|{uid}\r")[:-1],
        lambda uid: framed(f"{HEADER}\rMSA|AA|{uid}\r")[:-1] + b"\n",
        lambda uid: f"{HEADER}\rMSA|AA|{uid}\r".encode(),
        lambda uid: framed(f"{HEADER}\rMSA|AA|OLD\r") + framed(f"{HEADER}\rMSA|AA|{uid}\r"),
    ],
)
def test_acknowledgements_in_every_form_that_receivers_write(answer: Callable[[str], bytes]) -> None:
    assert delivered(lambda message: answer(str(message["MSH.F10"]))) == "AA"


@pytest.mark.parametrize(
    ("segments", "error"),
    [
        ("MSA|AR|{uid}||||207", "207"),
        ("MSA|AE|{uid}||||206^locked^HL70357", "206"),
        ("MSA|AE|{uid}\rERR|PID^1^5^207&Internal error", "207"),
        ("MSA|AE|{uid}\rERR||PID^1|207^Internal^HL70357|E", "207"),
    ],
)
def test_the_error_condition_may_stand_where_older_versions_have_it(segments: str, error: str) -> None:
    with pytest.raises(DeliveryUnavailable, match=f"error {error}"):
        delivered(lambda message: framed(f"{HEADER}\r" + segments.format(uid=message["MSH.F10"]) + "\r"))


def test_an_acknowledgement_in_small_pieces_is_put_together() -> None:
    def talk(connection: socket.socket) -> None:
        received = b""
        while b"\x1c\r" not in received:
            received += connection.recv(65536)
        uid = received.split(b"|")[9].decode()
        for byte in framed(f"{HEADER}\rMSA|AA|{uid}\r"):
            connection.sendall(bytes([byte]))

    with tcp_server(talk) as port:
        assert MllpDestination("127.0.0.1", port, timeout_s=5).deliver([MESSAGE]).detail == "AA"


def test_an_endless_answer_is_left() -> None:
    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 65536)

    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable):
        MllpDestination("127.0.0.1", port, timeout_s=20).deliver([MESSAGE])


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
        (lambda _message: b"\x0bMSH|^~\\&|A", "no acknowledgement"),
        (lambda _message: b"HTTP/1.1 400 Bad Request\r\n\r\n\x1c\r", "no whole acknowledgement|no HL7 message"),
        (lambda _message: b"\x0bZebedee\x1c\r", "no whole acknowledgement"),
        (lambda _message: "MSH|^~\\&|A||||20260101||ACK|1|P|2.5.1\r", "no acknowledgement"),
        (lambda _message: "MSH|^~\\&|A||||20260101||ACK|1|P|2.5.1\rMSA|AA|other\r", "another message"),
        (lambda message: str(message.create_ack("ZZ")), "an acknowledgement that is none"),
    ],
)
def test_what_is_no_acknowledgement_leaves_it_open(answer: Callable[..., str | bytes | None], why: str) -> None:
    with pytest.raises(DeliveryUnavailable, match=why) as told:
        delivered(answer)
    assert not leaks(told.value.reason)


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
