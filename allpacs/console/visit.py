"""One request with everything that its handler needs."""

from __future__ import annotations

import threading
import time
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
from allpacs.console.upload_folder import UploadFolder
from allpacs.domain.errors import StoreFault
from allpacs.settings import Settings
from allpacs.store.store import Store


class Opened:
    """Remembers which session has opened which study: a viewer fetches hundreds of images of one."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: dict[tuple[str, str], None] = {}  # the oldest first
        self._lock = threading.Lock()

    def add(self, session: str, study_uid: str) -> bool:
        """Remember one, and return whether it was new; beyond so many the oldest is forgotten, and new once more."""
        with self._lock:
            if (session, study_uid) in self._known:
                return False
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[session, study_uid] = None
            return True

    def forget(self, session: str, study_uid: str) -> None:
        """Forget one."""
        with self._lock:
            self._known.pop((session, study_uid), None)


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
    opened: Opened
    uploads: UploadFolder


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

    def open_study(self, study_uid: str, *, again: bool = False) -> None:
        """Record that the visitor sees images or results of a study, once a session.

        Parameters
        ----------
        again:
            Record it each time.

        Raises
        ------
        StoreFault
            The index cannot be written: what cannot be recorded is not shown.
        """
        session = self.request.session["session"]
        if not self.console.opened.add(session, study_uid) and not again:
            return
        try:
            reason = f"by {self.someone.identifier}"
            self.store.audit.record("study_opened", at=time.time(), study_uid=study_uid, reason=reason)
        except StoreFault:
            self.console.opened.forget(session, study_uid)
            raise
        self.tell(AuditEvent.STUDY_OPENED, study_uid=study_uid)

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
