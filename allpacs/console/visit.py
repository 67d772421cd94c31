"""One request with everything that its handler needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from allpacs.audit.messages import AuditEvent
from allpacs.audit.trail import AuditTrail
from allpacs.console import access, rendering
from allpacs.console.access import Permission, Person
from allpacs.console.bundle import BundleInUse
from allpacs.console.cells import CellsOfStudies
from allpacs.console.faults import said
from allpacs.console.patients import Patients
from allpacs.console.pictures import Pictures
from allpacs.settings import Settings
from allpacs.store.store import Store


@dataclass(frozen=True, slots=True)
class Console:
    """The parts that handlers share."""

    settings: Settings
    store: Store
    patients: Patients
    cells: CellsOfStudies
    pictures: Pictures
    in_use: BundleInUse
    audit: AuditTrail


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a person who may make it.

    Attributes
    ----------
    person:
        None on the pages for visitors who have not signed in.
    form:
        What was posted; empty for every other request.
    """

    request: Request
    console: Console
    person: Person | None
    form: FormData = field(default_factory=FormData)

    @property
    def store(self) -> Store:
        """The store."""
        return self.console.store

    @property
    def someone(self) -> Person:
        """The person, on a page that asks for a permission."""
        if self.person is None:
            raise RuntimeError("this route asks for no permission")
        return self.person

    def tell(self, event: AuditEvent, *, study_uid: str | None = None, failure: str | None = None) -> None:
        """Tell the audit trail what the visitor did, or was not let."""
        self.console.audit.person(
            event,
            "" if self.person is None else self.person.identifier,
            self.request.client.host if self.request.client is not None else "unknown",
            studies=() if study_uid is None else (study_uid,),
            failure=failure,
        )

    @property
    def locale(self) -> str:
        """The language of the page."""
        chosen = self.request.cookies.get("allpacs_locale", "")
        if chosen in rendering.LOCALES:
            return chosen
        fixed = self.console.settings.console.locale
        return fixed or rendering.preferred_locale(self.request.headers.get("accept-language", ""))

    @property
    def is_partial(self) -> bool:
        """Whether only a part of the page is asked for (htmx, and not to restore a page from its history)."""
        headers = self.request.headers
        return headers.get("hx-request") == "true" and headers.get("hx-history-restore-request") != "true"

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """Return a parameter of the query."""
        return self.request.query_params.get(name, default)

    def posted(self, name: str, default: str = "") -> str:
        """Return a field of the form; a file there is not a text."""
        value = self.form.get(name, default)
        return value if isinstance(value, str) else default

    def page(
        self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Response:
        """Return a page, or a part of one, in the visitor's language."""
        theme = self.request.cookies.get("allpacs_theme", "")
        text = rendering.render(
            template,
            self.locale,
            said=lambda fault: said(fault, self.locale),
            person=self.person,
            permission=Permission,
            csrf=access.form_token(self.request),
            here=self.request.url.path,
            here_with_query=self.request.url.path + (f"?{self.request.url.query}" if self.request.url.query else ""),
            theme=theme if theme in ("light", "dark") else "",
            single_user=self.console.settings.console.oidc is None,
            idle_minutes=self.console.settings.console.idle_minutes,
            **values,
        )
        return HTMLResponse(text, status, headers)
