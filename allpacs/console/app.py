"""Composition of the console: every route, with the permission it asks for."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message

from allpacs.audit.messages import AuditEvent
from allpacs.audit.trail import AuditTrail, NoTrail
from allpacs.classify.saliency import Explain
from allpacs.console import access, live, rendering
from allpacs.console.access import Permission, SecurityHeaders
from allpacs.console.bundle import BundleInUse
from allpacs.console.cells import CellsOfStudies
from allpacs.console.crashes import UNEXPECTED, CatchCrashes, log_crash
from allpacs.console.faults import said
from allpacs.console.http_limits import RequestLimits
from allpacs.console.numbers import register_convertor, whole_number
from allpacs.console.pages import (
    drift,
    export,
    operations,
    qido,
    review,
    sign_in,
    study,
    table,
    upload,
    wado,
    worklist,
)
from allpacs.console.pages import pictures as picture_pages
from allpacs.console.patients import Patients
from allpacs.console.pictures import Pictures
from allpacs.console.upload_folder import UploadFolder
from allpacs.console.visit import Console, Opened, Visit
from allpacs.domain.errors import AllpacsError, InputFault, Outdated, StoreFault
from allpacs.settings import Settings
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.console")

Handler = Callable[[Visit], Response] | Callable[[Visit], Awaitable[Response]]


class FormTooLong(InputFault):
    """A form of more bytes than any page of ours has."""


#: What answers an error of ours, by its kind.
_STATUSES: dict[type[AllpacsError], int] = {
    access.SignInRefused: 403,
    FormTooLong: 413,
    Outdated: 409,
    InputFault: 422,
    StoreFault: 503,
}

#: Largest form, without files, bytes.
_MOST_FORM_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """One route.

    Attributes
    ----------
    permission:
        What a person must be allowed to do; None for visitors who have not signed in.
    reads_form:
        False where the handler reads the body by itself; its token then comes in a header.
    """

    path: str
    handler: Handler
    permission: Permission | None
    methods: tuple[str, ...] = ("GET",)
    reads_form: bool = True


_SERIES = "/dicom-web/studies/{study_uid}/series/{series_uid}"
_INSTANCE = _SERIES + "/instances/{sop_instance_uid}"
_STUDY = "/studies/{study_uid}/revisions/{revision:number}"

PAGES: tuple[Page, ...] = (
    Page("/sign-in", sign_in.show, None),
    Page("/sign-in", sign_in.with_token, None, ("POST",)),
    Page("/sign-in/start", sign_in.start_oidc, None),
    Page("/sign-in/finish", sign_in.finish_oidc, None),
    Page("/sign-out", sign_in.leave, None, ("POST",)),
    Page("/preferences", sign_in.prefer, None, ("POST",)),
    Page("/", worklist.show, Permission.VIEW),
    Page("/next", worklist.next_to_review, Permission.VIEW),
    Page("/events", live.events, Permission.VIEW),
    Page("/studies/{study_uid}", study.latest, Permission.VIEW),
    Page(_STUDY, study.show, Permission.VIEW),
    Page(_STUDY + "/cells", study.more_cells, Permission.VIEW),
    Page(_STUDY + "/cells.csv", table.cells_csv, Permission.VIEW),
    Page(_STUDY + "/status", study.status, Permission.VIEW),
    Page(_STUDY + "/artefacts/{name}", study.artefact, Permission.VIEW),
    Page(_STUDY + "/cells/{tracking_uid}.activation.png", picture_pages.activation, Permission.VIEW),
    Page(_STUDY + "/cells/{tracking_uid}.jpg", picture_pages.crop, Permission.VIEW),
    Page(_STUDY + "/fields/{sop_instance_uid}/{frame:number}.jpg", picture_pages.field, Permission.VIEW),
    Page(_STUDY + "/fields/{sop_instance_uid}/{frame:number}", picture_pages.outlines, Permission.VIEW),
    Page(_STUDY + "/decisions", review.decide, Permission.REVIEW, ("POST",), reads_form=False),
    Page(_STUDY + "/comment", review.comment, Permission.REVIEW, ("POST",)),
    Page(_STUDY + "/sign-off", review.sign_off_form, Permission.REVIEW),
    Page(_STUDY + "/sign-off", review.sign_off, Permission.REVIEW, ("POST",)),
    Page("/upload", upload.show, Permission.UPLOAD),
    Page("/upload", upload.take, Permission.UPLOAD, ("POST",), reads_form=False),
    Page("/dicom-web/studies", qido.search_studies, Permission.VIEW),
    Page("/dicom-web/studies/{study_uid}", wado.retrieve, Permission.VIEW),
    Page("/dicom-web/studies/{study_uid}/metadata", wado.metadata, Permission.VIEW),
    Page("/dicom-web/studies/{study_uid}/series", qido.search_series, Permission.VIEW),
    Page("/dicom-web/studies/{study_uid}/instances", qido.search_instances, Permission.VIEW),
    Page(_SERIES, wado.retrieve, Permission.VIEW),
    Page(_SERIES + "/metadata", wado.metadata, Permission.VIEW),
    Page(_SERIES + "/instances", qido.search_instances, Permission.VIEW),
    Page(_INSTANCE, wado.retrieve, Permission.VIEW),
    Page(_INSTANCE + "/metadata", wado.metadata, Permission.VIEW),
    Page(_INSTANCE + "/frames/{frames}", wado.frames, Permission.VIEW),
    Page(_INSTANCE + "/frames/{frames}/rendered", wado.rendered, Permission.VIEW),
    Page(_INSTANCE + "/rendered", wado.rendered, Permission.VIEW),
    Page(_INSTANCE + "/thumbnail", wado.thumbnail, Permission.VIEW),
    Page(_SERIES + "/thumbnail", wado.thumbnail, Permission.VIEW),
    Page("/drift", drift.show, Permission.VIEW),
    Page("/operations", operations.show, Permission.OPERATE),
    Page("/operations/receiver", operations.receiver, Permission.OPERATE),
    Page("/operations/bundle", operations.use_model, Permission.OPERATE, ("POST",)),
    Page("/operations/retry", operations.retry, Permission.OPERATE, ("POST",)),
    Page("/export", export.show, Permission.EXPORT),
    Page("/export", export.send, Permission.EXPORT, ("POST",)),
)


def make_console(
    settings: Settings, store: Store, explain: Callable[[], Explain] | None = None, audit: AuditTrail | None = None
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    explain:
        Loads the model for activation maps; None: there are none.
    audit:
        Is told who signed in and out, opened and signed studies, or was not allowed what they asked for.

    Raises
    ------
    StoreFault
        The secrets in the store's folder cannot be read or written.
    """
    pictures = Pictures(store, max_pixels=settings.work.max_pixels)
    console = Console(
        settings=settings,
        store=store,
        patients=Patients(store),
        cells=CellsOfStudies(store),
        pictures=pictures,
        in_use=BundleInUse(settings, store, pictures, explain),
        audit=audit or NoTrail(),
        opened=Opened(),
        uploads=UploadFolder(settings.store.folder / "uploads"),
    )
    secret = access.secret_of(settings.store.folder / "console.secret")
    https = settings.console.certificate is not None or (settings.console.address or "").startswith("https:")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        console.patients.start()
        console.uploads.start()
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
        async with live.watching(app):
            yield
        console.patients.stop()
        console.uploads.stop()

    register_convertor()
    application = Starlette(
        routes=[
            *(Route(page.path, _endpoint(page, console), methods=list(page.methods)) for page in PAGES),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[
            Middleware(SecurityHeaders, https=https),
            Middleware(RequestLimits),
            Middleware(CatchCrashes),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=5),
            Middleware(
                SessionMiddleware,
                secret_key=secret,
                # Cookies of one host are shared by its ports: two consoles of one machine must not mix.
                session_cookie="allpacs_" + hashlib.sha256(secret.encode()).hexdigest()[:12],
                max_age=int(access.LONGEST_SESSION_S),
                same_site="lax",  # strict would lose the session when the sign-in provider sends the browser back
                https_only=https,
            ),
        ],
        lifespan=lifespan,
        exception_handlers={404: lambda request, _: _not_found(request, console)},
    )
    application.state.console = console
    application.state.sign_in = sign_in.SignIn(settings)
    return application


