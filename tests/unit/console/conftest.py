"""A console over a store with one reported study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from allpacs.audit.messages import AuditEvent
from allpacs.audit.trail import AuditTrail, NoTrail
from allpacs.console import access
from allpacs.console.access import Person, Role
from allpacs.console.app import make_console
from allpacs.settings import Settings, load_settings
from allpacs.store.store import Store
from support.console_samples import reported_study

HOSTILE = "<b>O'Neil</b>^<script>alert(1)</script>"


class Browser(TestClient):
    """A client that keeps cookies and sends the token of its session."""

    token: str

    def change(self, path: str, **fields: Any) -> Any:
        """Post a form of this session."""
        return self.post(path, data={"csrf": self.token, **fields}, headers={"accept": "text/html"})

    def see(self, path: str, **headers: str) -> Any:
        """Open a page as a browser does."""
        return self.get(path, headers={"accept": "text/html", **headers})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("console") / "store")
    yield store
    store.close()


@pytest.fixture(scope="module")
def study(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    return reported_study(store, tmp_path_factory.mktemp("source"), patient_name=HOSTILE, patient_id="ID-<i>7</i>")


@pytest.fixture(scope="module")
def browse(store: Store) -> Callable[..., Browser]:
    """Return a maker of browsers: of a person with these roles, or of nobody."""

    def make(*roles: Role, identifier: str = "someone", of: Store = store, **settings: Any) -> Browser:
        audit = settings.pop("audit", None)
        sections = {name: settings.pop(name) for name in ("receive", "destinations") if name in settings}
        sections.setdefault("receive", {"port": 1})  # where nothing answers
        folder = of.spool.folder.parent
        configured = load_settings(store={"folder": folder}, console=settings, **sections)
        return browser_of(configured, of, *roles, identifier=identifier, audit=audit)

    return make


def browser_of(
    settings: Settings, store: Store, *roles: Role, identifier: str = "someone", audit: AuditTrail | None = None
) -> Browser:
    """Return the browser of a person with these roles, or of nobody."""
    application = make_console(settings, store, audit=audit)

    def enter(request: Request) -> Response:  # a short cut past the sign-in page, which has tests of its own
        access.sign_in(request, Person(identifier, "Person^Some", frozenset(roles)), store.sessions)
        return PlainTextResponse(str(request.session["csrf"]))

    application.router.routes.insert(0, Route("/test-enter", enter))
    browser = Browser(application, base_url="http://127.0.0.1:8142", follow_redirects=False)
    browser.token = browser.get("/test-enter").text if roles else ""
    return browser


class Told(NoTrail):
    """An audit trail that remembers what people did."""

    def __init__(self) -> None:
        self.messages: list[tuple[AuditEvent, str, tuple[str, ...], str | None]] = []

    def person(
        self, event: AuditEvent, who: str, address: str, *, studies: Sequence[str] = (), failure: str | None = None
    ) -> None:
        assert address == "testclient"
        self.messages.append((event, who, tuple(studies), failure))
