"""STOW-RS: what an archive's answers mean."""

from __future__ import annotations

import json
import socket
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


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"00081199": {"Value": [{}]}}', b"[" * 100_000])
def test_a_broken_answer_is_tried_again(body: bytes) -> None:
    def broken(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        request.wfile.write(body)

    with http_server(broken) as base_url, pytest.raises(DeliveryUnavailable):
        StowRsDestination(base_url).deliver([ONE])


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
