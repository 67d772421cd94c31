"""Debian's Chromium, driven by Playwright; tests that need it skip where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

#: Nothing but our pages: Chromium's own connections would be refused, many at a time.
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium, headless, while the block runs."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


class Faults(list[str]):
    """What a page complained of: errors of scripts and of the content security policy, answers of 400 and above."""

    def watch(self, page: Page) -> Page:
        """Listen to a page."""
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda message: self.append(message.text) if message.type == "error" else None)
        page.on(
            "response", lambda answer: self.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
        )
        return page


def serious(page: Page) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 AA on a page, serious or critical, one line each."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found: Any = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response
    return [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
