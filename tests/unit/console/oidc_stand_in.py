"""A stand-in for a hospital's OpenID Connect provider: discovery, authorization code with PKCE, signed ID tokens.

It is no provider: it lets in whoever asks, as the person the test has named. What it checks of a client is what a real
one would: client and secret, the code's single use, its redirect address, and the PKCE verifier.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "allpacs-console", "client-secret"


class Provider:
    """The provider; `claims` is who signs in next."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u-1"}
        self.tamper: dict[str, Any] = {}  # claims of the ID token that are made wrong
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.signs_with = self.key
        self.codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path)
        asked = {name: values[0] for name, values in parse_qs(path.query).items()}
        match path.path:
            case "/.well-known/openid-configuration":
                self._answer(
                    request,
                    {
                        "issuer": self.issuer,
                        "authorization_endpoint": f"{self.issuer}/authorize",
                        "token_endpoint": f"{self.issuer}/token",
                        "jwks_uri": f"{self.issuer}/keys",
                        "id_token_signing_alg_values_supported": ["RS256"],
                        "code_challenge_methods_supported": ["S256"],
                    },
                )
            case "/keys":
                self._answer(request, {"keys": [self.key.as_dict(private=False)]})
            case "/authorize":
                code = secrets.token_urlsafe(16)
                self.codes[code] = asked
                request.send_response(302)
                back = urlencode({"code": code, "state": asked["state"]})
                request.send_header("Location", f"{asked['redirect_uri']}?{back}")
                request.end_headers()
            case _:
                self._answer(request, {}, 404)

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        form = {name: values[0] for name, values in parse_qs(request.rfile.read(length).decode()).items()}
        asked = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if (
            asked is None
            or request.headers["Authorization"] != f"Basic {basic}"
            or form["redirect_uri"] != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            self._answer(request, {"error": "invalid_grant"}, 400)
            return
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        token = jwt.encode({"alg": "RS256", "kid": "1"}, claims | self.claims | self.tamper, self.signs_with)
        self._answer(request, {"access_token": "a", "token_type": "Bearer", "id_token": token})

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, body: dict[str, Any], status: int = 200) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.write(json.dumps(body).encode())
