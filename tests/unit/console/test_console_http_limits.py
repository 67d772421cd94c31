"""Limits of the HTTP server, with real sockets against a running console."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from allpacs.console import crashes
from allpacs.console.access import Role
from allpacs.console.app import make_console
from allpacs.console.http_limits import HttpLimits, RareWarnings, ServerMessages
from allpacs.console.numbers import strict_json, whole_number
from allpacs.console.server import server_config
from allpacs.settings import load_settings
from allpacs.store.store import Store
from unit.console.conftest import Browser

Browse = Callable[..., Browser]
LONG_S = 120.0
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
SMUGGLED = (
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
)


class Running:
    """A console that listens on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, request: bytes) -> bytes:
        """Send a request, and return everything until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return until_closed(connection)


def until_closed(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
    except ConnectionError:
        pass
    return answer


@contextmanager
def running(store: Store, limits: HttpLimits, application: Starlette | None = None) -> Iterator[Running]:
    settings = load_settings(store={"folder": store.spool.folder.parent}, console={"port": 0}, receive={"port": 1})
    warnings = RareWarnings()
    loggers = {name: logging.getLogger(name) for name in ("uvicorn.error", "asyncio")}
    before = {name: (logger.handlers, logger.propagate) for name, logger in loggers.items()}
    ServerMessages(warnings).install()
    config = server_config(settings, application or make_console(settings, store), limits, warnings)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Running(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        for name, logger in loggers.items():
            logger.handlers, logger.propagate = before[name]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = Store.open(tmp_path_factory.mktemp("limits") / "store")
    # Times so long that none of them matters here.
    with running(store, HttpLimits(header_s=LONG_S, body_s=LONG_S)) as found:
        yield found
    store.close()


@contextmanager
def short(tmp_path: Path, **limits: float) -> Iterator[Running]:
    store = Store.open(tmp_path / "store")
    try:
        with running(store, HttpLimits(**({"header_s": LONG_S, "body_s": LONG_S} | limits))) as found:  # type: ignore[arg-type]
            yield found
    finally:
        store.close()


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    assert found is not None, answer[:200]
    return int(found[1])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (SMUGGLED, 400),
        (b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /sign-in HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
        (b"GET /sign-in HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (b"GET /sign-in HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000, 400),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"nonsense\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_requests_that_no_client_sends_are_refused_once(console: Running, request_: bytes, expected: int) -> None:
    answer = console.exchange(request_)
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing is taken for a second request


def test_headers_have_a_total_time(tmp_path: Path) -> None:
    with (
        short(tmp_path, header_s=0.3) as console,
        console.connect() as connection,
        structlog.testing.capture_logs() as logs,
    ):
        connection.sendall(b"GET /sign-in HTTP/1.1\r\nHost: x\r\nX: ")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        assert until_closed(connection) == b""  # would wait forever if each byte set the time anew
        stop.set()
        thread.join()
    assert [(line["event"], line["reason"]) for line in logs] == [("connection_closed", "headers took too long")]


def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    with short(tmp_path, header_s=0.1) as console, console.connect() as connection:
        assert until_closed(connection) == b""


def test_a_body_has_a_total_time(tmp_path: Path) -> None:
    with (
        short(tmp_path, body_s=0.3) as console,
        console.connect() as connection,
        structlog.testing.capture_logs() as logs,
    ):
        connection.sendall(b"POST /sign-in HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 10\r\n\r\nabc")
        assert until_closed(connection) == b""
    assert ("connection_closed", "the body took too long") in [(line["event"], line.get("reason")) for line in logs]


def test_an_answer_that_nobody_reads_is_broken_off(tmp_path: Path) -> None:
    async def endless(_request: object) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield bytes(1_000_000)

        return StreamingResponse(pieces())

    store = Store.open(tmp_path / "store")
    application = Starlette(routes=[Route("/endless", endless)])
    limits = HttpLimits(header_s=LONG_S, body_s=LONG_S, write_s=0.3)
    with (
        running(store, limits, application) as console,
        console.connect() as connection,
        structlog.testing.capture_logs() as logs,
    ):
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        while not logs:
            threading.Event().wait(0.01)
        until_closed(connection)  # what was on its way
    store.close()
    assert [(line["event"], line["reason"]) for line in logs] == [("connection_closed", "an answer is not read")]


def test_a_connection_that_is_kept_alive_has_its_time_for_each_request(console: Running) -> None:
    with console.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"</html>" not in answer:
                answer += connection.recv(65536)
            assert status(answer) == 200


def test_connections_of_a_peer_and_of_all_are_limited(tmp_path: Path) -> None:
    get = b"GET /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for name, limits in (("a", {"connections_of_peer": 3}), ("b", {"connections": 3})):
        with short(tmp_path / name, **limits) as console, structlog.testing.capture_logs() as logs:
            held = [console.connect() for _ in range(3)]
            for connection in held:  # an answer to each: the server has counted them
                connection.sendall(b"GET /sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 200"
            assert [console.exchange(get) for _ in range(20)] == [b""] * 20
            held.pop().close()
            while not (answer := console.exchange(get)):  # the place is free when the server has seen the end
                pass
            assert status(answer) == 200
            for connection in held:
                connection.close()
        refused = [line for line in logs if line["event"] == "connection_refused"]
        assert len(refused) <= 10  # at most five a minute, and the minute may change
        assert refused[0]["address"] == "127.0.0.1"


def test_an_unexpected_error_is_answered_in_our_frame_and_logged_without_values(
    browse: Browse, study: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object) -> object:
        raise ValueError("CANARY^NAME")

    browser = browse(Role.VIEWER)
    monkeypatch.setattr("allpacs.console.pages.study.cells_of", crash)
    with structlog.testing.capture_logs() as logs:
        answer = browser.see(f"/studies/{study}/revisions/1")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert crashes.UNEXPECTED in answer.text
    assert '<a class="button"' in answer.text  # the page has our frame
    assert "CANARY" not in answer.text + str(logs) + "".join(capfd.readouterr())
    (line,) = [line for line in logs if line["event"] == "page_crashed"]
    assert (line["reason"], line["path"]) == ("ValueError", "/studies/{study_uid}/revisions/{revision:number}")


def test_an_error_below_every_page_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def crash(_request: object) -> object:
        raise ValueError("CANARY^NAME")

    store = Store.open(tmp_path / "store")
    settings = load_settings(store={"folder": tmp_path / "store"}, receive={"port": 1})
    application = make_console(settings, store)
    application.router.routes.insert(0, Route("/crash", crash))  # type: ignore[arg-type]
    with running(store, HttpLimits(), application) as console, structlog.testing.capture_logs() as logs:
        answer = console.exchange(b"GET /crash HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    store.close()
    assert status(answer) == 500
    assert b"content-security-policy: default-src 'none'" in answer.lower()
    assert [line["reason"] for line in logs if line["event"] == "page_crashed"] == ["ValueError"]
    written = "".join(capfd.readouterr())
    assert "CANARY" not in written + str(logs)
    assert "Traceback" not in written


def test_what_the_server_logs_holds_no_values_and_comes_rarely(capfd: pytest.CaptureFixture[str]) -> None:
    messages = ServerMessages(RareWarnings())
    logger = logging.getLogger("allpacs.test.server")
    logger.propagate = False
    logger.addHandler(messages)
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            try:
                raise ValueError("CANARY^NAME")
            except ValueError:
                logger.exception("Exception in ASGI application\n%s", "CANARY")
    assert len(logs) <= 10
    assert {line["reason"] for line in logs} == {"Exception in ASGI application (ValueError)"}
    assert "CANARY" not in str(logs) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "path",
    [
        "/?page=" + "9" * 5000, "/?page=" + "9" * 15, "/?page=٣", "/drift?weeks=" + "9" * 5000,
        "/dicom-web/studies?offset=" + "9" * 15, "/studies/{study}/revisions/1?from=" + "9" * 5000,
    ],
)  # fmt: skip
def test_numbers_of_any_length_break_no_page(browse: Browse, study: str, path: str) -> None:
    assert browse(Role.VIEWER).get(path.format(study=study)).status_code == 200


@pytest.mark.parametrize("number", ["9" * 10, "9" * 30, "9" * 5000])
def test_an_address_with_a_number_that_is_none_of_ours_is_not_found(browse: Browse, study: str, number: str) -> None:
    browser = browse(Role.VIEWER)
    for path in (f"/studies/{study}/revisions/{number}", f"/studies/{study}/revisions/1/fields/1.2/{number}.jpg"):
        assert browser.see(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"decisions": [{"cell": "1.2", "decision": null, "seen": NaN}]}', 400),
        (b'{"decisions": [{"cell": "1.2", "decision": null, "seen": -Infinity}]}', 400),
        (b'{"decisions": [{"cell": "1.2", "decision": null, "seen": ' + b"9" * 5000 + b"}]}", 400),
        (b'{"decisions": [{"cell": "1.2", "decision": null, "seen": ' + b"9" * 30 + b"}]}", 422),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b'{"decisions": 1}', 422),
        (b'{"decisions": []}', 200),
    ],
)
def test_only_json_is_read_as_json(browse: Browse, study: str, body: bytes, expected: int) -> None:
    browser = browse(Role.REVIEWER)
    headers = {"x-csrf-token": browser.token, "content-type": "application/json", "accept": "application/json"}
    answer = browser.post(f"/studies/{study}/revisions/1/decisions", content=body, headers=headers)
    assert answer.status_code == expected, answer.text


def test_numbers_are_ascii_and_short() -> None:
    assert [whole_number(text) for text in ("0", "007", "9" * 15)] == [0, 7, 999_999_999_999_999]
    assert [whole_number(text) for text in ("", "-1", "1.0", "9" * 16, "٣", "²", " 1")] == [None] * 7
    assert strict_json(b'{"a": 1e3}') == {"a": 1000.0}
