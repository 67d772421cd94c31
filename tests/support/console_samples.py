"""Studies for the console: instances with pixels in a store, and findings as a worker would have left them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread

from allpacs.classify import aggregate
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, ModelIdentity, NotAssessable
from allpacs.domain.geometry import BoxPx
from allpacs.domain.instance import InstanceIdentity
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.store.store import Store
from allpacs.study.import_images import import_pictures

MODEL = ModelIdentity("sample", "1.0", "sha256:" + "ab" * 32, "EfficientNetB3")
#: What the model "said" of the cells of a study, in turn.
PROBABILITIES = (0.97, 0.08, 0.74, 0.5, 0.22, None)
SIDE_PX = 200
HTML = b"<!doctype html><title>report</title>"


def reported_study(
    store: Store,
    folder: Path,
    *,
    cells: int = 6,
    at: float = 1000.0,
    patient_name: str = "Synthetic^Test",
    patient_id: str = "TEST-1",
    seeds: Sequence[int] | None = None,
) -> str:
    """Put a study with one drawn cell an image into the store, read and delivered; return its UID."""
    files = painted_study(folder, seeds or range(cells), patient_name=patient_name, patient_id=patient_id)
    for file in files:
        keep_file(store, file, at=at)
    ((study_uid, revision),) = store.revisions.close_due(at + 20)
    report(store, study_uid, revision)
    return study_uid


def painted_study(
    folder: Path,
    seeds: Sequence[int],
    *,
    patient_name: str = "Synthetic^Test",
    patient_id: str = "TEST-1",
    study_uid: str | None = None,
) -> list[Path]:
    """Write a study of discs on black, and return its DICOM files: quicker to make than drawn cells."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX / 2
    paths = []
    for seed in seeds:
        radius = 40 + seed % 30
        disc = np.where((rows**2 + columns**2 < radius**2)[..., None], (90 + seed % 100, 40, 120), 0)
        paths.append(folder / f"{seed:03d}.png")
        Image.fromarray(disc.astype(np.uint8)).save(paths[-1])
    patient = PatientAndSpecimen(
        patient_id=patient_id, patient_name=patient_name, accession_number="A-1", kind=SpecimenKind.BONE_MARROW
    )
    return import_pictures(
        paths, folder / "dicom", patient=patient, made_at=datetime.now(UTC), synthetic=True, study_uid=study_uid
    )


def keep_file(store: Store, file: Path, *, at: float) -> None:
    """Keep a DICOM file as the receiver does."""
    content = file.read_bytes()
    header = dcmread(file, stop_before_pixels=True)
    identity = InstanceIdentity(
        sop_instance_uid=header.SOPInstanceUID,
        sop_class_uid=header.SOPClassUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
        study_uid=header.StudyInstanceUID,
        series_uid=header.SeriesInstanceUID,
    )
    start = 132 + 12 + header.file_meta.FileMetaInformationGroupLength
    store.receiving.keep_instance(
        identity, content[:start], content[start:], calling_ae="MICROSCOPE", received_at=at, quiet_s=10, max_age_s=60
    )


def report(store: Store, study_uid: str, revision: int, *, at: float = 1030.0) -> None:
    """Leave findings, results and deliveries of a revision."""
    found = [
        InstanceFindings(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_uid=row.series_uid,
            frames=1,
            cells=(_cell(row.sop_instance_uid, PROBABILITIES[number % len(PROBABILITIES)]),),
        )
        for number, row in enumerate(store.revisions.instances(study_uid, revision))
    ]
    store.findings.put(study_uid, revision, found, stage="classify")
    findings = aggregate.study_findings(study_uid, revision, MODEL, "sha256:" + "cd" * 32, found)
    store.outcomes.put(findings)
    name = f"{study_uid}.{revision}.html"
    store.artefacts.put(study_uid, revision, Artefact(ArtefactKind.HTML, study_uid, "text/html", name, HTML))
    store.deliveries.queue(study_uid, revision, ["pacs"], now=at)
    store.deliveries.set_state(study_uid, revision, "pacs", DeliveryState.SENT, now=at, attempts=1, reason="0x0000")
    store.revisions.set_state(
        study_uid, revision, RevisionState.DELIVERED, finished_at=at, bundle_digest=findings.model.digest
    )


def _cell(sop_instance_uid: str, probability: float | None) -> CellFinding:
    label = reason = None
    if probability is None:
        reason = NotAssessable.BLURRED
    elif 0.4 < probability < 0.6:
        reason = NotAssessable.INDETERMINATE
    else:
        label = CellLabel.ALL if probability > 0.5 else CellLabel.HEM
    box = BoxPx(40, 40, 120, 120)
    return CellFinding(sop_instance_uid, 1, 1, box, box.corners(), label, probability, reason)
