"""medplum's FHIR router as the hospital's EHR, and medplum's validator."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from conformance.peers.programs import NODE_PACKAGES
from conformance.peers.server import server

_SCRIPT = Path(__file__).with_suffix(".mjs")


def medplum_version() -> str:
    """Return the version of medplum's packages."""
    package = NODE_PACKAGES / "node_modules" / "@medplum" / "fhir-router" / "package.json"
    return str(json.loads(package.read_text())["version"])


class FhirServer:
    """The EHR, on loopback."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.base_url, timeout=30.0, trust_env=False)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        command = ["node", str(_SCRIPT), str(self._port)]
        self._running.enter_context(self.http)
        self._running.enter_context(
            server(
                command,
                self.folder / "fhir.log",
                lambda: self.http.get("/metadata").raise_for_status(),
                folder=NODE_PACKAGES,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def search(self, resource_type: str, **parameters: str) -> list[dict[str, Any]]:
        """Return the resources that a search finds."""
        answer = self.http.get(f"/{resource_type}", params={"_count": "1000", **parameters})
        answer.raise_for_status()
        return [entry["resource"] for entry in answer.json().get("entry", [])]


def validated(*files: Path) -> dict[Path, list[str]]:
    """Return what medplum's validator says of each Bundle."""
    done = subprocess.run(
        ["node", str(_SCRIPT), "--validate", *map(str, files)],
        cwd=NODE_PACKAGES, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    told = json.loads(done.stdout)
    return {file: told[str(file)] for file in files}
