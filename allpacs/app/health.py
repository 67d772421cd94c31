"""One process seen from outside: ``/healthz``, ``/readyz`` and ``/metrics``, on an address of its own.

``/healthz`` answers 503 where only a restart helps, ``/readyz`` where there is something to wait for or to mend; both
say what, in one line. ``/metrics`` is Prometheus text; where a token is configured, for its bearers only.
"""

from __future__ import annotations

import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from allpacs.dicom.tls import Tls
from allpacs.domain.errors import StoreFault
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.app.health")

#: A client may be silent for so long.
_TIMEOUT_S = 10.0
#: Clients at a time; further ones are closed at once.
_MOST_CLIENTS = 16

#: Returns None where all is well, and otherwise what is not, in one line without patient data.
Check = Callable[[], str | None]


class Monitor:
    """Serves the three addresses of one process in threads of its own.

    Parameters
    ----------
    healthy, ready:
        Asked at each request.
    collector:
        Metrics besides those of `allpacs.telemetry.metrics`.
    token:
        What a client of ``/metrics`` has to bear; None: anybody may ask.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthy: Check,
        ready: Check,
        collector: Collector | None = None,
        token: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._address = (host, port)
        self._checks = {"/healthz": healthy, "/readyz": ready}
        self._registry = CollectorRegistry()
        if collector is not None:
            self._registry.register(collector)
        self._token = token
        self._tls = tls
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """TCP port that is listened on."""
        return self._address[1] if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        OSError
            The address cannot be listened on.
        """
        self._server = _Server(self._address, self._tls, self._answer)
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()
        _log.info("monitor_started", host=self._address[0], port=self.port)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer to a GET."""
        if path in self._checks:
            wrong = self._checks[path]()
            body = {"status": "ok"} if wrong is None else {"status": "failed", "reason": wrong}
            return (200 if wrong is None else 503), "application/json", json.dumps(body).encode()
        if path == "/metrics":
            if self._token is not None and not hmac.compare_digest(
                authorization.encode(), f"Bearer {self._token}".encode()
            ):
                return 401, "text/plain", b"a bearer token is needed\n"
            return 200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY) + generate_latest(self._registry)
        return 404, "text/plain", b"/healthz, /readyz or /metrics\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], tls: Tls | None, answer: Callable[[str, str], tuple[int, str, bytes]]
    ) -> None:
        self.tls = tls
        self.answer = answer
        self._places = threading.BoundedSemaphore(_MOST_CLIENTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(_TIMEOUT_S)
            if self.tls is not None:
                request = self.tls().wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except (ssl.SSLError, OSError):
            self.shutdown_request(request)
        finally:
            self._places.release()

    def handle_error(self, _request: socket.socket | tuple[bytes, socket.socket], _client_address: Any) -> None:
        """Say nothing: a client that hangs up is its own affair, and a stack trace may quote what it sent."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "allpacs"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        status, kind, body = self.server.answer(self.path.split("?")[0], self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a path is whatever a client makes it."""


class StoreMetrics(Collector):
    """What the index says of work that waits, asked at each scrape: right after a restart, and from any process."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; only ``allpacs_store_up 0`` where the store cannot be asked."""
        up = GaugeMetricFamily("allpacs_store_up", "Whether index and spool can be asked.")
        try:
            backlog = self._store.backlog.now()
            free = self._store.spool.free_bytes()
        except StoreFault:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        now = self._now()
        yield GaugeMetricFamily("allpacs_spool_free_bytes", "Bytes the spool's file system has left.", value=free)
        studies = GaugeMetricFamily("allpacs_studies", "Studies by state.", labels=["state"])
        for state, count in sorted(backlog.studies.items()):
            studies.add_metric([state], count)
        yield studies
        yield GaugeMetricFamily(
            "allpacs_oldest_unread_seconds",
            "Age of the oldest revision that has not been read.",
            value=0 if backlog.oldest_unread_at is None else max(0.0, now - backlog.oldest_unread_at),
        )
        deliveries = GaugeMetricFamily("allpacs_deliveries", "Deliveries by state.", labels=["destination", "state"])
        ages = GaugeMetricFamily(
            "allpacs_oldest_undelivered_seconds", "Age of the oldest result not delivered yet.", labels=["destination"]
        )
        for (destination, state), count in sorted(backlog.deliveries.items()):
            deliveries.add_metric([destination, state], count)
        for destination, at in sorted(backlog.oldest_undelivered_at.items()):
            ages.add_metric([destination], max(0.0, now - at))
        yield deliveries
        yield ages
