"""STOW-RS: what an archive's answers mean."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage

from allpacs.deliver.stow_rs import StowRsDestination
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import comprehensive_uid
from allpacs.report.inputs import format_inputs
from allpacs.report.sr import structured_report
from conformance.support.report_samples import CONTEXT, usual_headers, usual_study
from support.deliver_samples import http_server, leaks, sr_artefact, stow_server, tcp_server

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]

ONE, TWO = sr_artefact("first"), sr_artefact("second")


def test_the_bytes_arrive_as_they_are(tmp_path: Path) -> None:
    with stow_server(tmp_path / "kept") as base_url:
        receipt = StowRsDestination(base_url).deliver([ONE, TWO])
    assert {path.read_bytes() for path in (tmp_path / "kept").iterdir()} == {ONE.content, TWO.content}
    assert receipt.detail == "200, 2 stored"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (0xA700, DeliveryUnavailable),
        (0xC000, DeliveryRejected),
        (0x0124, DeliveryRejected),
        (0x0110, DeliveryUnavailable),
    ],
)
def test_one_object_that_failed_is_judged_as_a_c_store_status(
    tmp_path: Path, reason: int, outcome: type[Exception]
) -> None:
    with (
        stow_server(tmp_path, lambda uid: reason if uid == TWO.uid else 0) as base_url,
        pytest.raises(outcome) as failed,
    ):
        StowRsDestination(base_url).deliver([ONE, TWO])
    assert TWO.uid in str(failed.value)
    assert ONE.uid not in str(failed.value)
    assert not leaks(str(failed.value))


def test_a_report_of_an_unknown_class_is_posted_as_comprehensive_sr(tmp_path: Path) -> None:
    report, seen = structured_report(format_inputs(usual_study(2), usual_headers(), CONTEXT)), []

    def answer(uid: str) -> int:
        seen.append(uid)
        return 0x0122 if uid == report.uid else 0

    with stow_server(tmp_path / "kept", answer) as base_url:
        receipt = StowRsDestination(base_url).deliver([ONE, report])
    assert seen == [ONE.uid, report.uid, comprehensive_uid(report.uid)], "what it has taken is not sent again"
    kept = dcmread(tmp_path / "kept" / f"{comprehensive_uid(report.uid)}.dcm")
    assert kept.SOPClassUID == kept.file_meta.MediaStorageSOPClassUID == ComprehensiveSRStorage
    assert kept.ContentSequence == dcmread(BytesIO(report.content)).ContentSequence
    assert receipt.detail == "200, 2 stored"


@pytest.mark.parametrize(("reason", "outcome"), [(0x0122, DeliveryRejected), (0xA700, DeliveryUnavailable)])
def test_one_that_takes_neither_has_rejected_the_report(tmp_path: Path, reason: int, outcome: type[Exception]) -> None:
    report = structured_report(format_inputs(usual_study(2), usual_headers(), CONTEXT))
    other = comprehensive_uid(report.uid)
    answers = {report.uid: 0x0122, other: reason}
    with stow_server(tmp_path, answers.__getitem__) as base_url, pytest.raises(outcome, match=other):
        StowRsDestination(base_url).deliver([report])


def test_a_warning_and_a_duplicate_are_stored_and_recorded(tmp_path: Path) -> None:
    reasons = {ONE.uid: 0xB000, TWO.uid: 0x0111}
    with stow_server(tmp_path, lambda uid: reasons[uid]) as base_url:
        receipt = StowRsDestination(base_url).deliver([ONE, TWO])
    assert receipt.warning is not None
    assert "0xB000" in receipt.warning
    assert "0x0111" in receipt.warning


def test_an_object_that_the_answer_leaves_out_is_not_delivered() -> None:
    def nothing(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        request.wfile.write(b"{}")

    with http_server(nothing) as base_url, pytest.raises(DeliveryRejected, match="says nothing"):
        StowRsDestination(base_url).deliver([ONE])


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(500, DeliveryUnavailable), (503, DeliveryUnavailable), (429, DeliveryUnavailable), (404, DeliveryRejected),
     (401, DeliveryRejected), (415, DeliveryRejected), (302, DeliveryRejected)],
)  # fmt: skip
def test_other_answers_by_their_status(tmp_path: Path, status: int, outcome: type[Exception]) -> None:
    with stow_server(tmp_path, status=status) as base_url, pytest.raises(outcome):
        StowRsDestination(base_url).deliver([ONE])


def test_the_archive_says_when_to_come_back() -> None:
    def later(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(503)
        request.send_header("Retry-After", "17")
        request.end_headers()

    with http_server(later) as base_url, pytest.raises(DeliveryUnavailable) as asked:
        StowRsDestination(base_url).deliver([ONE])
    assert asked.value.retry_after_s == 17.0


@pytest.mark.parametrize("body", [b"{", b"[[]]", b"7", b'{"00081199": {"Value": [{}]}}', b"[" * 100_000])
def test_a_broken_answer_is_tried_again(body: bytes) -> None:
    def broken(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        request.wfile.write(body)

    with http_server(broken) as base_url, pytest.raises(DeliveryUnavailable):
        StowRsDestination(base_url).deliver([ONE])


JSON, XML = "application/dicom+json", "application/dicom+xml; charset=utf-8"


def respond(status: int, content_type: str | None, body: object, **headers: str) -> Answer:
    """Answer POST so, and QIDO-RS with nothing found."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        query = request.command == "GET"
        request.send_response(204 if query else status)
        if content_type is not None and not query:
            request.send_header("Content-Type", content_type)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(b"" if query else content)

    return answer


