"""What a model server may do wrong, by a stand-in for one; a real one is asked in `tests/contract`."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.choose import start_engine
from allpacs.classify.engine import OutOfDeviceMemory
from allpacs.classify.engines.remote import RemoteEngine
from allpacs.domain.errors import ModelFault
from allpacs.settings import SHIPPED_BUNDLE, ModelSettings
from support.deliver_samples import tcp_server

Answer = tuple[int, dict[str, str], bytes]
SIDE = load_bundle(SHIPPED_BUNDLE).input_px
OUTPUTS = len(load_bundle(SHIPPED_BUNDLE).outputs)
DESCRIBED = {"name": "net", "inputs": [{"name": "in", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}]}
#: Of a cell whose pixels are 1: a logit for each output.
UNIT = [1.0, -1.0, *(2.0 for _ in range(OUTPUTS - 2))]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(SHIPPED_BUNDLE)


def _body(described: Any) -> bytes:
    return (
        described
        if isinstance(described, bytes)
        else json.dumps(DESCRIBED if described is None else described).encode()
    )


@contextmanager
def stand_in(infer: Callable[[dict[str, str], bytes], Answer], described: Any = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer((200, {}, _body(described)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(infer(dict(self.headers), body))

        def _answer(self, answer: Answer) -> None:
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def cells(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)


def as_text(count: int) -> bytes:
    return json.dumps({"outputs": [{"name": "o", "datatype": "FP32", "data": [v / 2 for v in UNIT] * count}]}).encode()


def test_cells_go_as_bytes_and_logits_come_back_as_bytes(bundle: Bundle) -> None:
    asked: list[Any] = []

    def infer(headers: dict[str, str], body: bytes) -> Answer:
        length = int(headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(body[:length])["inputs"]
        pixels = np.frombuffer(body, np.uint8, offset=length).reshape(tensor["shape"])
        asked.append((headers.get("Authorization"), tensor["name"], tensor["parameters"]["binary_data_size"]))
        logits = np.outer(pixels[:, 0, 0, 0], UNIT).astype("<f4").tobytes()
        output = {"name": "o", "datatype": "FP32", "parameters": {"binary_data_size": len(logits)}}
        header = json.dumps({"outputs": [output]}).encode()
        return 200, {"Inference-Header-Content-Length": str(len(header))}, header + logits

    with stand_in(infer) as url:
        logits = RemoteEngine(bundle, url=url, model="net", bearer_token="secret").logits(cells(3))  # noqa: S106
    np.testing.assert_array_equal(logits, np.outer([0, 1, 2], UNIT))
    assert logits.dtype == np.float32 and logits.flags.writeable  # noqa: PT018
    assert asked == [("Bearer secret", "in", 3 * SIDE * SIDE * 3)]


def test_logits_as_text_are_read_too(bundle: Bundle) -> None:
    with stand_in(lambda _, __: (200, {}, as_text(2))) as url:
        logits = RemoteEngine(bundle, url=url, model="net").logits(cells(2))
    np.testing.assert_array_equal(logits, np.outer([0.5, 0.5], UNIT))


def test_a_server_that_is_away_for_a_moment_is_waited_for(bundle: Bundle) -> None:
    answers = iter([(503, {}, b""), (502, {}, b""), (200, {}, as_text(1))])
    with stand_in(lambda _, __: next(answers)) as url:
        assert RemoteEngine(bundle, url=url, model="net").logits(cells(1)).shape == (1, OUTPUTS)


@pytest.mark.parametrize(
    ("answer", "fault", "said"),
    [
        ((400, {}, b"patient Doe"), ModelFault, "answered 400"),
        ((503, {}, b""), ModelFault, "answered 503 for 2 s"),
        ((500, {}, b"CUDA out of memory"), OutOfDeviceMemory, "no memory"),
        ((200, {}, b"<html>"), ModelFault, "not one logit"),
        ((200, {}, as_text(5)), ModelFault, "not one logit"),
        ((200, {"Inference-Header-Content-Length": "many"}, as_text(1)), ModelFault, "not one logit"),
    ],
)
def test_other_answers_are_faults_that_quote_nothing(
    bundle: Bundle, answer: Answer, fault: type[ModelFault], said: str
) -> None:
    with stand_in(lambda _, __: answer) as url:
        engine = RemoteEngine(bundle, url=url, model="net", timeout_s=2)
        with pytest.raises(fault, match=said) as raised:
            engine.logits(cells(1))
    assert "Doe" not in str(raised.value)


@pytest.mark.parametrize(
    "described",
    [{}, [], {"inputs": []}, {"inputs": [{"name": "in", "datatype": "INT64"}]}, {"inputs": [{}, {}]}],
)
def test_a_model_that_takes_something_else_is_refused_at_the_start(bundle: Bundle, described: Any) -> None:
    with stand_in(lambda _, __: (200, {}, b""), described) as url, pytest.raises(ModelFault, match="model server"):
        RemoteEngine(bundle, url=url, model="net")


def test_another_network_than_the_bundles_is_refused_by_the_golden_cells(bundle: Bundle) -> None:
    golden, _ = bundle.golden()
    with (
        stand_in(lambda _, __: (200, {}, as_text(len(golden)))) as url,
        pytest.raises(ModelFault, match="does not repeat the golden cells"),
    ):
        start_engine(bundle, "remote", settings_of=ModelSettings(remote_url=url, remote_model="net").of_engine)


def test_a_bomb_in_an_answer_is_not_taken_into_memory(bundle: Bundle) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(256)) + packer.flush()
    with stand_in(lambda _, __: (200, {"Content-Encoding": "gzip"}, bomb)) as url:
        engine = RemoteEngine(bundle, url=url, model="net")
        tracemalloc.start()
        try:
            with pytest.raises(ModelFault, match="larger than any"):
                engine.logits(cells(1))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 64 * 2**20


def test_a_server_that_trickles_is_left_in_time(bundle: Bundle) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                time.sleep(0.05)
                connection.sendall(b" ")

    started = time.monotonic()
    with tcp_server(talk) as port, pytest.raises(ModelFault, match="does not answer"):
        RemoteEngine(bundle, url=f"http://127.0.0.1:{port}", model="net", timeout_s=1)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [b"<html>", b"[" * 200_000, b"\xff"])
def test_a_description_that_is_no_json_is_a_fault(bundle: Bundle, answer: bytes) -> None:
    with stand_in(lambda _, __: (200, {}, b""), answer) as url, pytest.raises(ModelFault, match="does not describe"):
        RemoteEngine(bundle, url=url, model="net")


def test_an_address_that_is_none_is_a_fault(bundle: Bundle) -> None:
    for url in ("http://[::1", "http://host:port"):
        with pytest.raises(ModelFault, match=r"model\.remote_url"):
            RemoteEngine(bundle, url=url, model="net", timeout_s=1)


def test_remote_without_an_address_says_what_to_set(bundle: Bundle) -> None:
    with pytest.raises(ModelFault, match=r"model\.remote_url"):
        start_engine(bundle, "remote")
