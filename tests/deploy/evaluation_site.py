"""Run Orthanc and allpacs with the evaluation site's own files: studies go round, their reports do not go again.

One of the studies comes while allpacs is away.

``python -m deploy.evaluation_site COMPOSE_FOLDER SCRATCH_FOLDER`` within a network namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from allpacs.app import open_store
from allpacs.demo.fhir_endpoint import FhirEndpoint
from allpacs.settings import load_settings
from conformance.support.network import wait_until
from support.hospital import drawn_study


def main(compose: Path, scratch: Path) -> None:
    """Raise `AssertionError` where something is otherwise than the site's description says."""
    ehr = FhirEndpoint(scratch / "ehr")
    ehr.start()
    for name in ("allpacs.toml", "orthanc.json", "route.lua"):
        text = (compose / name).read_text(encoding="utf-8")
        text = text.replace("/var/lib/allpacs", str(scratch / "store")).replace(
            "/var/lib/orthanc/db", str(scratch / "db")
        )
        text = text.replace("/etc/orthanc", str(scratch)).replace("http://127.0.0.1:8080/fhir", ehr.base_url)
        (scratch / name).write_text(text, encoding="utf-8")
    config = scratch / "allpacs.toml"
    orthanc = httpx.Client(base_url="http://127.0.0.1:8042", timeout=30.0, trust_env=False)
    with (scratch / "log").open("wb") as log:
        running = [subprocess.Popen(["/usr/sbin/Orthanc", str(scratch / "orthanc.json")], stdout=log, stderr=log)]
        try:
            wait_until(lambda: _answers(orthanc), 60, "Orthanc answers")
            _put(orthanc, drawn_study(scratch / "early", range(2)))
            tried = "Error in RestApiPost"
            wait_until(lambda: tried in (scratch / "log").read_text("utf-8", "replace"), 60, "Orthanc tries in vain")
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "allpacs", "serve", "--config", str(config)],
                    stdout=log, stderr=log, env={**os.environ, "ALLPACS_CONSOLE__ENABLED": "false"},
                )
            )  # fmt: skip
            wait_until(lambda: _reaches_allpacs(orthanc), 120, "Orthanc reaches allpacs")
            _put(orthanc, drawn_study(scratch / "drawn", range(2, 4)))  # and with it goes what waits
            store = open_store(load_settings(config))
            wait_until(lambda: _modalities(orthanc).count("SR") == 2, 250, "both reports are in Orthanc's studies")
            before = [one.revision for one in store.studies.latest()]
            time.sleep(8)  # longer than Orthanc's StableAge: the reports have become stable series by now
            assert [one.revision for one in store.studies.latest()] == before, "a report came back as input"
            store.close()
        finally:
            for process in running:
                process.terminate()
                process.wait(60)
            ehr.stop()


def _answers(orthanc: httpx.Client) -> bool:
    try:
        return orthanc.get("/system").is_success
    except httpx.HTTPError:
        return False


def _reaches_allpacs(orthanc: httpx.Client) -> bool:
    return orthanc.post("/modalities/allpacs/echo", json={}).is_success


def _put(orthanc: httpx.Client, files: list[Path]) -> None:
    for file in files:
        orthanc.post("/instances", content=file.read_bytes()).raise_for_status()


def _modalities(orthanc: httpx.Client) -> list[str]:
    """Return the modality of each series."""
    series = orthanc.get("/series", params={"expand": ""}).json()
    assert len(orthanc.get("/studies").json()) == 2
    return [one["MainDicomTags"]["Modality"] for one in series]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