def sequence(tag: str, *items: dict[str, object]) -> dict[str, object]:
    """Return a sequence of the response as DICOM JSON; of each item the values by tag."""
    listed = [{name: {"vr": "US", "Value": [value]} for name, value in item.items()} for item in items]
    return {tag: {"vr": "SQ", "Value": listed}}


def stored(uid: str, warning: object = None) -> dict[str, object]:
    item: dict[str, object] = {"00081155": uid}
    return sequence("00081199", item if warning is None else {**item, "00081196": warning})


def failed(uid: str, reason: object) -> dict[str, object]:
    return sequence("00081198", {"00081155": uid, "00081197": reason})


def in_xml(tag: str, reason_tag: str, reason: int) -> bytes:
    """Return a response about both objects as a Native DICOM Model."""
    items = "".join(
        f'<Item number="{number}"><DicomAttribute tag="00081155" vr="UI"><Value number="1">{one.uid}</Value>'
        f'</DicomAttribute><DicomAttribute tag="{reason_tag}" vr="US"><Value number="1">{reason}</Value>'
        "</DicomAttribute></Item>"
        for number, one in enumerate((ONE, TWO), start=1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><!-- made up --><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/'
        f'models/NativeDICOM"><DicomAttribute tag="{tag}" vr="SQ">{items}</DicomAttribute></NativeDicomModel>'
    ).encode()


BOTH = sequence("00081199", {"00081155": ONE.uid}, {"00081155": TWO.uid})
OTHER_FAILURE = sequence("0008119A", {"00081197": 0xC000})
OTHER_FAILURE_LOWER = {"0008119a": sequence("0008119A", {"00081197": 0xA700})["0008119A"]}


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (respond(200, JSON, BOTH), None),
        (respond(200, "application/json", [BOTH]), None),
        (respond(200, JSON, [stored(ONE.uid), stored(TWO.uid)]), None),
        (respond(200, JSON, b"\xef\xbb\xbf" + json.dumps(BOTH).encode()), None),
        (respond(200, JSON, {**BOTH, "00081198": {"vr": "SQ"}}), None),
        (respond(200, JSON, {**BOTH, "00081198": {"vr": "SQ", "Value": []}}), None),
        (respond(200, JSON, {**BOTH, "00081198": {"vr": "SQ", "Value": None}}), None),
        (respond(201, JSON, BOTH), None),
        (respond(202, JSON, [stored(ONE.uid), stored(TWO.uid, 0xB000)]), "0xB000"),
        (respond(202, JSON, [stored(ONE.uid), stored(TWO.uid, "45062")]), "0xB006"),
        (respond(409, JSON, {**stored(ONE.uid), **failed(TWO.uid, 45070)}), "0xB00E"),
        (respond(409, JSON, {**stored(ONE.uid), **failed(TWO.uid, "273")}), "0x0111"),
        (respond(200, XML, in_xml("00081199", "00081190", 0)), None),
        (respond(202, "application/xml", in_xml("00081199", "00081196", 0xB000)), "0xB000"),
        (respond(200, None, b""), "does not list"),
        (respond(200, JSON, b"\r\n"), "does not list"),
        (respond(201, None, b""), "does not list"),
        (respond(204, None, b""), "does not list"),
        (respond(200, JSON, gzip.compress(json.dumps(BOTH).encode()), Content_Encoding="gzip"), None),
    ],
)
def test_what_was_stored_is_delivered_however_it_is_said(answer: Answer, warning: str | None) -> None:
    with http_server(answer) as base_url:
        receipt = StowRsDestination(base_url).deliver([ONE, TWO])
    assert receipt.detail.endswith("2 stored")
    assert receipt.warning is None if warning is None else warning in (receipt.warning or "")


