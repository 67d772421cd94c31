"""The studies that are sent: single-cell VL Microscopic instances, RGB, uncompressed (608 KB at 450 × 450)."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from allpacs.demo.synthetic import draw_cell
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain
from allpacs.study.import_images import import_pictures

#: Different cells that are drawn; an instance more is one of them under another UID.
_DRAWN = 24


def study(folder: Path, count: int, side_px: int = 450) -> list[Path]:
    """Return the files of a new study of so many synthetic cells; each call makes a study of its own."""
    cells = _cells(folder, side_px)
    study_uid, series_uid = generate_uid(), generate_uid()
    target = folder / "studies" / study_uid
    target.mkdir(parents=True)
    files = []
    headers = [dcmread(path) for path in cells]
    for number in range(count):
        instance = headers[number % len(headers)]
        instance.StudyInstanceUID, instance.SeriesInstanceUID = study_uid, series_uid
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        instance.InstanceNumber = number + 1
        file = target / f"{number:06}.dcm"
        instance.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def discard(files: list[Path]) -> None:
    """Delete a study that `study` made."""
    shutil.rmtree(files[0].parent)


def _cells(folder: Path, side_px: int) -> list[Path]:
    """Return instances of the cells that all studies repeat."""
    made = folder / f"cells-{side_px}"
    if not made.is_dir():
        drawn = folder / f"drawn-{side_px}"
        drawn.mkdir(parents=True, exist_ok=True)
        pictures = []
        for seed in range(_DRAWN):
            pictures.append(drawn / f"{seed:02}.png")
            Image.fromarray(draw_cell(seed=seed, blast=seed % 2 == 0, size_px=side_px)).save(pictures[-1])
        patient = PatientAndSpecimen(
            patient_id="BENCH",
            patient_name="Bench^Mark",
            accession_number="BENCH",
            kind=SpecimenKind.BONE_MARROW,
            stain=Stain.GIEMSA,
        )
        import_pictures(pictures, made, patient=patient, made_at=datetime.now(UTC).astimezone(), synthetic=True)
    return sorted(made.rglob("*.dcm"))
