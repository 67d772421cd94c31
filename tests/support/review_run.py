"""Time the review of a study in a browser: ``python -m support.review_run`` from the folder ``tests``.

One person opens a study of 117 drawn cells, presses one key for each cell, and signs. Printed are the actions (keys,
clicks and filled fields) and the time of the browser and the console; a person's thinking comes on top.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from allpacs.console import access
from allpacs.console.access import Person, Role
from allpacs.console.app import make_console
from allpacs.settings import load_settings
from allpacs.store.store import Store
from support.browser import chromium
from support.console_samples import reported_study

CELLS = 117


def run(cells: int = CELLS) -> dict[str, float]:
    """Return the number of actions, and the seconds until all is saved and until it is signed."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store")
        reported_study(store, Path(folder) / "source", cells=cells, seeds=range(cells))
        settings = load_settings(store={"folder": Path(folder) / "store"}, receive={"port": 1})
        application = make_console(settings, store)

        def enter(request: Request) -> Response:
            access.sign_in(request, Person("sam", "Specialist^Sam", frozenset({Role.REVIEWER})), store.sessions)
            return PlainTextResponse("")

        application.router.routes.insert(0, Route("/test-enter", enter))
        server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.1)
        port = server.servers[0].sockets[0].getsockname()[1]
        root = f"http://127.0.0.1:{port}"
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.goto(f"{root}/test-enter")
            page.goto(root)
            began = time.monotonic()
            page.click("table.studies tbody th a")
            page.wait_for_selector('.cell[aria-current="true"]')
            for _ in range(cells):
                page.keyboard.press("Enter")
            page.wait_for_selector(f"#status :text('{cells} of {cells} reviewed')")
            reviewed = time.monotonic()
            page.click("[data-sign-off]")
            page.fill("#organisation", "Hospital")
            page.check("[name=responsible]")
            page.click("main button.primary")
            page.wait_for_url("**/revisions/2")
            signed = time.monotonic()
        server.should_exit = True
    return {
        "cells": cells,
        "actions": 1 + cells + 4,
        "reviewed_s": round(reviewed - began, 1),
        "signed_s": round(signed - began, 1),
    }


if __name__ == "__main__":
    sys.stdout.write(f"{run()}\n")
