"""The demo's study, reviewed and signed in a browser: what a new user does first."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from acceptance.reports import read, resources
from support.browser import Faults, chromium, serious
from support.places import REPOSITORY

pytestmark = pytest.mark.process

_CELLS = 10
#: Every page but the study, which the test finds by itself.
PATHS = ("/", "/upload", "/drift", "/operations", "/export")
_FIRST = re.compile(r"Review console: (\S+)")


@dataclass(frozen=True, slots=True)
class Demo:
    """`make demo` at a terminal, as a new user types it."""

    address: str
    folder: Path
    process: subprocess.Popen[bytes]
    printed: bytearray

    @property
    def run(self) -> Path:
        """The folder of this run."""
        (found,) = [path for path in self.folder.iterdir() if path.is_dir()]
        return found

    def reports(self) -> list[Path]:
        found = sorted((self.run / "pacs").rglob("*.dcm"), key=lambda path: path.stat().st_mtime)
        return [path for path in found if read(path).Modality == "SR"]


def _pictures(folder: Path) -> Path | None:
    """Return a folder of real cells (C-NMC 2019, CC BY 3.0); None, for drawn ones, where there are no data."""
    cells = sorted((REPOSITORY.parent / "shared" / "data" / "cnmc").rglob("*.bmp"))
    if not cells:
        return None
    folder.mkdir()
    for cell in cells[:: len(cells) // _CELLS][:_CELLS]:
        shutil.copy(cell, folder)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    images = _pictures(folder / "cells")
    # Installed it is already, wherever these tests run.
    command = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}", "demo", f"OUT={folder / 'out'}"]
    given = [] if images is None else [f"IMAGES={images}"]
    printed = bytearray()
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        command + given, cwd=REPOSITORY, env=os.environ | {"TERM": "dumb", "COLUMNS": "200"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    threading.Thread(target=_read_all, args=(screen, printed), daemon=True).start()
    try:
        until = time.monotonic() + 240
        while not (found := _FIRST.search(printed.decode(errors="replace"))):
            assert process.poll() is None, printed.decode(errors="replace")
            assert time.monotonic() < until, f"no address within 240 s: {printed.decode(errors='replace')}"
            time.sleep(0.2)
        yield Demo(found[1], folder / "out", process, printed)
    finally:
        if process.poll() is None:
            interrupt(process)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
        os.close(screen)


def _read_all(screen: int, printed: bytearray) -> None:
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(screen, 65536):
            printed += part


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Do what Ctrl-C does: every process of the terminal is interrupted."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def page(browser: Browser, demo: Demo, faults: Faults) -> Iterator[Page]:
    """Open the printed address; its token signs in by itself."""
    context = browser.new_context(viewport={"width": 1366, "height": 768}, locale="en-GB")
    page = faults.watch(context.new_page())
    page.set_default_timeout(30_000)
    page.goto(demo.address)
    expect(page.locator("table.studies")).to_be_visible()
    yield page
    context.close()


def test_the_worklist_shows_the_study_and_follows_the_filters(page: Page, faults: Faults) -> None:
    row = page.locator("table.studies tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Demonstration Study")
    expect(row).to_contain_text("Delivered")
    assert "#" not in page.url
    page.fill("#q", "nobody of that name")
    expect(page.locator(".empty")).to_contain_text("No study matches")
    page.fill("#q", "demonstration")
    expect(row).to_have_count(1)
    expect(page.locator(".ruo")).to_contain_text("Research use only")
    assert faults == []


def test_cells_are_reviewed_by_keyboard_and_signed(page: Page, demo: Demo, faults: Faults) -> None:
    page.click("text=Demonstration Study")
    cells = page.locator(".cell")
    expect(cells.first).to_have_attribute("aria-current", "true")
    count = cells.count()
    assert count == _CELLS if (demo.folder.parent / "cells").is_dir() else count > 0
    (before,) = demo.reports()
    assert read(before).VerificationFlag == "UNVERIFIED"

    # Every cell of the model's class in one key; the first gets the other class, the second is excluded.
    first, second = cells.nth(0).get_attribute("data-label"), cells.nth(1)
    key = "h" if first == "ALL" else "a"
    page.keyboard.press(key)
    expect(cells.nth(0)).to_have_class(re.compile(r"\brelabelled\b"))
    expect(cells.nth(1)).to_have_attribute("aria-current", "true")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    expect(cells.nth(3)).to_have_class(re.compile(r"\b(accepted|relabelled)\b"))
    page.keyboard.press("u")  # the fifth is selected; what was decided last, about the fourth, is taken back
    expect(cells.nth(3)).to_have_attribute("data-decision", "")
    expect(cells.nth(3)).to_have_attribute("aria-current", "true")
    page.keyboard.press("Control+z")  # a level further: the third
    expect(cells.nth(2)).to_have_attribute("data-decision", "")
    page.keyboard.press("r")
    expect(cells.nth(2)).to_have_attribute("data-decision", "accepted")
    page.keyboard.press("Control+Shift+z")
    expect(cells.nth(3)).not_to_have_attribute("data-decision", "")
    expect(page.locator("#saving")).to_have_text("Saved")
    expect(page.locator("#status")).to_contain_text(f"4 of {count} reviewed")
    uid, excluded = cells.nth(0).get_attribute("data-uid"), second.get_attribute("data-uid")
    page.reload()
    page.keyboard.press("u")  # the history outlives the page
    expect(page.locator("#status")).to_contain_text(f"3 of {count} reviewed")
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text(f"4 of {count} reviewed")
    expect(page.locator("#saving")).to_have_text("Saved")
    expect(page.locator(f'.cell[data-uid="{uid}"]')).to_have_class(re.compile(r"\brelabelled\b"))
    expect(page.locator(f'.cell[data-uid="{excluded}"]')).to_have_class(re.compile(r"\bexcluded\b"))

    page.locator("summary", has_text="Comment").click()
    page.fill("#comment-text", "Nucleoli <b>clearly</b> seen & counted")
    page.locator("#comment button").click()
    expect(page.locator("#comment")).to_contain_text("Saved")

    page.click("[data-sign-off]")
    expect(page.locator("#name")).to_have_value("Reviewer, Demo")
    page.click("button:has-text('Sign'):not(.wide)")  # the box is not ticked: the browser keeps the form
    assert page.url.endswith("/sign-off")
    page.check("[name=responsible]")
    page.click("button:has-text('Sign'):not(.wide)")  # cells were not looked at one by one: this is confirmed, too
    assert page.url.endswith("/sign-off")
    expect(page.locator(".changes li")).to_have_count(2)
    page.check("[name=unseen]")
    page.click("button:has-text('Sign'):not(.wide)")
    expect(page.locator(".verdict.signed")).to_contain_text("Signed by Reviewer, Demo", timeout=60_000)
    expect(page.locator(".deliveries .s-sent, .deliveries .s-committed")).to_have_count(3, timeout=60_000)
    assert faults == []

    first_report, report = (read(path) for path in demo.reports())
    assert report.VerificationFlag == "VERIFIED"
    assert str(report.VerifyingObserverSequence[0].VerifyingObserverName) == "Reviewer^Demo"
    (replaced,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert replaced.ReferencedSOPInstanceUID == first_report.SOPInstanceUID
    (in_ehr,) = resources(demo.run / "ehr", "DiagnosticReport")
    assert in_ehr["status"] == "final"
    assert in_ehr["resultsInterpreter"][0]["display"].startswith("Reviewer Demo")
    page.goto(page.url.split("/studies")[0])
    expect(page.locator(".badge.signed")).to_be_visible()


def test_cells_are_decided_inside_the_field(page: Page, faults: Faults) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')
    page.keyboard.press("f")
    chosen = page.locator("#field polygon.chosen")
    expect(chosen).to_have_count(1)
    number = page.locator("#field-number")
    was, uid = number.inner_text(), chosen.get_attribute("data-uid")
    page.keyboard.press("x")
    decided = page.locator(f'.cell[data-uid="{uid}"]')
    expect(decided).to_have_class(re.compile(r"\bexcluded\b"))
    expect(page.locator(f'#field polygon[data-uid="{uid}"]')).to_have_class(re.compile(r"\bnone\b"))
    page.keyboard.press("u")
    expect(decided).not_to_have_class(re.compile(r"\bexcluded\b"))
    expect(chosen).to_have_attribute("data-uid", str(uid))
    page.click("[data-go]:not([disabled])")
    expect(number).not_to_have_text(was)
    expect(chosen).to_have_count(1)
    assert faults == []


def test_what_was_not_saved_when_the_session_ended_is_saved_after_signing_in(page: Page, demo: Demo) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')  # its script runs
    cell = page.locator(".cell").last
    cell.click()
    uid = cell.get_attribute("data-uid")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.keyboard.press("x")
    expect(page.locator("#session-ended")).to_be_visible()
    expect(page.locator("#session-ended")).to_contain_text("Nothing is lost")
    page.click("#session-ended a")
    expect(page.locator("#token")).to_be_visible()
    page.fill("#token", demo.address.partition("#")[2])
    page.click("main button")
    found = page.locator(f'.cell[data-uid="{uid}"]')
    expect(found).to_have_class(re.compile(r"\bexcluded\b"))
    expect(found).not_to_have_class(re.compile(r"\bunsaved\b"))
    assert page.evaluate("Object.keys(sessionStorage).filter((key) => key.startsWith('allpacs-unsaved'))") == []
    page.wait_for_selector('.cell[aria-current="true"]')
    page.keyboard.press("u")  # what was decided before the session ended can be taken back after it
    expect(found).not_to_have_class(re.compile(r"\bexcluded\b"))
    page.keyboard.press("r")
    expect(found).to_have_class(re.compile(r"\bexcluded\b"))
    expect(page.locator("#saving")).to_have_text("Saved")
    assert {one["name"] for one in page.context.cookies()} == {one["name"] for one in cookies}


def waiting(page: Page) -> list[str]:
    """Return the cells whose decisions wait in the tab."""
    keys = "Object.keys(sessionStorage).filter((key) => key.startsWith('allpacs-unsaved'))"
    found: list[str] = page.evaluate(f"{keys}.flatMap((key) => JSON.parse(sessionStorage[key]).map(([uid]) => uid))")
    return found


def test_what_waits_survives_a_sign_in_in_another_tab(page: Page, demo: Demo) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')
    uids = [str(page.locator(".cell").nth(number).get_attribute("data-uid")) for number in (0, 1)]
    page.context.clear_cookies()
    page.keyboard.press("x")
    expect(page.locator("#session-ended")).to_be_visible()
    expect(page.locator("#saving")).to_have_text("Not saved yet (1)")
    other = page.context.new_page()
    other.goto(demo.address)
    expect(other.locator("table.studies")).to_be_visible()
    page.keyboard.press("Escape")

    # The page is of the session before: nothing that it posts is taken, and everything is kept.
    page.locator("#comment-text").evaluate("(text) => (text.closest('details').open = true)")
    page.fill("#comment-text", "of the session before")
    page.click("#comment button")
    expect(page.locator("#comment .fault")).to_have_text("the form is of another session: load the page again")
    page.locator(".cell").nth(1).click()
    page.keyboard.press("x")
    expect(page.locator("#other-session")).to_be_visible()
    expect(page.locator("#saving")).to_have_text("Not saved yet (2)")
    assert waiting(page) == uids
    page.click("#other-session a")
    for uid in uids:
        found = page.locator(f'.cell[data-uid="{uid}"]')
        expect(found).to_have_class(re.compile(r"\bexcluded\b"))
        expect(found).not_to_have_class(re.compile(r"\bunsaved\b"))
    assert waiting(page) == []


def test_only_what_the_server_has_judged_is_given_up(page: Page) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')
    cells = [page.locator(".cell").nth(number) for number in (2, 3)]
    looks = [set(str(cell.get_attribute("class")).split()) for cell in cells]
    uids = [str(cell.get_attribute("data-uid")) for cell in cells]
    page.route("**/decisions", lambda route: route.fulfill(status=403, content_type="text/html", body="Not allowed"))
    cells[0].click()
    page.keyboard.press("x")
    expect(page.locator("#saving")).to_have_text("Not saved yet (1): none of your roles allows it any more")
    assert waiting(page) == uids[:1]
    page.unroute("**/decisions")
    told = {"error": "sam has signed this review meanwhile"}
    page.route("**/decisions", lambda route: route.fulfill(status=409, json=told))
    page.keyboard.press("x")
    expect(page.locator("#saving")).to_have_text("Not saved: sam has signed this review meanwhile")
    assert waiting(page) == []
    assert [set(str(cell.get_attribute("class")).split()) for cell in cells] == looks


def test_what_one_person_decided_is_not_sent_as_another_s(page: Page) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/decisions") else None)
    study = re.compile(r"/revisions/\d+$")

    def of_ada(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace('data-person="local"', 'data-person="ada"'))

    page.route(study, of_ada)
    page.route("**/decisions", lambda route: route.abort())
    page.reload()
    cell = page.locator(".cell").nth(4)
    uid = cell.get_attribute("data-uid")
    cell.click()
    page.keyboard.press("x")
    expect(page.locator("#saving")).to_contain_text("Not saved yet")
    assert len(sent) > 0
    page.unroute(study)
    page.unroute("**/decisions")

    page.goto("about:blank")
    sent.clear()
    page.go_back()  # as the person who is signed in now
    page.wait_for_selector('.cell[aria-current="true"]')
    expect(cell).not_to_have_class(re.compile(r"\bunsaved\b"))
    page.wait_for_timeout(500)
    assert (sent, waiting(page)) == ([], [uid])
    page.route(study, of_ada)
    page.reload()
    expect(page.locator("#saving")).to_have_text("Saved")
    assert (len(sent), waiting(page)) == (1, [])


def test_two_reviewers_at_once_are_told(page: Page, browser: Browser, demo: Demo) -> None:
    page.click("text=Demonstration Study")
    page.wait_for_selector('.cell[aria-current="true"]')
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(demo.address)
        other.click("text=Demonstration Study")
        other.wait_for_selector('.cell[aria-current="true"]')
        version = other.locator(".cell").first.get_attribute("data-version")
        other.keyboard.press("a")
        expect(other.locator("#saving")).to_have_text("Saved")
        assert other.locator(".cell").first.get_attribute("data-version") != version
    page.keyboard.press("x")
    expect(page.locator("#saving")).to_contain_text("has decided this cell otherwise meanwhile")


def test_a_picture_is_uploaded_and_read(page: Page, demo: Demo, faults: Faults) -> None:
    (picture, *_) = sorted((demo.folder.parent / "cells").glob("*")) or sorted(demo.run.rglob("synthetic*.png"))
    page.click("nav a[href='/upload']")
    page.set_input_files("#files", str(picture))
    page.fill("[name=family_name]", "Uploaded")
    page.fill("[name=patient_id]", "U-1")
    page.select_option("[name=specimen]", "bone-marrow")
    page.click("main button.primary")
    expect(page.locator("#uploaded")).to_contain_text("1 image was taken")
    page.click("#uploaded a.primary")
    # The page follows the study from its arrival to its cells by itself.
    expect(page.locator(".cell")).to_have_count(1, timeout=90_000)
    expect(page.locator("h1")).to_have_text("Uploaded")
    expect(page.locator("#status")).to_contain_text("0 of 1 reviewed")
    assert faults == []


@pytest.mark.parametrize(("locale", "scheme"), [("en", "light"), ("ar", "dark")])
def test_no_page_is_hard_to_use(browser: Browser, demo: Demo, locale: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1366, "height": 768}, locale=locale, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(demo.address.partition("#")[0])
    assert serious(page) == []
    page.goto(demo.address)
    page.wait_for_selector("table.studies")
    root = page.url.split("?")[0].rstrip("/")
    assert page.evaluate("document.documentElement.dir") == ("rtl" if locale == "ar" else "ltr")
    study = page.locator("table.studies tbody th a", has_text="Demonstration").get_attribute("href")
    for path in (*PATHS, study):
        page.goto(f"{root}{path}")
        page.wait_for_timeout(300)  # pictures and the first selection
        assert serious(page) == [], path
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} scrolls sideways"
    page.goto(f"{root}{study}")
    page.wait_for_selector('.cell[aria-current="true"]')
    page.keyboard.press("f")
    page.wait_for_selector("#field[open] polygon.chosen")
    assert serious(page) == []
    context.close()


def test_the_demo_ends_with_a_summary_of_what_was_signed(demo: Demo) -> None:
    """Run last: it ends the demo."""
    interrupt(demo.process)
    demo.process.wait(90)
    assert (demo.folder / "summary.json").is_file(), demo.printed.decode(errors="replace")[-2000:]
    summary = json.loads((demo.folder / "summary.json").read_text())
    assert len(summary["sr"]) == 3  # the study's two, and that of the upload
    assert b"signed by local" in demo.printed
    assert b"SR at the PACS" in demo.printed
