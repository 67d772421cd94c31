"""A hospital for tests: stand-ins for PACS and EHR, a configuration that names them, a study to send."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from PIL import Image

from allpacs.deliver.c_store import SentFile, echo, send_files
from allpacs.demo.archive import Archive
from allpacs.demo.fhir_endpoint import FhirEndpoint
from allpacs.demo.synthetic import draw_cell
from allpacs.domain.errors import DeliveryUnavailable
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
from allpacs.settings import Settings, load_settings
from allpacs.study.import_images import import_pictures
from conformance.support.network import free_port

AE_TITLE = "ALLPACS"
SENDER = "MICROSCOPE"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


class StubHospital:
    """PACS and EHR stand-ins with their folder, and the configuration of an allpacs between them."""

    def __init__(
        self,
        folder: Path,
        *,
        quiet_s: float = 0.5,
        database_url: str | None = None,
        extra: str = "",
        console: bool = False,
    ) -> None:
        self.folder = folder
        self.pacs = Archive(folder / "pacs", "PACS")
        self.ehr = FhirEndpoint(folder / "ehr")
        self.port = free_port()
        self.console_port = free_port()
        self.monitor_ports = (free_port(), free_port())
        self._console = console
        self.config = folder / "allpacs.toml"
        self._quiet_s = quiet_s
        self._database = "" if database_url is None else f"database_url = {json.dumps(database_url)}"
        self._extra = extra

    def __enter__(self) -> Self:
        self.pacs.start()
        self.ehr.start()
        self.config.write_text(
            f"""
[receive]
port = {self.port}
quiet_s = {self._quiet_s}
min_free_mb = 10
[store]
folder = {json.dumps(str(self.folder / "store"))}
{self._database}
[console]
enabled = {json.dumps(self._console)}
port = {self.console_port}
reviewer_name = "Specialist^Sam"
organisation = "Test Hospital"
[monitor]
receive_port = {self.monitor_ports[0]}
work_port = {self.monitor_ports[1]}
[report]
key_images = 0
[report.fhir]
cells = "all"
[log]
format = "json"
[retry]
first_s = 0.2
cap_s = 1.0
[destinations.pacs]
kind = "c_store"
host = "127.0.0.1"
port = {self.pacs.port}
called_ae = "PACS"
timeout_s = 10
[destinations.ehr]
kind = "fhir"
base_url = "{self.ehr.base_url}"
timeout_s = 10
{self._extra}
""",
            encoding="utf-8",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pacs.stop()
        self.ehr.stop()

    @property
    def settings(self) -> Settings:
        """The settings that the plugin runs with."""
        return load_settings(self.config)

    @property
    def reports(self) -> list[Path]:
        """The structured reports at the PACS."""
        return [one.path for one in self.pacs.instances if one.sop_class_uid == COMPREHENSIVE_3D_SR]

    def send(self, folder: Path) -> list[SentFile]:
        """Send a folder's DICOM files to the plugin over one association."""
        return send_files(sorted(folder.rglob("*.dcm")), "127.0.0.1", self.port, AE_TITLE, SENDER)

    @contextmanager
    def running(self, *verb: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``allpacs VERB`` while the block runs; its log is kept in the folder."""
        with (self.folder / f"{verb[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "allpacs", *verb, "--config", str(self.config)], stdout=log, stderr=log
            )
            try:
                yield process
            finally:
                end_program(process)

    def pid_of(self, process: str) -> int:
        """Return the process id of a process that the supervisor started last, from its log."""
        lines = [json.loads(line) for line in (self.folder / "serve.log").read_text().splitlines() if line[:1] == "{"]
        started = [one for one in lines if one["event"] == "process_started" and one["process"] == process]
        return int(started[-1]["pid"])

    def wait_for_echo(self, timeout_s: float = 30.0) -> float:
        """Wait until the receiver answers C-ECHO; return how long that took, in seconds."""
        started = time.monotonic()
        while True:
            try:
                echo("127.0.0.1", self.port, AE_TITLE, SENDER, timeout_s=2.0)
            except DeliveryUnavailable:
                if time.monotonic() - started > timeout_s:
                    raise
                time.sleep(0.02)
            else:
                return time.monotonic() - started


def end_program(process: subprocess.Popen[Any], within_s: float = 60.0) -> None:
    """Ask a program to end; kill it where it does not, and fail."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
        raise


def drawn_study(
    folder: Path,
    seeds: Sequence[int] = range(4),
    *,
    patient_name: str = "Synthetic^Test",
    patient_id: str = "TEST-1",
    study_uid: str | None = None,
) -> list[Path]:
    """Write a study of drawn cells, one a picture, and return its DICOM files."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    paths = []
    for seed in seeds:
        path = pictures / f"{seed:03d}.png"
        Image.fromarray(draw_cell(seed=seed, blast=seed % 2 == 0)).save(path)
        paths.append(path)
    patient = PatientAndSpecimen(
        patient_id=patient_id,
        patient_name=patient_name,
        accession_number="A-1",
        kind=SpecimenKind.BONE_MARROW,
        stain=Stain.GIEMSA,
    )
    return import_pictures(
        paths, folder / "dicom", patient=patient, made_at=datetime.now(UTC), synthetic=True, study_uid=study_uid
    )
