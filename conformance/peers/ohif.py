"""OHIF, the viewer that clinicians open DICOM with, as its own prebuilt pages in headless Chromium.

The pages and the DICOMweb of a PACS, or of allpacs's console, are served from one origin, as a reverse proxy does in a
hospital.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from conformance.peers.programs import NODE_PACKAGES

DIST = NODE_PACKAGES / "ohif"
CHROMIUM = "/usr/bin/chromium"
#: Chromium without a screen, without a sandbox (it runs as root) and without asking anything of the network.
_FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)

_CONFIGURATION = {
    "routerBasename": "/",
    "showStudyList": True,
    "extensions": [],
    "modes": [],
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "maxNumberOfWebWorkers": 1,
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "DICOMweb",
                "name": "dicomweb",
                "wadoUriRoot": "/dicom-web",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}


def version() -> str:
    """Return OHIF's version."""
    return next(path.name.removeprefix(".") for path in DIST.glob(".3*"))


@contextmanager
def viewer(url: str, size: tuple[int, int] = (1500, 900), sign_in_at: str | None = None) -> Iterator[tuple[Page, str]]:
    """Serve OHIF beside the DICOMweb of ``url``; yield a browser's page and the viewer's address.

    Parameters
    ----------
    sign_in_at:
        Address of that server on 127.0.0.1 which signs the browser in when it is opened.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(url))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            if sign_in_at is not None:
                page.goto(sign_in_at)
                page.wait_for_url(lambda address: "sign-in" not in address, timeout=30_000)
            yield page, f"http://127.0.0.1:{server.server_port}"
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


def _handler(url: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/dicom-web"):
                self._forward()
            elif path == "/app-config.js":
                self._answer(200, "text/javascript", f"window.config = {json.dumps(_CONFIGURATION)};".encode())
            else:
                file = DIST / path.removeprefix("/")
                if not file.is_file() or not file.resolve().is_relative_to(DIST.resolve()):
                    file = DIST / "index.html"  # a page of the application has no file of its own
                self._answer(200, guess_type(file.name)[0] or "application/octet-stream", file.read_bytes())

        def _forward(self) -> None:
            # Orthanc 1.10 does not know "transfer-syntax=*"; without it, it answers as the object is stored.
            accept = (
                self.headers.get("Accept", "*/*").replace("; transfer-syntax=*", "").replace(";transfer-syntax=*", "")
            )
            # Cookies are a host's, whatever the port: the browser sends those of the server that it is signed in to.
            headers = {"Accept": accept} | ({"Cookie": self.headers["Cookie"]} if "Cookie" in self.headers else {})
            answer = httpx.get(url + self.path, headers=headers, timeout=30.0, trust_env=False)
            self._answer(answer.status_code, answer.headers.get("Content-Type", ""), answer.content)

        def _answer(self, status: int, media_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            # What cornerstone's workers need to share memory.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