@pytest.mark.parametrize(
    ("answer", "outcome", "why"),
    [
        (respond(200, JSON, {**stored(ONE.uid), **failed(TWO.uid, 0xA700)}), DeliveryUnavailable, "0xA700"),
        (respond(200, JSON, {**stored(ONE.uid), **failed(TWO.uid, 0xC000)}), DeliveryRejected, "0xC000"),
        (respond(202, JSON, stored(ONE.uid)), DeliveryRejected, "says nothing"),
        (respond(202, JSON, {**stored(ONE.uid), **OTHER_FAILURE}), DeliveryRejected, "0xC000"),
        (respond(202, JSON, {**stored(ONE.uid), **OTHER_FAILURE_LOWER}), DeliveryUnavailable, "0xA700"),
        (respond(202, JSON, [{**stored(ONE.uid), **OTHER_FAILURE}, OTHER_FAILURE_LOWER]), DeliveryRejected, "0xC000"),
        (respond(400, JSON, failed(TWO.uid, 0xA900) | stored(ONE.uid)), DeliveryRejected, "0xA900"),
        (respond(400, JSON, failed(TWO.uid, 0xA700) | stored(ONE.uid)), DeliveryUnavailable, "0xA700"),
        (respond(400, "application/json", {"error": "Zebedee"}), DeliveryRejected, "400"),
        (respond(400, JSON, b"{"), DeliveryRejected, "400"),
        (respond(400, None, b""), DeliveryRejected, "400"),
        (respond(409, XML, in_xml("00081198", "00081197", 0x0110)), DeliveryUnavailable, "0x0110"),
        (respond(409, XML, in_xml("00081198", "00081197", 0xA900)), DeliveryRejected, "0xA900"),
        (respond(409, "application/json", {"error": "Zebedee"}), DeliveryRejected, "says nothing"),
        (respond(409, None, b""), DeliveryRejected, "409"),
        (respond(202, None, b""), DeliveryRejected, "202"),
        (respond(200, JSON, []), DeliveryRejected, "says nothing"),
        (respond(200, "text/plain", b"OK"), DeliveryRejected, "no answer of a DICOMweb service"),
        (respond(200, "application/xhtml+xml", b"<html/>"), DeliveryRejected, "no answer of a DICOMweb service"),
        (respond(200, XML, b"<html/>"), DeliveryUnavailable, "broken"),
        (respond(200, XML, b"<NativeDicomModel>"), DeliveryUnavailable, "broken"),
        (respond(200, XML, b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + in_xml("00081199", "00081190", 0)[38:]),
         DeliveryUnavailable, "broken"),
        (respond(413, None, b""), DeliveryRejected, "raise its limit"),
        (respond(415, None, b""), DeliveryRejected, "application/dicom"),
    ],
)  # fmt: skip
def test_what_was_not_stored_is_not_delivered(answer: Answer, outcome: type[Exception], why: str) -> None:
    with http_server(answer) as base_url, pytest.raises(outcome, match=why) as fault:
        StowRsDestination(base_url).deliver([ONE, TWO])
    assert not leaks(str(fault.value))


def test_an_empty_success_of_what_is_no_archive_is_not_delivered() -> None:
    def sink(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(404 if request.command == "GET" else 200)
        request.end_headers()

    with http_server(sink) as base_url, pytest.raises(DeliveryUnavailable, match="404"):
        StowRsDestination(base_url).deliver([ONE])


def test_a_gzip_bomb_is_not_taken_into_memory() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(256)) + packer.flush()
    tracemalloc.start()
    try:
        with (
            http_server(respond(200, JSON, bomb, Content_Encoding="gzip")) as base_url,
            pytest.raises(DeliveryRejected, match="more than 4 MiB"),
        ):
            StowRsDestination(base_url).deliver([ONE])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 2**20


def test_an_archive_that_trickles_is_left_in_time() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                time.sleep(0.05)
                connection.sendall(b" ")

    started = time.monotonic()
    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="no answer within 1 s"):
        StowRsDestination(f"http://127.0.0.1:{port}", timeout_s=1).deliver([ONE])
    assert time.monotonic() - started < 10


def test_a_log_in_page_is_no_archive() -> None:
    def page(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()
        request.wfile.write(b"<html>")

    with http_server(page) as base_url, pytest.raises(DeliveryRejected, match="DICOMweb"):
        StowRsDestination(base_url).deliver([ONE])


def test_a_connection_cut_off_is_tried_again() -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(100)

    with tcp_server(hang_up) as port, pytest.raises(DeliveryUnavailable):
        StowRsDestination(f"http://127.0.0.1:{port}").deliver([ONE])


def test_a_token_is_sent_and_never_shown() -> None:
    seen = []
    token = "t0p"  # noqa: S105 - made up

    def answer(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        seen.append(request.headers["Authorization"])
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        request.wfile.write(json.dumps({"00081199": {"Value": [{"00081155": {"Value": [ONE.uid]}}]}}).encode())

    with http_server(answer) as base_url:
        destination = StowRsDestination(base_url, bearer_token=token)
        destination.deliver([ONE])
    assert seen == ["Bearer t0p"]
    assert "t0p" not in repr(destination)


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://[::1"])
def test_an_address_that_is_none_is_told_when_it_is_configured(address: str) -> None:
    with pytest.raises(ConfigFault, match="base_url"):
        StowRsDestination(address)
