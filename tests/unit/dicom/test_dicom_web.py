"""One HTTP exchange: what breaks it is named as the client's own errors are, and it ends in time."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from allpacs.dicom.tls import client_tls, server_tls
from allpacs.dicom.web import exchange
from conformance.support.certificates import Authority
from support.deliver_samples import http_server, tcp_server


def test_an_answer_of_any_status_is_returned_and_no_redirect_is_followed() -> None:
    def answer(request: Any, body: bytes) -> None:
        request.send_response(307)
        request.send_header("Location", "/elsewhere")
        request.send_header("Content-Type", "Text/Plain; charset=utf-8")
        request.end_headers()
        request.wfile.write(body.upper())

    with http_server(answer) as url:
        told = exchange("POST", url, timeout_s=10, content=b"abc")
    assert (told.status, told.is_success, told.media_type) == (307, False, "text/plain")
    assert (told.content, told.whole) == (b"ABC", True)


@pytest.mark.parametrize(("size", "whole"), [(99, True), (100, True), (101, False)])
def test_no_more_is_taken_than_asked_for(size: int, whole: bool) -> None:
    def answer(request: Any, _body: bytes) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b"a" * size)

    with http_server(answer) as url:
        told = exchange("GET", url, timeout_s=10, max_bytes=100)
    assert (len(told.content), told.whole) == (min(size, 100), whole)


def test_what_is_broken_within_tls_is_a_lost_connection(tmp_path: Path) -> None:
    hospital = Authority(tmp_path, "hospital")
    server, client = server_tls(hospital.issue("ehr")), client_tls(hospital.issue("allpacs"))

    def talk(connection: socket.socket) -> None:
        secure = server().wrap_socket(connection, server_side=True)
        secure.recv(65536)
        with socket.socket(fileno=secure.detach()) as bare:
            bare.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted

    with tcp_server(talk) as port, pytest.raises(httpx.ReadError):
        exchange("GET", f"https://127.0.0.1:{port}", timeout_s=10, verify=client())


def test_a_server_that_does_not_read_is_left_in_time() -> None:
    started = time.monotonic()
    with tcp_server(lambda _connection: time.sleep(20)) as port, pytest.raises(httpx.TimeoutException):
        exchange("POST", f"http://127.0.0.1:{port}", timeout_s=1, content=bytes(20_000_000))
    assert time.monotonic() - started < 15
