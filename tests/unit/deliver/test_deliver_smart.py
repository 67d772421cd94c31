"""SMART Backend Services: the assertion is what the specification says, and a token is fetched when one is needed."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from allpacs.deliver.fhir_rest import FhirRestDestination
from allpacs.deliver.smart import BackendServices
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from support.deliver_samples import fhir_artefact, http_server, tcp_server

Answer = Callable[[Any, bytes], None]


def key(folder: Path, private: Any) -> tuple[Path, bytes]:
    """Write a private key; return its file and the public key."""
    file = folder / "oauth.key"
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file, private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def private_key(tmp_path: Path) -> Path:
    return key(tmp_path, ec.generate_private_key(ec.SECP384R1()))[0]


def reply(status: int, body: object, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(request: Any, _body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def tokens(url: str, private_key: Path, **options: Any) -> BackendServices:
    return BackendServices(f"{url}/token", "allpacs", private_key, scope="system/*.cu", timeout_s=5, **options)


@pytest.mark.parametrize(
    ("private", "algorithm", "importer"),
    [
        (rsa.generate_private_key(65537, 2048), "RS384", RSAKey.import_key),
        (ec.generate_private_key(ec.SECP384R1()), "ES384", ECKey.import_key),
    ],
)
def test_assertion_is_signed_and_says_what_smart_wants(
    private: Any, algorithm: str, importer: Any, tmp_path: Path
) -> None:
    file, public = key(tmp_path, private)
    asked: list[dict[str, list[str]]] = []

    def answer(request: Any, body: bytes) -> None:
        asked.append(parse_qs(body.decode()))
        reply(200, {"access_token": "t1", "token_type": "bearer", "expires_in": 300})(request, body)

    with http_server(answer) as url:
        assert tokens(url, file, key_id="k1").token() == "t1"
    (form,) = asked
    assert form["grant_type"] == ["client_credentials"]
    assert form["scope"] == ["system/*.cu"]
    assert form["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
    told = jwt.decode(form["client_assertion"][0], importer(public), algorithms=[algorithm])
    assert (told.header["alg"], told.header["kid"], told.header["typ"]) == (algorithm, "k1", "JWT")
    assert told.claims["iss"] == told.claims["sub"] == "allpacs"
    assert told.claims["aud"] == f"{url}/token"
    assert told.claims["exp"] - told.claims["iat"] <= 300
    assert told.claims["jti"]


def test_a_token_is_kept_until_it_is_nearly_used_up(private_key: Path) -> None:
    now, served = [0.0], []

    def answer(request: Any, body: bytes) -> None:
        served.append(body)
        reply(200, {"access_token": f"t{len(served)}", "expires_in": 300})(request, body)

    with http_server(answer) as url:
        source = tokens(url, private_key, clock=lambda: now[0])
        assert [source.token(), source.token()] == ["t1", "t1"]
        now[0] = 239.0
        assert source.token() == "t1"
        now[0] = 241.0
        assert source.token() == "t2"
    first, second = (parse_qs(body.decode())["client_assertion"][0] for body in served)
    assert first != second, "an assertion is used once"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (reply(400, {"error": "invalid_client"}), DeliveryRejected, "register the public key"),
        (reply(400, {"error": "invalid_scope", "error_description": "Zebedee"}), DeliveryRejected, "set another"),
        (reply(401, b"<html>Zebedee</html>"), DeliveryRejected, "check token_url"),
        (reply(200, {"token": "x"}), DeliveryRejected, "check token_url"),
        (reply(200, b"<html>log in</html>"), DeliveryRejected, "check token_url"),
        (reply(200, {"access_token": "t\r\nX-Zebedee: 1"}), DeliveryRejected, "check token_url"),
        (reply(200, {"access_token": "Zebedee\u017c"}), DeliveryRejected, "check token_url"),
        (reply(200, b"[" * 200_000), DeliveryRejected, "check token_url"),
        (reply(200, b" " * 300_000), DeliveryRejected, "check token_url"),
        (reply(408, b""), DeliveryUnavailable, "408"),
        (reply(503, b""), DeliveryUnavailable, "503"),
        (reply(429, b"", Retry_After="7"), DeliveryUnavailable, "429"),
    ],
)
def test_no_token(answer: Answer, kind: type[Exception], said: str, private_key: Path) -> None:
    with http_server(answer) as url, pytest.raises(kind, match=said) as told:
        tokens(url, private_key).token()
    assert "Zebedee" not in str(told.value)
    if "429" in said:
        assert told.value.retry_after_s == 7.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("lives_s", [10**400, 1e300, float("nan"), -(10**400), "300", None, True], ids=lambda _: "")
def test_a_senseless_life_is_no_fault(lives_s: object, private_key: Path) -> None:
    now = [0.0]
    with http_server(reply(200, {"access_token": "t", "expires_in": lives_s})) as url:
        source = tokens(url, private_key, clock=lambda: now[0])
        assert source.token() == "t"
        now[0] = 86_400.0
    with pytest.raises(DeliveryUnavailable):  # no token lives longer than a day: it asks again
        source.token()


def test_a_server_that_trickles_or_never_ends_is_left(private_key: Path) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                time.sleep(0.05)
                connection.sendall(b" ")

    def bomb(request: Any, _body: bytes) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        content = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush()
        reply(200, content, Content_Encoding="gzip")(request, _body)

    started = time.monotonic()
    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="no token"):
        BackendServices(f"http://127.0.0.1:{port}", "allpacs", private_key, scope="s", timeout_s=1).token()
    assert time.monotonic() - started < 10
    with http_server(bomb) as url, pytest.raises(DeliveryRejected, match="check token_url"):
        tokens(url, private_key).token()


def test_a_key_that_is_none_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="No such file"):
        tokens("http://127.0.0.1:1", tmp_path / "missing.key")
    (tmp_path / "wrong.key").write_text("secret")
    with pytest.raises(ConfigFault, match="no PEM file") as told:
        tokens("http://127.0.0.1:1", tmp_path / "wrong.key")
    assert "secret" not in str(told.value)


def test_the_bundle_goes_with_the_token_and_a_withdrawn_one_is_replaced_once(private_key: Path) -> None:
    fetched, shown = [], []
    response = {"resourceType": "Bundle", "type": "transaction-response"}

    def answer(request: Any, body: bytes) -> None:
        if request.path == "/token":
            fetched.append(1)
            reply(200, {"access_token": f"t{len(fetched)}", "expires_in": 300})(request, body)
            return
        shown.append(request.headers["Authorization"])
        entries = [{"response": {"status": "200"}} for _ in json.loads(body)["entry"]]
        accepted = shown[-1] == "Bearer t2"
        reply(200 if accepted else 401, {**response, "entry": entries} if accepted else b"")(request, body)

    with http_server(answer) as url:
        destination = FhirRestDestination(url, tokens=tokens(url, private_key))
        assert destination.deliver([fhir_artefact()]).detail == "200 OK x3"
    assert shown == ["Bearer t1", "Bearer t2"]


def test_a_server_that_never_takes_the_token_is_for_a_person(private_key: Path) -> None:
    shown = []

    def answer(request: Any, body: bytes) -> None:
        if request.path == "/token":
            reply(200, {"access_token": "t", "expires_in": 300})(request, body)
        else:
            shown.append(1)
            reply(401, b"")(request, body)

    with http_server(answer) as url, pytest.raises(DeliveryRejected, match="oauth of this destination"):
        FhirRestDestination(url, tokens=tokens(url, private_key)).deliver([fhir_artefact()])
    assert len(shown) == 2
