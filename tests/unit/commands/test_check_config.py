"""What check-config finds, each with something that is really wrong."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from allpacs.app import open_store
from allpacs.app.health import Monitor
from allpacs.commands.certificates import check_certificates
from allpacs.commands.check_config import checks
from allpacs.commands.health import ask_health
from allpacs.commands.process import Process
from allpacs.domain.errors import AllpacsError, ConfigFault
from allpacs.settings import SHIPPED_BUNDLE, Settings, load_settings
from conformance.support.certificates import Authority
from conformance.support.network import free_port
from support.store_samples import keep_one


def _settings(folder: Path, text: str = "") -> Settings:
    file = folder / "allpacs.toml"
    file.write_text(
        f"[store]\nfolder = {json.dumps(str(folder / 'store'))}\n"
        f"[monitor]\nreceive_port = {free_port()}\nwork_port = {free_port()}\n{text}",
        encoding="utf-8",
    )
    return load_settings(file)


def _check(settings: Settings, name: str) -> str:
    return dict(checks(settings, quick=True))[name]()


def test_everything_named_is_checked(tmp_path: Path) -> None:
    ours = Authority(tmp_path).issue("ours")
    tls = f'tls = {{ certificate = "{ours.certificate}", key = "{ours.key}", trusted = "{ours.trusted}" }}\n'
    settings = _settings(
        tmp_path,
        f"[receive]\n{tls}[receive.sources.PACS.commitment]\nhost = '127.0.0.1'\nport = 104\n"
        f"[destinations.pacs]\nkind = 'c_store'\nhost = '127.0.0.1'\nport = 104\ncalled_ae = 'PACS'\n{tls}"
        "[console.oidc]\nissuer = 'http://127.0.0.1:1'\nclient_id = 'a'\nclient_secret = 'b'\n",
    )
    assert [name for name, _ in checks(settings)] == [
        "store", "receiver", "receive.tls", "receive.sources.PACS.commitment", "model", "destinations.pacs.tls",
        "destinations.pacs", "deliveries", "monitor.receive_port", "monitor.work_port", "console", "console.oidc",
    ]  # fmt: skip


def test_results_of_a_renamed_destination_are_told(tmp_path: Path) -> None:
    pacs = "[destinations.{}]\nkind = 'c_store'\nhost = '127.0.0.1'\nport = 104\ncalled_ae = 'PACS'\n"
    store = open_store(_settings(tmp_path, pacs.format("old")))
    keep_one(store)
    store.deliveries.queue("1.2", 1, ["old"], now=1.0)
    store.close()
    assert _check(_settings(tmp_path, pacs.format("old")), "deliveries").startswith("every result")
    with pytest.raises(AllpacsError, match=r"not configured \(1 for old\).*retry STUDY --to NAME"):
        _check(_settings(tmp_path, pacs.format("new")), "deliveries")


def test_a_full_disk(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "[receive]\nmin_free_mb = 1000000000\n")
    with pytest.raises(AllpacsError, match=r"less than receive.min_free_mb: free some"):
        _check(settings, "store")


def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = _settings(tmp_path, f"[receive]\nport = {taken.getsockname()[1]}\n")
        with pytest.raises(AllpacsError, match=r"cannot be bound .* change receive.port"):
            _check(settings, "receiver")


def test_a_bundle_that_was_changed(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED_BUNDLE, tmp_path / "bundle")
    with (tmp_path / "bundle" / "weights.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\xff")
    settings = _settings(tmp_path, f"[model]\nbundle = {json.dumps(str(tmp_path / 'bundle'))}\n")
    with pytest.raises(AllpacsError, match=r"use the bundle folder as it was released"):
        _check(settings, "model")


def test_nobody_at_the_commitment_address(tmp_path: Path) -> None:
    text = f"[receive.sources.PACS.commitment]\nhost = '127.0.0.1'\nport = {free_port()}\n"
    with pytest.raises(AllpacsError, match="PACS"):
        _check(_settings(tmp_path, text), "receive.sources.PACS.commitment")


def test_certificates_in_force_say_until_when(tmp_path: Path) -> None:
    ours = Authority(tmp_path).issue("ours", not_after=dt.datetime.now(dt.UTC) + dt.timedelta(days=3))
    said = check_certificates(ours.certificate, ours.trusted, server=True)
    assert "renew soon" in said
    assert "1 trusted until" in said


def test_an_ended_certificate(tmp_path: Path) -> None:
    ours = Authority(tmp_path).issue_expired("ours")
    settings = _settings(
        tmp_path, f'[receive.tls]\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\ntrusted = "{ours.trusted}"\n'
    )
    with pytest.raises(ConfigFault, match=r"receive.tls: .*ended on .*: renew it"):
        _check(settings, "receive.tls")


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, others = authority.issue("ours"), authority.issue("others")
    settings = _settings(
        tmp_path,
        f'[receive.tls]\ncertificate = "{ours.certificate}"\nkey = "{others.key}"\ntrusted = "{ours.trusted}"\n',
    )
    with pytest.raises(ConfigFault, match="no certificate with its private key"):
        _check(settings, "receive.tls")


def test_a_chain_in_the_wrong_order(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain = tmp_path / "chain.pem"
    one, other = authority.issue("one"), authority.issue("other")
    assert one.certificate is not None
    assert other.certificate is not None
    chain.write_bytes(one.certificate.read_bytes() + other.certificate.read_bytes())
    with pytest.raises(ConfigFault, match=r"is not signed by .*put our own certificate first"):
        check_certificates(chain, None, server=True)
    chain.write_bytes(one.certificate.read_bytes() + authority.trusted.read_bytes())
    check_certificates(chain, None, server=True)


def test_a_file_without_certificates(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ConfigFault, match="no PEM certificate"):
        check_certificates(None, empty, server=False)


@contextmanager
def _provider(stated: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(stated.replace(b"ISSUER", issuer.encode()))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (b'{"issuer": "ISSUER"}', None),
        (b'{"issuer": "ISSUER/"}', "does not state this issuer"),
        (b"<html>", "cannot be read"),
    ],
)
def test_the_sign_in_provider(tmp_path: Path, stated: bytes, said: str | None) -> None:
    with _provider(stated) as issuer:
        settings = _settings(
            tmp_path, f"[console.oidc]\nissuer = '{issuer}'\nclient_id = 'allpacs'\nclient_secret = 'secret'\n"
        )
        if said is None:
            assert issuer in _check(settings, "console.oidc")
        else:
            with pytest.raises(ConfigFault, match=said):
                _check(settings, "console.oidc")


def test_health_is_that_of_the_process(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    with pytest.raises(AllpacsError, match="nobody answers"):
        ask_health(settings, Process.RECEIVE)
    ill: list[str] = []
    monitor = Monitor(
        "127.0.0.1", settings.monitor.receive_port, healthy=lambda: None, ready=lambda: ill[0] if ill else None
    )
    monitor.start()
    try:
        assert ask_health(settings, Process.RECEIVE) == "receive: alive"
        assert ask_health(settings, Process.RECEIVE, ready=True) == "receive: ready"
        ill.append("the disk is full")
        assert ask_health(settings, Process.RECEIVE) == "receive: alive"
        with pytest.raises(AllpacsError, match="the disk is full"):
            ask_health(settings, Process.RECEIVE, ready=True)
        assert "listening" in _check(settings, "monitor.receive_port")  # our own process has it: nothing to mend
    finally:
        monitor.stop()


def test_health_of_another_program_is_not_ours(tmp_path: Path) -> None:
    with _provider(b"{}") as address:
        port = address.rsplit(":", 1)[1]
        file = tmp_path / "allpacs.toml"
        file.write_text(f"[monitor]\nwork_port = {port}\n", encoding="utf-8")
        settings = load_settings(file)
        with pytest.raises(AllpacsError, match=r"it is not allpacs"):
            ask_health(settings, Process.WORK)
        with pytest.raises(AllpacsError, match=r"change monitor.work_port"):
            _check(settings, "monitor.work_port")
