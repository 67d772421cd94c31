"""A hospital of third parties around one running allpacs, and the study that goes through it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread

from allpacs.app import open_store
from allpacs.demo.synthetic import draw_cell, draw_field
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
from allpacs.settings import Settings, load_settings
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.import_images import import_pictures
from conformance.peers.fhir_server import FhirServer
from conformance.peers.orthanc import AE_TITLE, Orthanc
from conformance.peers.programs import dcmtk, run
from conformance.support.network import free_port, wait_until

PATIENT = PatientAndSpecimen(
    patient_id="CONF-1",
    patient_name="Synthetic^Conformance",
    birth_date=datetime(2019, 3, 4, tzinfo=UTC).date(),
    sex="F",
    accession_number="ACC-CONF-1",
    container_id="SLIDE-1",
    kind=SpecimenKind.BONE_MARROW,
    stain=Stain.GIEMSA,
)
MADE_AT = datetime(2026, 3, 4, 10, 11, 12, tzinfo=UTC)


@dataclass(frozen=True)
class PeerHospital:
    """What the checks look at."""

    folder: Path
    pacs: Orthanc
    ehr: FhirServer
    port: int
    config: Path

    @property
    def settings(self) -> Settings:
        """What allpacs runs with."""
        return load_settings(self.config)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open allpacs's own store beside the running plugin."""
        store = open_store(self.settings)
        try:
            yield store
        finally:
            store.close()

    def wait_until_delivered(self, study_uid: str, revision: int = 1, timeout_s: float = 300.0) -> None:
        """Wait until both destinations have the results of a revision.

        Raises
        ------
        TimeoutError
            They did not in time; says where the study stands.
        """
        with self.store() as store:

            def delivered() -> bool:
                row = store.studies.get(study_uid)
                return row is not None and row.revision >= revision and row.state == RevisionState.DELIVERED

            try:
                wait_until(delivered, timeout_s)
            except AssertionError:
                raise TimeoutError(f"not delivered within {timeout_s:g} s: {store.studies.get(study_uid)}") from None

    def shown(self, study_uid: str) -> dict[str, Any]:
        """Return what ``allpacs show --json`` tells of a study."""
        done = subprocess.run(
            [sys.executable, "-m", "allpacs", "show", study_uid, "--json", "--config", str(self.config)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)  # type: ignore[no-any-return]


@contextmanager
def hospital(folder: Path) -> Iterator[PeerHospital]:
    """Run PACS, EHR and the plugin between them."""
    port = free_port()
    pacs = Orthanc(folder / "pacs", dicom_port=free_port(), http_port=free_port(), allpacs_port=port)
    ehr = FhirServer(folder / "ehr", free_port())
    config = folder / "allpacs.toml"
    config.write_text(
        f"""
[receive]
port = {port}
quiet_s = 2.0
min_free_mb = 10
[store]
folder = {json.dumps(str(folder / "store"))}
[console]
port = {free_port()}
[report]
annotations_above = 8
pdf = true
[report.fhir]
cells = "all"
[log]
format = "json"
[retry]
first_s = 0.5
cap_s = 2.0
[destinations.pacs]
kind = "c_store"
host = "127.0.0.1"
port = {pacs.dicom_port}
called_ae = "{AE_TITLE}"
[destinations.ehr]
kind = "fhir"
base_url = "{ehr.base_url}"
""",
        encoding="utf-8",
    )
    with ExitStack() as stack:
        stack.enter_context(pacs)
        stack.enter_context(ehr)
        stack.enter_context(running(folder, "serve", "--config", str(config)))
        wait_until(lambda: _answers(port), 60, "a receiver that answers C-ECHO")
        yield PeerHospital(folder, pacs, ehr, port, config)


def _answers(port: int) -> bool:
    return run(dcmtk("echoscu"), "-aec", "ALLPACS", "127.0.0.1", str(port)).returncode == 0


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[None]:
    """Run an ``allpacs`` command while the block runs."""
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "allpacs", *arguments], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def study(folder: Path, pictures: Sequence[Path], patient: PatientAndSpecimen = PATIENT) -> list[Path]:
    """Write pictures as one study of VL Microscopic images."""
    return import_pictures(pictures, folder, patient=patient, made_at=MADE_AT, synthetic=True)


def drawn(folder: Path) -> list[Path]:
    """Draw the pictures of the study: fields with several cells, single cells on black, one that cannot be judged."""
    folder.mkdir(parents=True)
    pictures = [*(draw_field(seed, cells=6) for seed in (3, 4)), draw_cell(1, blast=True), draw_cell(2, blast=False)]
    pictures.append(np.zeros((200, 200, 3), np.uint8))
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


def crowded(folder: Path) -> list[Path]:
    """Draw two fields of more cells than a report lists one by one in this suite: their cells become annotations."""
    folder.mkdir(parents=True)
    paths = []
    for seed in (9, 10):
        paths.append(folder / f"crowded-{seed}.png")
        Image.fromarray(draw_field(seed, cells=14, size=(1024, 768))).save(paths[-1])
    return paths


def headers(files: Sequence[Path]) -> list[Dataset]:
    """Return the files' headers."""
    return [dcmread(file, stop_before_pixels=True) for file in files]
