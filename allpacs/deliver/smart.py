"""An access token by SMART Backend Services: OAuth 2.0 client credentials with a signed assertion, no shared secret.

Source: HL7 SMART App Launch 2, "Backend Services" and "Asymmetric (private_key_jwt)"; RFC 7523 section 2.2.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from authlib.oauth2.rfc7523 import private_key_jwt_sign
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from allpacs.deliver.http import ask, may_pass, retry_after_s
from allpacs.dicom.tls import Tls
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: How long an assertion is good for, at most (SMART: five minutes).
_ASSERTED_FOR_S = 300
#: A token is renewed when it has no more than this left: it must outlast the request that it is sent with.
_RENEWED_BEFORE_S = 60.0
#: Longest time that a token is kept, whatever it says, seconds.
_LONGEST_LIFE_S = 86_400.0
#: Bytes of an answer that are taken; a token has one or two thousand.
_MAX_ANSWER_BYTES = 256 * 1024
#: RFC 6750 2.1: what a bearer token may consist of; anything else would not fit into a request header.
_TOKEN = re.compile(r"[\x21-\x7e]+")
#: RFC 6749 5.2: errors that a person has to mend, and where.
_ERRORS = {
    "invalid_client": "register the public key and its key id there, and check client_id",
    "unauthorized_client": "allow this client the grant client_credentials there",
    "invalid_scope": "allow this client the scope there, or set another",
    "invalid_grant": "the server takes no such assertion: check its clock and ours",
    "invalid_request": "check token_url",
    "unsupported_grant_type": "it is no SMART Backend Services server: check token_url",
}


class BackendServices:
    """Fetches tokens and keeps each until it is nearly used up. Safe to call from several threads.

    Parameters
    ----------
    token_url:
        The authorization server's token endpoint.
    private_key:
        PEM file of our key: RSA (RS384) or EC P-384 (ES384), the two that every SMART server takes.
    key_id:
        ``kid`` of the public key as it is registered there; empty where it needs none.
    clock:
        Seconds, for the life of tokens.

    Raises
    ------
    ConfigFault
        The key cannot be read.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        private_key: Path,
        *,
        key_id: str = "",
        scope: str,
        timeout_s: float = 30.0,
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token_url = token_url
        self._name = urlsplit(token_url).hostname or "token server"
        self._client_id = client_id
        self._header = {"typ": "JWT", **({"kid": key_id} if key_id else {})}
        self._scope = scope
        self._timeout_s = timeout_s
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0
        try:
            self._key = private_key.read_text(encoding="ascii")
            kind = load_pem_private_key(self._key.encode(), None)
        except OSError as error:
            raise ConfigFault(f"private_key: {private_key}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise ConfigFault(f"private_key: {private_key} is no PEM file of an unencrypted private key") from error
        self._algorithm = "ES384" if isinstance(kind, EllipticCurvePrivateKey) else "RS384"

    def token(self) -> str:
        """Return a token that is good for a while yet.

        Raises
        ------
        DeliveryUnavailable
            The authorization server is away, or says that it is.
        DeliveryRejected
            It gives us none; the message says what to look at.
        """
        with self._lock:
            if self._clock() >= self._until:
                self._token, lives_s = self._fetch()
                self._until = self._clock() + max(0.0, lives_s - _RENEWED_BEFORE_S)
            return self._token

    def forget(self) -> None:
        """Fetch another token next time: the FHIR server has refused this one."""
        with self._lock:
            self._until = 0.0

    def _fetch(self) -> tuple[str, float]:
        assertion = private_key_jwt_sign(
            self._key,
            self._client_id,
            self._token_url,
            alg=self._algorithm,
            header=dict(self._header),
            expires_in=_ASSERTED_FOR_S,
        )
        form = {
            "grant_type": "client_credentials",
            "scope": self._scope,
            "client_assertion_type": _ASSERTION,
            "client_assertion": assertion,
        }
        try:
            answer = ask(
                self._name,
                "POST",
                self._token_url,
                timeout_s=self._timeout_s,
                tls=self._tls,
                data=form,
                headers={"Accept": "application/json"},
                max_bytes=_MAX_ANSWER_BYTES,
            )
        except DeliveryUnavailable as failure:
            raise DeliveryUnavailable(f"no token: {failure.reason}") from failure
        try:
            told = json.loads(answer.content)
        except (ValueError, RecursionError):
            told = None
        told = told if isinstance(told, dict) else {}
        if may_pass(answer.status):
            wait_s = retry_after_s(answer.headers.get("Retry-After"), datetime.now(UTC))
            raise DeliveryUnavailable(f"{self._name}: no token: {answer.status}", wait_s)
        token, lives_s = told.get("access_token"), told.get("expires_in")
        if not answer.is_success or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            error = str(told.get("error"))
            what = f"{error}: {_ERRORS[error]}" if error in _ERRORS else "check token_url and the registration there"
            raise DeliveryRejected(f"{self._name}: no token: {answer.status}, {what}")
        if not isinstance(lives_s, int | float):
            lives_s = _ASSERTED_FOR_S
        return token, float(max(0, min(lives_s, _LONGEST_LIFE_S)))