def _warm_up() -> None:
    """Compile the templates, so that the first reader of a page does not wait for it."""
    rendering.compile_templates()


def _endpoint(page: Page, console: Console) -> Callable[[Request], Awaitable[Response]]:
    idle_s = console.settings.console.idle_minutes * 60

    async def endpoint(request: Request) -> Response:
        try:
            person = await run_in_threadpool(access.signed_in, request, console.store.sessions, idle_s=idle_s)
        except StoreFault as fault:
            _log.error("page_failed", reason=f"StoreFault: {fault}")
            return _told(Visit(request, console, None), 503, str(fault))
        visit = Visit(request, console, person)
        if page.permission is not None and person is None:
            return _sign_in_first(request)
        if page.permission is not None and person is not None and not person.may(page.permission):
            visit.tell(AuditEvent.NOT_ALLOWED, failure=f"{request.method} {page.path} asks for {page.permission}")
            return visit.page("refused.html", 403, permission_needed=page.permission.value)
        try:
            access.check_origin(request, console.settings.console.address)
            if request.method == "POST":
                given = request.headers.get("x-csrf-token")
                if page.reads_form:
                    form = await _bounded(request, _MOST_FORM_BYTES).form(max_files=0)
                    visit = Visit(request, console, person, form)
                    given = given or visit.posted("csrf")
                access.check_token(request, given)
            if inspect.iscoroutinefunction(page.handler):
                response: Response = await page.handler(visit)
            else:
                response = await run_in_threadpool(page.handler, visit)  # type: ignore[arg-type]
        except access.ForgedRequestError as forged:
            _log.warning("request_refused", reason=str(forged))
            visit.tell(AuditEvent.NOT_ALLOWED, failure=f"{request.method} {page.path}: {forged}")
            return _told(visit, 403, str(forged))
        except AllpacsError as fault:
            status = next((code for kind, code in _STATUSES.items() if isinstance(fault, kind)), 500)
            if status >= 500:
                _log.error("page_failed", reason=f"{type(fault).__name__}: {fault}")
            return _told(visit, status, str(fault))
        except HTTPException:
            raise
        except Exception as fault:  # noqa: BLE001 - its text may quote a header: only its type is logged
            log_crash(page.path, fault)
            return _told(visit, 500, UNEXPECTED)
        return response

    return endpoint


