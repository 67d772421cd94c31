"""Signing in and out; language and appearance."""

from __future__ import annotations

import hmac
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from allpacs.audit.messages import AuditEvent
from allpacs.console import access, rendering
from allpacs.console.access import Person, Role, SignInRefused
from allpacs.console.visit import Visit
from allpacs.settings import ConsoleSettings, Settings

if TYPE_CHECKING:
    from allpacs.console.oidc import Oidc

_log = structlog.get_logger("allpacs.console")

_A_YEAR_S = 365 * 86400


class SignIn:
    """What signing in needs besides the visit."""

    def __init__(self, settings: Settings) -> None:
        console = settings.console
        self.attempts = access.Attempts()
        self.token = "" if console.oidc else access.secret_of(settings.store.folder / "console.token")
        self.oidc = _oidc(console)


def show(visit: Visit) -> Response:
    """Show how to sign in."""
    if visit.person is not None:
        return RedirectResponse(_next(visit), 303)
    return visit.page("sign_in.html", next=_next(visit), wrong=False)


def with_token(visit: Visit) -> Response:
    """Sign in the one user of this machine."""
    parts = _parts(visit)
    if not parts.attempts.allowed(visit.request):
        _log.warning("sign_in_refused", reason="too many attempts")
        visit.tell(AuditEvent.SIGNED_IN, failure="too many attempts")
        return visit.page("fault.html", 429, {"Retry-After": "300"}, fault="too many attempts: wait five minutes")
    if not parts.token or not hmac.compare_digest(visit.posted("token").strip(), parts.token):
        _log.warning("sign_in_refused", reason="wrong token")
        _record(visit, "sign_in_refused")
        visit.tell(AuditEvent.SIGNED_IN, failure="wrong token")
        return visit.page("sign_in.html", 403, next=_next(visit), wrong=True)
    parts.attempts.forget(visit.request)
    person = Person("local", visit.console.settings.console.reviewer_name, frozenset(Role))
    return _begin(visit, person)


async def start_oidc(visit: Visit) -> Response:
    """Send the browser to the provider."""
    parts = _parts(visit)
    if parts.oidc is None:
        return RedirectResponse("/sign-in", 303)
    if not parts.attempts.allowed(visit.request):
        return visit.page("fault.html", 429, {"Retry-After": "300"}, fault="too many attempts: wait five minutes")
    visit.request.session["next"] = _next(visit)
    return await parts.oidc.start(visit.request)


async def finish_oidc(visit: Visit) -> Response:
    """Take up a browser that the provider has sent back."""
    parts = _parts(visit)
    if parts.oidc is None:
        return RedirectResponse("/sign-in", 303)
    try:
        person = await parts.oidc.finish(visit.request)
    except SignInRefused as refused:
        visit.tell(AuditEvent.SIGNED_IN, failure=str(refused))
        raise
    after = str(visit.request.session.get("next", "/"))
    parts.attempts.forget(visit.request)
    return await run_in_threadpool(_begin, visit, person, after)


def leave(visit: Visit) -> Response:
    """End the session, or (``everywhere``) those of the same person in other browsers, too."""
    if visit.person is not None:
        _record(visit, "signed_out", visit.person.identifier)
        visit.tell(AuditEvent.SIGNED_OUT)
    access.sign_out(visit.request, visit.store.sessions, everywhere=visit.posted("everywhere") == "yes")
    return RedirectResponse("/sign-in", 303)


def prefer(visit: Visit) -> Response:
    """Keep the language or the appearance that was chosen."""
    response = RedirectResponse(_next(visit), 303)
    https = visit.request.url.scheme == "https"
    if visit.posted("locale") in rendering.LOCALES:
        response.set_cookie(
            "allpacs_locale", visit.posted("locale"), _A_YEAR_S, samesite="lax", secure=https, httponly=True
        )
    if visit.posted("theme") in ("light", "dark", "system"):
        response.set_cookie(
            "allpacs_theme", visit.posted("theme"), _A_YEAR_S, samesite="lax", secure=https, httponly=True
        )
    return response


def _oidc(console: ConsoleSettings) -> Oidc | None:
    from allpacs.console.oidc import Oidc  # loads a client that the token does not need

    return None if console.oidc is None else Oidc(console.oidc, console.address)


def _begin(visit: Visit, person: Person, after: str | None = None) -> Response:
    access.sign_in(visit.request, person, visit.store.sessions)
    _record(visit, "signed_in", person.identifier)
    replace(visit, person=person).tell(AuditEvent.SIGNED_IN)
    return RedirectResponse(_own_path(after) if after else _next(visit), 303)


def _record(visit: Visit, event: str, who: str | None = None) -> None:
    visit.store.audit.record(event, at=time.time(), reason=who)


def _parts(visit: Visit) -> SignIn:
    parts: SignIn = visit.request.app.state.sign_in
    return parts


def _next(visit: Visit) -> str:
    return _own_path(visit.posted("next") or visit.query("next") or "/")


def _own_path(path: str) -> str:
    """Return a path of ours, or the worklist: nobody is sent to another site after signing in."""
    own = path.startswith("/") and not path.startswith(("//", "/\\")) and "\\" not in path and path.isprintable()
    return path if own else "/"
