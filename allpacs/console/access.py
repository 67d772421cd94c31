"""Who a visitor is and what they may do.

A visitor signs in with a token (one user, this machine only) or through OpenID Connect. What they may do follows from
their roles; each route names one permission (see `allpacs.console.app`). The session is a signed cookie whose
identifier the store knows: it ends when its person signs out (for every copy of the cookie), when nobody has used it
for a while, and in any case after a working day.

A request that changes something must come from a page of ours (``Sec-Fetch-Site`` or ``Origin``) and carry the
session's own token, in a header or in the form: neither alone is relied on (OWASP, Cross-Site Request Forgery
Prevention).
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allpacs.domain.errors import AllpacsError, StoreFault
from allpacs.store.sessions import Sessions


class Role(StrEnum):
    """What a person is to the console; a person may be several."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    ADMINISTRATOR = "administrator"


class Permission(StrEnum):
    """What a route asks for."""

    VIEW = "view"
    REVIEW = "review"
    UPLOAD = "upload"
    OPERATE = "operate"
    EXPORT = "export"


#: An administrator looks after the machines and signs nothing; who does both has both roles.
PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.REVIEWER: frozenset({Permission.VIEW, Permission.REVIEW, Permission.UPLOAD}),
    Role.ADMINISTRATOR: frozenset({Permission.VIEW, Permission.OPERATE, Permission.EXPORT}),
}

#: A session ends after so long however much it is used, seconds.
LONGEST_SESSION_S: Final = 12 * 3600.0
#: A session that is used is renewed this often, seconds.
_RENEW_S = 60.0
_ATTEMPTS = parse("10 per 5 minutes")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: Nothing is loaded from anywhere else, and nothing written in a page is run.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Person:
    """A visitor who has signed in.

    Attributes
    ----------
    identifier:
        What the organisation knows the person by: user name or staff number.
    name:
        DICOM person name where it is known, otherwise empty.
    """

    identifier: str
    name: str
    roles: frozenset[Role]

    def may(self, permission: Permission) -> bool:
        """Whether one of the person's roles gives the permission."""
        return any(permission in PERMISSIONS[role] for role in self.roles)

    @property
    def shown_name(self) -> str:
        """The name for a reader."""
        return " ".join(self.name.replace("^", " ").split()) or self.identifier


class ForgedRequestError(Exception):
    """A request that changes something did not come from one of our pages."""


class SignInRefused(AllpacsError):
    """The provider, or what it says, does not let this person in; one line that says why."""


def sign_in(request: Request, person: Person, sessions: Sessions) -> None:
    """Begin a session; an earlier one is ended, with its token."""
    sign_out(request, sessions)
    now = time.time()
    request.session.update(
        {
            "session": sessions.begin(person.identifier, now=now, longest_s=LONGEST_SESSION_S),
            "identifier": person.identifier,
            "name": person.name,
            "roles": sorted(person.roles),
            "csrf": secrets.token_urlsafe(24),
            "opened_at": now,
            "seen_at": now,
        }
    )


def sign_out(request: Request, sessions: Sessions, *, everywhere: bool = False) -> None:
    """End the session, or every session of its person, so that a copy of the cookie is of no use."""
    if "session" in request.session:
        sessions.end(request.session["session"])
        if everywhere:
            sessions.end_all(request.session["identifier"])
    request.session.clear()


def signed_in(request: Request, sessions: Sessions, *, idle_s: float) -> Person | None:
    """Return the person whose session this is, or None where there is none, or none any more.

    Live events do not renew a session: a page that is left open is not a person at work.

    Raises
    ------
    StoreFault
        The store cannot be asked: nobody is let in on a cookie's word alone.
    """
    session, now = request.session, time.time()
    if "session" not in session:
        return None
    if now - session["seen_at"] > idle_s or now - session["opened_at"] > LONGEST_SESSION_S:
        sign_out(request, sessions)
        return None
    if not sessions.is_open(session["session"]):
        session.clear()
        return None
    if now - session["seen_at"] > min(_RENEW_S, idle_s / 4) and request.url.path != "/events":
        session["seen_at"] = now
    return Person(session["identifier"], session["name"], frozenset(map(Role, session["roles"])))


def form_token(request: Request) -> str:
    """Return the token that a form of this session carries; makes one for a visitor who has not signed in yet."""
    if "csrf" not in request.session:
        request.session["csrf"] = secrets.token_urlsafe(24)
    return str(request.session["csrf"])


def check_origin(request: Request, address: str | None) -> None:
    """Check that a request that changes something was made by one of our own pages.

    Raises
    ------
    ForgedRequestError
        It was not.
    """
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise ForgedRequestError(f"the request comes from {site}")
    origin = request.headers.get("origin")
    own = {request.headers.get("host", "")} | ({urlsplit(address).netloc} if address else set())
    if origin is not None and urlsplit(origin).netloc not in own:
        raise ForgedRequestError("the request comes from another site")


def check_token(request: Request, given: str | None) -> None:
    """Check the token of a request that changes something.

    Raises
    ------
    ForgedRequestError
        It is not this session's.
    """
    expected = request.session.get("csrf")
    if expected is None or given is None or not hmac.compare_digest(str(expected), given):
        raise ForgedRequestError("the form is of another session: load the page again")


class Attempts:
    """Counts sign-in attempts by address: `_ATTEMPTS`, then the address waits."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def allowed(self, request: Request) -> bool:
        """Count one attempt, and return whether it may be made."""
        address = request.client.host if request.client is not None else "unknown"
        return self._limiter.hit(_ATTEMPTS, "sign-in", address)

    def forget(self, request: Request) -> None:
        """Forget the attempts of an address that has signed in."""
        address = request.client.host if request.client is not None else "unknown"
        self._limiter.clear(_ATTEMPTS, "sign-in", address)


def secret_of(file: Path) -> str:
    """Return the secret that a file of the store's folder holds, making it where there is none; only we can read it.

    Raises
    ------
    StoreFault
        It cannot be read or written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return file.read_text(encoding="ascii").strip()
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            secret = secrets.token_urlsafe(32)
            stream.write(secret + "\n")
        return secret
    except OSError as error:
        raise StoreFault(f"{file}: {error.strerror or error}") from error


class SecurityHeaders:
    """ASGI middleware: says with every answer what a browser may do with it; an answer's own word goes first."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = dict(_HEADERS)
        if https:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
