"""A stand-in for an OpenTelemetry collector: takes OTLP over HTTP and reads it with the protocol's own definitions.

A real collector is in none of the package registries that tests may use.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class TakenSpan:
    """What the collector was told of one span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]


@dataclass(slots=True)
class OtlpReceiver:
    """What was sent: the bytes as they came, and the spans in them."""

    url: str = ""
    payloads: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[TakenSpan]:
        """Every span taken so far."""
        taken = []
        for payload in list(self.payloads):
            for resource in ExportTraceServiceRequest.FromString(payload).resource_spans:
                about = {one.key: one.value.string_value for one in resource.resource.attributes}
                taken += [
                    TakenSpan(
                        about["service.name"],
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        {one.key: one.value.string_value for one in span.attributes},
                    )
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return taken


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Take OTLP on a free port of loopback while the block runs."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.payloads.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            server.shutdown()
