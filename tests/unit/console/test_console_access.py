"""Who may do what; where requests may come from; when a session ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from allpacs.audit.messages import AuditEvent
from allpacs.console import access
from allpacs.console.access import PERMISSIONS, Permission, Role
from allpacs.console.app import _STUDY, PAGES, Page
from allpacs.console.visit import Opened
from allpacs.domain.errors import ConfigFault, StoreFault
from allpacs.settings import load_settings
from allpacs.store.audit import Audit
from allpacs.store.sessions import Sessions
from allpacs.store.store import Store
from support.console_samples import reported_study
from unit.console.conftest import Browser, Told

Browse = Callable[..., Browser]


def address(page: Page, store: Store, study: str) -> str:
    (first, *_) = store.findings.get(study, 1)
    values = {
        "study_uid": study,
        "revision": "1",
        "tracking_uid": first.cells[0].tracking_uid,
        "sop_instance_uid": first.sop_instance_uid,
        "series_uid": first.series_uid,
        "frame": "1",
        "kind": "html",
    }
    return re.sub(r"\{(\w+)(:number)?\}", lambda found: values.get(found[1], "1"), page.path)


def csrf_of(browser: Browser, path: str = "/sign-in") -> str:
    return str(re.findall(r'name="csrf" content="([^"]+)"', browser.see(path).text)[0])


PROTECTED = [page for page in PAGES if page.permission is not None and page.path != "/events"]
NAMES = [f"{page.methods[0]} {page.path}" for page in PROTECTED]


@pytest.mark.parametrize("page", PROTECTED, ids=NAMES)
@pytest.mark.parametrize("role", [None, *Role], ids=str)
def test_every_route_lets_in_whom_it_should(
    browse: Browse, store: Store, study: str, page: Page, role: Role | None
) -> None:
    browser = browse(*([role] if role else []))
    path = address(page, store, study)
    if page.methods == ("GET",):
        answer = browser.see(path)
    else:
        answer = browser.post(path, headers={"x-csrf-token": browser.token, "accept": "text/html"}, content=b"")
    if role is None:
        assert answer.status_code in (303, 401)
        assert study not in answer.text
    elif page.permission in PERMISSIONS[role]:
        assert answer.status_code not in (401, 403), answer.text
    else:
        assert answer.status_code == 403


def test_only_a_reviewer_decides_and_only_an_administrator_operates() -> None:
    for permission in (Permission.REVIEW, Permission.UPLOAD):
        assert {role for role in Role if permission in PERMISSIONS[role]} == {Role.REVIEWER}
    for permission in (Permission.OPERATE, Permission.EXPORT):
        assert {role for role in Role if permission in PERMISSIONS[role]} == {Role.ADMINISTRATOR}
    assert all(Permission.VIEW in permissions for permissions in PERMISSIONS.values())


def test_patients_are_hidden_until_someone_signs_in(browse: Browse, study: str) -> None:
    for path in ("/", f"/studies/{study}", "/sign-in", "/nowhere"):
        answer = browse().see(path)
        assert "TEST-1" not in answer.text
        assert "Neil" not in answer.text


def test_the_token_signs_in_one_user_with_every_role(browse: Browse, store: Store) -> None:
    browser = browse()
    browser.token = csrf_of(browser, "/sign-in?next=/drift")
    token = (store.spool.folder.parent / "console.token").read_text().strip()
    assert browser.change("/sign-in", token="wrong").status_code == 403  # noqa: S106
    answer = browser.change("/sign-in", token=token, next="/drift")
    assert (answer.status_code, answer.headers["location"]) == (303, "/drift")
    assert browser.see("/").status_code == 200
    assert [event.event for event in store.audit.latest(2)] == ["signed_in", "sign_in_refused"]


def test_secrets_can_be_read_by_us_alone(store: Store, browse: Browse) -> None:
    browse()
    for name in ("console.secret", "console.token"):
        assert (store.spool.folder.parent / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", ""])
def test_nobody_is_sent_elsewhere_after_signing_in(browse: Browse, store: Store, target: str) -> None:
    browser = browse(Role.VIEWER)
    assert browser.see(f"/sign-in?next={target}").headers["location"] == "/"


def test_a_form_without_a_stated_length_is_read_no_further_than_the_longest(browse: Browse) -> None:
    taken = 0
    told: list[int] = []

    async def receive() -> dict[str, object]:  # an endless form, as chunks bring it
        nonlocal taken
        field = b"&next=" + b"x" * 99_994
        taken += len(field)
        return {"type": "http.request", "body": field, "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/sign-in",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8142"), (b"content-type", b"application/x-www-form-urlencoded")],
        "client": ("testclient", 1),
        "server": ("127.0.0.1", 8142),
    }
    asyncio.run(browse().app(scope, receive, send))
    assert (told, taken) == ([413], 1_100_000)


def test_guessing_is_slowed_down(browse: Browse) -> None:
    browser = browse()
    browser.token = csrf_of(browser)
    answers = [browser.change("/sign-in", token=f"guess {number}").status_code for number in range(12)]
    assert answers == [403] * 10 + [429] * 2


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
def test_a_request_from_another_site_changes_nothing(browse: Browse, study: str, headers: dict[str, str]) -> None:
    browser = browse(Role.REVIEWER)
    path = f"/studies/{study}/revisions/1/comment"
    answer = browser.post(path, data={"csrf": browser.token, "comment": "forged"}, headers=headers)
    assert answer.status_code == 403
    assert "forged" not in browser.see(f"/studies/{study}/revisions/1").text


@pytest.mark.parametrize("token", [None, "", "guessed"])
def test_a_form_without_the_session_s_token_changes_nothing(browse: Browse, study: str, token: str | None) -> None:
    browser = browse(Role.REVIEWER)
    data = {"comment": "forged"} | ({} if token is None else {"csrf": token})
    assert browser.post(f"/studies/{study}/revisions/1/comment", data=data).status_code == 403
    other = browse(Role.REVIEWER)
    assert browser.post(f"/studies/{study}/revisions/1/comment", data=data | {"csrf": other.token}).status_code == 403


def test_a_session_ends_when_nobody_uses_it(browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = browse(Role.VIEWER, idle_minutes=10)
    start = time.time()

    def later(minutes: float) -> None:
        monkeypatch.setattr(access.time, "time", lambda: start + minutes * 60)

    for minutes in (8, 16, 24):
        later(minutes)
        assert browser.see("/").status_code == 200
    later(35)
    assert browser.see("/").headers["location"] == "/sign-in?next=/"
    assert browser.get("/studies/1.2/revisions/1/status").status_code == 401


def test_a_session_ends_after_a_working_day(browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = browse(Role.VIEWER)
    start = time.time()
    for hour in range(1, 48):
        monkeypatch.setattr(access.time, "time", lambda hour=hour: start + hour * 900)
        assert browser.see("/").status_code == 200
    monkeypatch.setattr(access.time, "time", lambda: start + access.LONGEST_SESSION_S + 1)
    assert browser.see("/").status_code == 303


def copy_of(browser: Browser, browse: Browse) -> Browser:
    """Return another browser with a copy of the cookies."""
    thief = browse()
    for cookie in browser.cookies.jar:
        thief.cookies.jar.set_cookie(cookie)
    thief.token = browser.token
    return thief


def test_signing_out_ends_the_session_for_every_copy_of_its_cookie(browse: Browse) -> None:
    browser, beside = browse(Role.VIEWER, identifier="ada"), browse(Role.VIEWER, identifier="ada")
    thief = copy_of(browser, browse)
    assert thief.see("/").status_code == 200
    assert browser.change("/sign-out").status_code == 303
    for ended in (browser, thief):
        assert ended.see("/").status_code == 303
        assert ended.get("/events").status_code == 401
        assert ended.get("/dicom-web/studies").status_code == 401
    assert beside.see("/").status_code == 200


def test_signing_out_everywhere_ends_the_person_s_other_sessions(browse: Browse) -> None:
    here, there, someone = (browse(Role.VIEWER, identifier=one) for one in ("bob", "bob", "eve"))
    assert here.change("/sign-out", everywhere="yes").status_code == 303
    assert there.see("/").status_code == 303
    assert someone.see("/").status_code == 200


def test_a_session_that_ended_by_itself_is_not_taken_up_with_an_older_cookie(
    browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browse(Role.VIEWER, idle_minutes=10)
    thief = copy_of(browser, browse)
    start = time.time()
    monkeypatch.setattr(access.time, "time", lambda: start + 11 * 60)
    assert browser.see("/").status_code == 303
    monkeypatch.setattr(access.time, "time", lambda: start)
    assert thief.see("/").status_code == 303


def test_without_the_store_nobody_is_let_in(
    browse: Browse, store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browse(Role.VIEWER)

    def away(_session: str) -> bool:
        raise StoreFault("index: connection refused")

    monkeypatch.setattr(Sessions, "is_open", staticmethod(away))
    answer = browser.see("/")
    assert answer.status_code == 503
    assert "TEST-1" not in answer.text


def test_the_audit_trail_is_told_what_people_do(browse: Browse, store: Store, tmp_path: Path) -> None:
    study, told = reported_study(store, tmp_path, cells=1, seeds=[501]), Told()
    path = f"/studies/{study}/revisions/1"
    stranger = browse(audit=told)
    stranger.token = csrf_of(stranger)
    stranger.change("/sign-in", token="wrong")  # noqa: S106
    reviewer = browse(Role.REVIEWER, identifier="ada", audit=told)
    reviewer.see(path)
    reviewer.see("/operations")
    reviewer.change(f"{path}/comment", csrf="forged")
    signature = {"version": "0", "name": "Reader^Ada", "organisation": "Hospital", "responsible": "yes", "unseen": "1"}
    assert reviewer.change(f"{path}/sign-off", **signature).status_code == 303
    reviewer.change("/sign-out")
    forged = f"POST {_STUDY}/comment: the form is of another session: load the page again"
    assert told.messages == [
        (AuditEvent.SIGNED_IN, "", (), "wrong token"),
        (AuditEvent.STUDY_OPENED, "ada", (study,), None),
        (AuditEvent.NOT_ALLOWED, "ada", (), "GET /operations asks for operate"),
        (AuditEvent.NOT_ALLOWED, "ada", (), forged),
        (AuditEvent.STUDY_SIGNED, "ada", (study,), None),
        (AuditEvent.SIGNED_OUT, "ada", (), None),
    ]
    stranger.change("/sign-in", token=(store.spool.folder.parent / "console.token").read_text().strip())
    assert told.messages[-1] == (AuditEvent.SIGNED_IN, "local", (), None)


SEEN = {
    "the report": "/studies/{study}/revisions/1/artefacts/html",
    "a cell": "/studies/{study}/revisions/1/cells/{cell}.jpg",
    "a field": "/studies/{study}/revisions/1/fields/{image}/1.jpg",
    "outlines": "/studies/{study}/revisions/1/fields/{image}/1",
    "a study": "/dicom-web/studies/{study}",
    "metadata": "/dicom-web/studies/{study}/metadata",
    "a series": "/dicom-web/studies/{study}/series/{series}",
    "an instance": "/dicom-web/studies/{study}/series/{series}/instances/{image}",
    "frames": "/dicom-web/studies/{study}/series/{series}/instances/{image}/frames/1",
    "a rendered image": "/dicom-web/studies/{study}/series/{series}/instances/{image}/rendered",
    "a thumbnail": "/dicom-web/studies/{study}/series/{series}/thumbnail",
}


@pytest.mark.parametrize("path", SEEN.values(), ids=list(SEEN))
def test_what_is_seen_without_the_study_s_page_is_recorded_once_a_session(
    browse: Browse, store: Store, study: str, path: str
) -> None:
    told, before = Told(), store.audit.count("study_opened", study)
    first, *_ = store.findings.get(study, 1)
    path = path.format(
        study=study, series=first.series_uid, image=first.sop_instance_uid, cell=first.cells[0].tracking_uid
    )
    ada = browse(Role.VIEWER, identifier="ada", audit=told)
    assert [ada.get(path).status_code for _ in range(3)] == [200] * 3
    opened = (AuditEvent.STUDY_OPENED, "ada", (study,), None)
    assert told.messages == [opened]
    assert store.audit.count("study_opened", study) == before + 1
    assert store.audit.of_study(study)[-1].reason == "by ada"
    ada.get("/test-enter")  # a session of its own
    ada.get(path)
    assert told.messages == [opened] * 2
    for _ in range(2):
        ada.see(f"/studies/{study}/revisions/1")  # each time
    ada.get(path)
    assert told.messages == [opened] * 4


def test_what_is_not_there_was_not_seen(browse: Browse, store: Store, study: str) -> None:
    told = Told()
    viewer = browse(Role.VIEWER, audit=told)
    base = f"/studies/{study}/revisions/1"
    for path in (f"{base}/artefacts/sr", f"{base}/cells/1.2.jpg", f"{base}/fields/1.2/1.jpg", "/dicom-web/studies/1.2"):
        assert viewer.get(path).status_code == 404
    assert told.messages == []


def test_what_cannot_be_recorded_is_not_shown(
    browse: Browse, store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    viewer = browse(Role.VIEWER, audit=told)

    def away(*_: object, **__: object) -> None:
        raise StoreFault("index: disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Audit, "record", away)
        for _ in range(2):
            assert viewer.get(f"/dicom-web/studies/{study}").status_code == 503
    assert told.messages == []
    assert viewer.get(f"/dicom-web/studies/{study}").status_code == 200
    assert len(told.messages) == 1


def test_of_so_many_studies_the_oldest_are_forgotten() -> None:
    opened = Opened(most=2)
    assert [opened.add("session", study) for study in ("1", "2", "2", "3", "1")] == [True, True, False, True, True]
    assert not opened.add("session", "3")
    assert opened.add("another", "3")


def test_every_answer_says_what_a_browser_may_do_with_it(browse: Browse, study: str) -> None:
    for answer in (browse().see("/sign-in"), browse(Role.VIEWER).see(f"/studies/{study}/revisions/1")):
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", answer.text)
    cookie = browse(Role.VIEWER).get("/test-enter").headers["set-cookie"]
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    https = browse(Role.VIEWER, address="https://cells.example")
    assert "secure" in https.get("/test-enter").headers["set-cookie"]
    assert "max-age" in https.see("/sign-in").headers["strict-transport-security"]


def test_a_token_is_for_this_machine_only() -> None:
    with pytest.raises(ConfigFault, match=r"console.oidc"):
        load_settings(console={"host": "0.0.0.0"})  # noqa: S104
