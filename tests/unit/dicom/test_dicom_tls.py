"""TLS on real sockets: who gets in, who is turned away and what is said of it, and certificates that are renewed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.dicom.tls import Tls, TlsFiles, client_tls, server_tls
from allpacs.domain.errors import ConfigFault, DeliveryUnavailable
from allpacs.receive.scp import StorageScp
from allpacs.store.store import Store
from conformance.support.certificates import Authority
from conformance.support.network import wait_until
from support.deliver_samples import bundle, fhir_artefact, http_server
from support.receivers import make_scp

Start = Callable[..., StorageScp]

ECHOSCU = "/usr/bin/echoscu"


@pytest.fixture
def hospital(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    store = Store.open(tmp_path / "store")
    started: list[StorageScp] = []

    def start_scp(**arguments: Any) -> StorageScp:
        scp = make_scp(store.receiving, ae_title="ALLPACS", transfer_syntaxes=["1.2.840.10008.1.2.1"], **arguments)
        scp.start()
        started.append(scp)
        return scp

    yield start_scp
    for scp in started:
        scp.stop(grace_s=0.0)
    store.close()


def ask(port: int, tls: Tls | None, host: str = "127.0.0.1") -> str:
    return CStoreDestination(host, port, "ALLPACS", "PACS", timeout_s=5.0, tls=tls).check()


def refused(port: int, tls: Tls | None, host: str = "127.0.0.1") -> str:
    with pytest.raises(DeliveryUnavailable) as caught:
        ask(port, tls, host)
    return str(caught.value)


@contextmanager
def told(event: str) -> Iterator[list[Any]]:
    """Give the lines of an event, of which there is one in the end: the other side may know before it is written."""
    found: list[Any] = []
    with capture_logs() as lines:
        yield found
        wait_until(lambda: any(line["event"] == event for line in lines), 10, f"{event} is logged")
    found += [line for line in lines if line["event"] == event]


def test_both_sides_know_each_other(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    assert ask(scp.port, client_tls(hospital.issue("pacs"))).endswith("0x0000")


def test_what_is_agreed_on_is_of_the_profile(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    client = client_tls(hospital.issue("pacs"))()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", scp.port), timeout=5) as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.version() == "TLSv1.2"
        name, *_ = connection.cipher() or ("",)
    assert name.startswith("ECDHE-")
    assert "GCM" in name or "CHACHA20" in name


@pytest.mark.parametrize(
    "weak",
    [{"maximum_version": ssl.TLSVersion.TLSv1_1}, {"ciphers": "AES128-SHA"}, {"ciphers": "ECDHE-RSA-AES128-SHA"}],
)
def test_what_is_not_of_the_profile_is_not_agreed_on(hospital: Authority, start: Start, weak: dict[str, Any]) -> None:
    files = hospital.issue("pacs")
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(files.trusted)
    client.load_cert_chain(str(files.certificate), files.key)
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = weak.get("maximum_version", ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(weak.get("ciphers", "DEFAULT") + ":@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", scp.port), timeout=5) as plain, pytest.raises(ssl.SSLError):
        client.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_sender_of_another_authority_is_turned_away(tmp_path: Path, hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    stranger = replace(Authority(tmp_path, "stranger").issue("pacs"), trusted=hospital.trusted)
    with told("tls_refused") as lines:
        assert "it may not trust our certificate" in refused(scp.port, client_tls(stranger))
    assert [line["reason"] for line in lines] == ["CERTIFICATE_VERIFY_FAILED"]


def test_a_sender_with_an_expired_certificate_is_turned_away(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    with told("tls_refused") as lines:
        refused(scp.port, client_tls(hospital.issue_expired("pacs")))
    assert [line["reason"] for line in lines] == ["CERTIFICATE_VERIFY_FAILED"]


def test_a_sender_without_a_certificate_is_turned_away_unless_that_is_allowed(
    hospital: Authority, start: Start
) -> None:
    files = hospital.issue("allpacs")
    anonymous = client_tls(TlsFiles(trusted=hospital.trusted))
    strict, lenient = start(tls=server_tls(files)), start(tls=server_tls(files, require_client_certificate=False))
    refused(strict.port, anonymous)
    assert ask(lenient.port, anonymous).endswith("0x0000")


def test_a_sender_without_tls_is_turned_away(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    with told("tls_refused") as lines:
        refused(scp.port, None)
    assert len(lines) == 1


def test_a_server_of_another_authority_is_not_talked_to(tmp_path: Path, hospital: Authority, start: Start) -> None:
    impostor = Authority(tmp_path, "impostor")
    scp = start(tls=server_tls(impostor.issue("allpacs"), require_client_certificate=False))
    assert "check certificates" in refused(scp.port, client_tls(hospital.issue("pacs")))


def test_a_server_with_an_expired_certificate_is_not_talked_to(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue_expired("allpacs")))
    assert "certificate has expired" in refused(scp.port, client_tls(hospital.issue("pacs")))


def test_a_certificate_must_be_for_the_host_unless_that_is_waived(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs", "allpacs.hospital.example")))
    files = hospital.issue("pacs")
    assert "IP address mismatch" in refused(scp.port, client_tls(files))
    assert ask(scp.port, client_tls(files, check_hostname=False)).endswith("0x0000")


def test_a_silent_connection_holds_up_nobody(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")), acse_timeout_s=0.5)
    silent = [socket.create_connection(("127.0.0.1", scp.port), timeout=5) for _ in range(5)]
    try:
        assert ask(scp.port, client_tls(hospital.issue("pacs"))).endswith("0x0000")
        for connection in silent:
            assert connection.recv(1) == b""  # closed by the receiver: the handshake took too long
    finally:
        for connection in silent:
            connection.close()


def test_a_renewed_certificate_is_used_without_a_restart(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue_expired("allpacs")))
    client = client_tls(hospital.issue("pacs"))
    assert "expired" in refused(scp.port, client)
    hospital.issue("allpacs")
    assert ask(scp.port, client).endswith("0x0000")


def test_a_broken_renewal_leaves_the_former_certificate_in_use(hospital: Authority, start: Start) -> None:
    files = hospital.issue("allpacs")
    scp = start(tls=server_tls(files))
    client = client_tls(hospital.issue("pacs"))
    assert files.key is not None
    files.key.write_text("half a key")
    with capture_logs() as lines:
        assert ask(scp.port, client).endswith("0x0000")
        assert ask(scp.port, client).endswith("0x0000")
    (line,) = [line for line in lines if line["event"] == "tls_files_unusable"]
    assert str(files.key) in line["reason"]
    assert "half a key" not in line["reason"]


@pytest.mark.parametrize("lost", ["certificate", "key", "trusted"])
def test_a_missing_file_is_named(hospital: Authority, tmp_path: Path, lost: str) -> None:
    files = replace(hospital.issue("allpacs"), **{lost: tmp_path / "nowhere.pem"})
    with pytest.raises(ConfigFault, match="nowhere"):
        server_tls(files)
    with pytest.raises(ConfigFault, match="nowhere"):
        client_tls(files)


def test_a_server_without_authorities_says_what_to_set(hospital: Authority) -> None:
    with pytest.raises(ConfigFault, match="trusted"):
        server_tls(replace(hospital.issue("allpacs"), trusted=None))


def test_an_encrypted_key_needs_its_password_and_never_asks_for_it(hospital: Authority, tmp_path: Path) -> None:
    files = hospital.issue("allpacs")
    assert files.key is not None
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        load_pem_private_key(files.key.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"CANARY-77")
        )
    )
    server_tls(replace(files, key=encrypted, key_password="CANARY-77"))  # noqa: S106
    with pytest.raises(ConfigFault) as caught:
        server_tls(replace(files, key=encrypted))
    assert "no certificate with its private key" in str(caught.value)
    assert "CANARY" not in repr(replace(files, key_password="CANARY-77"))  # noqa: S106


def test_addresses_outside_the_allowed_networks_are_refused(start: Start) -> None:
    closed = start(allowed_networks=[ip_network("10.0.0.0/8")])
    opened = start(allowed_networks=[ip_network("10.0.0.0/8"), ip_network("127.0.0.1")])
    with told("connection_refused") as lines:
        refused(closed.port, None)
    assert [line["address"] for line in lines] == ["127.0.0.1"]
    assert ask(opened.port, None).endswith("0x0000")


def test_the_fhir_server_sees_our_certificate(hospital: Authority) -> None:
    def answer(request: Any, _body: bytes) -> None:
        (seen,) = [
            value for ((name, value),) in request.connection.getpeercert()["subject"] if name == "organizationName"
        ]
        assert seen
        content = (
            b'{"resourceType":"Bundle","type":"transaction-response","entry":['
            + b",".join([b'{"response":{"status":"201"}}'] * len(bundle()["entry"]))
            + b"]}"
        )
        request.send_response(200)
        request.send_header("Content-Type", "application/fhir+json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    server, client = server_tls(hospital.issue("ehr")), client_tls(hospital.issue("allpacs"))
    anonymous = client_tls(TlsFiles(trusted=hospital.trusted))
    with http_server(answer, tls=server()) as base_url:
        receipt = FhirRestDestination(base_url, timeout_s=5.0, tls=client).deliver([fhir_artefact()])
        assert "201 Created" in receipt.detail
        with pytest.raises(DeliveryUnavailable):
            FhirRestDestination(base_url, timeout_s=5.0, tls=anonymous).deliver([fhir_artefact()])


@pytest.mark.skipif(not Path(ECHOSCU).exists(), reason="DCMTK is not installed")
def test_dcmtk_gets_in_with_a_certificate_and_not_without(hospital: Authority, start: Start) -> None:
    scp = start(tls=server_tls(hospital.issue("allpacs")))
    files = hospital.issue("pacs")
    known = ["--enable-tls", str(files.key), str(files.certificate), "--add-cert-file", str(files.trusted)]
    anonymous = ["--anonymous-tls", "--add-cert-file", str(files.trusted)]

    def echoscu(*options: str) -> int:
        command = [ECHOSCU, *options, "-aec", "ALLPACS", "-to", "5", "127.0.0.1", str(scp.port)]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode

    assert echoscu(*known) == 0
    assert echoscu(*anonymous) != 0
    assert echoscu() != 0
