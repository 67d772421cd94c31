"""Health, readiness and metrics of one process, as a probe and a scraper see them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from allpacs.app import start_monitor
from allpacs.app.health import Monitor, StoreMetrics
from allpacs.dicom.tls import client_tls, server_tls
from allpacs.domain.errors import ConfigFault, StoreFault
from allpacs.domain.instance import InstanceIdentity
from allpacs.settings import load_settings
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from conformance.support.certificates import Authority

Start = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    store = Store.open(tmp_path, database_url)
    yield store
    store.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a monitor; yield its address."""
    started: list[Monitor] = []

    def begin(**parts: object) -> str:
        fine = {"healthy": lambda: None, "ready": lambda: None}
        monitor = Monitor("127.0.0.1", 0, **{**fine, **parts})  # type: ignore[arg-type]
        monitor.start()
        started.append(monitor)
        return f"{'http' if parts.get('tls') is None else 'https'}://127.0.0.1:{monitor.port}"

    yield begin
    for monitor in started:
        monitor.stop()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_and_readiness_are_told_apart(start: Start) -> None:
    address = start(ready=lambda: "free disk is below receive.min_free_mb")
    healthy, ready = httpx.get(f"{address}/healthz"), httpx.get(f"{address}/readyz")
    assert (healthy.status_code, healthy.json()) == (200, {"status": "ok"})
    assert ready.status_code == 503
    assert ready.json()["reason"] == "free disk is below receive.min_free_mb"
    assert httpx.get(f"{address}/other").status_code == 404
    assert httpx.post(f"{address}/metrics").status_code == 501


def test_what_the_index_knows_is_asked_at_each_scrape(store: Store, start: Start) -> None:
    address = start(collector=StoreMetrics(store, now=lambda: 1000.0))
    for study in ("1.1", "1.2", "1.3"):
        store.receiving.keep_instance(
            InstanceIdentity(f"{study}.5", "1.4", "1.2.840.10008.1.2.1", study, f"{study}.4"),
            b"meta", b"pixels", calling_ae="PACS", received_at=100.0, quiet_s=0.0, max_age_s=1.0,
        )  # fmt: skip
    store.revisions.close_due(400.0)
    store.revisions.set_state("1.2", 1, RevisionState.REPORTED)
    store.deliveries.queue("1.2", 1, ["pacs", "ehr"], now=500.0)
    store.deliveries.set_state("1.2", 1, "ehr", DeliveryState.SENT, now=500.0)
    told = samples(httpx.get(f"{address}/metrics").text)
    assert told["allpacs_store_up", ()] == 1
    assert told["allpacs_studies", (("state", "queued"),)] == 2
    assert told["allpacs_oldest_unread_seconds", ()] == 600.0
    assert told["allpacs_deliveries", (("destination", "pacs"), ("state", "queued"))] == 1
    assert told["allpacs_deliveries", (("destination", "ehr"), ("state", "sent"))] == 1
    assert told["allpacs_oldest_undelivered_seconds", (("destination", "pacs"),)] == 600.0
    assert ("allpacs_oldest_undelivered_seconds", (("destination", "ehr"),)) not in told
    assert told["allpacs_spool_free_bytes", ()] > 0


def test_a_store_that_is_away_is_told_and_the_rest_is_served(store: Store, start: Start) -> None:
    def away() -> None:
        raise StoreFault("index: the database is away")

    broken = store.backlog.__class__(store.database)
    broken.now = away  # type: ignore[method-assign,assignment]
    store_metrics = StoreMetrics(store)
    object.__setattr__(store, "backlog", broken)
    told = samples(httpx.get(f"{start(collector=store_metrics)}/metrics").text)
    assert told["allpacs_store_up", ()] == 0
    assert ("allpacs_spool_free_bytes", ()) not in told


def test_with_a_token_metrics_are_for_its_bearers_and_probes_for_all(start: Start) -> None:
    address = start(token="t0p-secret")  # noqa: S106 - made up
    assert httpx.get(f"{address}/metrics").status_code == 401
    assert httpx.get(f"{address}/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{address}/metrics", headers={"Authorization": "Bearer t0p-secret"}).status_code == 200
    assert httpx.get(f"{address}/healthz").status_code == 200


def test_over_tls(tmp_path: Path, start: Start) -> None:
    authority = Authority(tmp_path)
    address = start(tls=server_tls(authority.issue("monitor"), require_client_certificate=False))
    trusting = client_tls(authority.issue("probe"))()
    assert httpx.get(f"{address}/healthz", verify=trusting).status_code == 200
    with pytest.raises(httpx.RequestError):
        httpx.get(address.replace("https", "http") + "/healthz")


def test_silent_and_hostile_clients_hold_up_nobody(start: Start) -> None:
    address = start()
    port = int(address.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(15)]
    for junk in (b"\x16\x03\x01" * 50, b"GET " + b"/" * 100_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(5)
            try:
                connection.sendall(junk)
                while connection.recv(4096):
                    pass
            except OSError:
                pass
    assert httpx.get(f"{address}/healthz").status_code == 200
    # More at once than there are places: closed, and served again when there is a place.
    more = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for connection in (*silent, *more):
        connection.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert httpx.get(f"{address}/healthz").status_code == 200
            break
        except httpx.RequestError:
            assert time.monotonic() < deadline


def test_beyond_loopback_it_needs_tls_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_MONITOR__HOST", "0.0.0.0")  # noqa: S104 - that is what must be refused
    with pytest.raises(ConfigFault, match="tls and bearer_token"):
        load_settings()


def test_a_port_that_is_taken_does_not_keep_the_process_from_its_work(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start_monitor(load_settings(), store, port, healthy=lambda: None, ready=lambda: None) is None


def test_too_little_disk_is_not_ready(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_RECEIVE__MIN_FREE_MB", str(10**9))
    monitor = start_monitor(load_settings(), store, 0, healthy=lambda: None, ready=lambda: None)
    assert monitor is not None
    answer = httpx.get(f"http://127.0.0.1:{monitor.port}/readyz")
    monitor.stop()
    assert (answer.status_code, "min_free_mb" in answer.json()["reason"]) == (503, True)