def _bounded(request: Request, most_bytes: int) -> Request:
    """Return the request with a body that is read up to so many bytes: one that is sent in chunks states no length.

    Raises
    ------
    FormTooLong
        The stated length is larger; where none is stated, reading raises it.
    """
    stated = whole_number(request.headers.get("content-length", "0"))
    if stated is None or stated > most_bytes:
        raise FormTooLong("the form is too long")
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > most_bytes:
            raise FormTooLong("the form is too long")
        return message

    return Request(request.scope, receive)


def _sign_in_first(request: Request) -> Response:
    """Answer a visitor whose session has ended, or who has none."""
    if (
        request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
        and "hx-request" not in request.headers
    ):
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote(here)}", 303)
    # A part of a page, or a script: the page asks its reader to sign in again, and keeps what was not saved.
    return JSONResponse({"error": "session ended"}, 401)


def _not_found(request: Request, console: Console) -> Response:
    """Answer an address that leads nowhere: a page with a way back to a browser, and a line of text to others."""
    asks_page = "text/html" in request.headers.get("accept", "") and "hx-request" not in request.headers
    if request.method != "GET" or not asks_page or request.url.path.startswith(("/static", "/dicom-web")):
        return PlainTextResponse("Not Found", 404)
    try:
        person = access.signed_in(request, console.store.sessions, idle_s=console.settings.console.idle_minutes * 60)
    except StoreFault:
        person = None
    return Visit(request, console, person).page("not_found.html", 404)


def _told(visit: Visit, status: int, fault: str) -> Response:
    if "application/json" in visit.request.headers.get("accept", ""):
        return JSONResponse({"error": said(fault, visit.locale)}, status)
    return visit.page("fault.html", status, fault=fault)
