"""The key images: pages that say no more than is known, in any viewer, and that the report points to."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from allpacs.demo.synthetic import draw_cell
from allpacs.domain.artefacts import ArtefactKind
from allpacs.report.context import CellImage, ReportContext
from allpacs.report.inputs import format_inputs
from allpacs.report.key_images import COLUMNS, PAGE_WIDTH, ROWS, key_cells, key_images, page_height
from allpacs.study.results import results
from conformance.support.report_samples import CONTEXT, SERIES, many_cells, usual_headers, usual_study

SIDE = 64


def picture(seed: int, *, explained: bool = True) -> CellImage:
    rgb = draw_cell(seed, blast=True, size_px=SIDE)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    evidence = np.exp(-((rows - 30.0) ** 2 + (columns - 30.0) ** 2) / 150.0).astype(np.float32)
    return CellImage(rgb, evidence * (rgb.max(axis=2) > 0) if explained else None)


def context(explained: bool = True) -> ReportContext:
    cells = key_cells(usual_study().cells, 12)
    return replace(CONTEXT, pictures={c.tracking_uid: picture(k, explained=explained) for k, c in enumerate(cells)})


def made(**options: bool) -> Dataset:
    artefact = key_images(format_inputs(usual_study(), usual_headers(), context(**options)))
    assert artefact is not None
    return pydicom.dcmread(BytesIO(artefact.content))


def test_the_most_like_lymphoblasts_come_first_and_cells_without_a_number_never() -> None:
    cells = key_cells(usual_study().cells, 3)
    assert [cell.probability_all for cell in cells] == [1.0, 0.9731234567, 0.5]
    assert len(key_cells(usual_study().cells, 99)) == 4


def test_pages_of_six_cells_in_the_same_study() -> None:
    findings, headers = many_cells(13)
    pictures = {cell.tracking_uid: picture(k) for k, cell in enumerate(key_cells(findings.cells, 13))}
    artefact = key_images(format_inputs(findings, headers, replace(CONTEXT, pictures=pictures)))
    assert artefact is not None
    image = pydicom.dcmread(BytesIO(artefact.content))
    assert image.NumberOfFrames == -(-13 // (COLUMNS * ROWS))
    assert list(image.PageNumberVector) == [1, 2, 3]
    assert image.pixel_array.shape == (3, page_height(6), PAGE_WIDTH, 3)
    assert image.StudyInstanceUID == findings.study_uid
    assert artefact.kind is ArtefactKind.KEY_IMAGES


def test_header_is_that_of_the_study_and_no_patient_is_burned_in() -> None:
    image = made()
    assert (image.PatientName, image.PatientID, image.AccessionNumber) == ("Müller^Änne", "P-17", "ACC-9")
    assert image.BurnedInAnnotation == "NO"
    assert image.ImageComments.startswith("Research use only.")
    assert image.ContributingEquipmentSequence[0].DeviceUID == usual_study().model.device_uid
    shown = {one.ReferencedSOPInstanceUID for one in image.SourceImageSequence}
    assert shown == {f"{SERIES}.{number}" for number in (1, 2, 3)}


def test_a_map_is_drawn_over_the_cell_where_there_is_one() -> None:
    with_map, without = made().pixel_array, made(explained=False).pixel_array
    assert (with_map != without).any()
    # Red is where the evidence is strongest, and nowhere on a page without maps.
    red = (with_map[..., 0].astype(int) - with_map[..., 2]) > 90
    assert red.any()


def test_same_inputs_give_the_same_bytes() -> None:
    assert key_images(format_inputs(usual_study(), usual_headers(), context())) == key_images(
        format_inputs(usual_study(), usual_headers(), context())
    )


def test_a_report_that_points_to_other_pictures_is_another_object() -> None:
    uids = {
        next(one.uid for one in results(usual_study(), usual_headers(), c) if one.kind is ArtefactKind.SR)
        for c in (CONTEXT, context(), context(explained=False))
    }
    assert len(uids) == 3


def test_no_pictures_no_key_images() -> None:
    assert key_images(format_inputs(usual_study(), usual_headers(), CONTEXT)) is None
    assert ArtefactKind.KEY_IMAGES not in {one.kind for one in results(usual_study(), usual_headers(), CONTEXT)}


def test_the_report_points_to_them_and_names_them_as_evidence() -> None:
    made = {one.kind: one for one in results(usual_study(), usual_headers(), context())}
    report = pydicom.dcmread(BytesIO(made[ArtefactKind.SR].content))
    (item,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121080"]
    uid = made[ArtefactKind.KEY_IMAGES].uid
    assert item.ValueType == "IMAGE"
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
    evidence = {
        one.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert uid in evidence


@pytest.mark.parametrize("kind", [ArtefactKind.KEY_IMAGES, ArtefactKind.SR])
def test_dciodvfy_finds_no_error(kind: ArtefactKind, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    file = tmp_path / "object.dcm"
    made = {one.kind: one for one in results(usual_study(), usual_headers(), context())}
    file.write_bytes(made[kind].content)
    done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace", check=False)
    told = (done.stdout + done.stderr).splitlines()
    assert told
    assert [line for line in told if line.startswith("Error")] == []


def test_what_one_image_lost_in_compression_stays_lost() -> None:
    """PS3.3 C.7.6.1.1.5: once 01, never 00 again."""
    assert made().LossyImageCompression == "00"
    headers = usual_headers()
    lossy = list(headers)[1]  # not the one that patient and study are taken from
    headers[lossy].LossyImageCompression = "01"
    headers[lossy].LossyImageCompressionRatio = "17.81"
    headers[lossy].LossyImageCompressionMethod = "ISO_10918_1"
    artefact = key_images(format_inputs(usual_study(), headers, context()))
    assert artefact is not None
    image = pydicom.dcmread(BytesIO(artefact.content))
    assert (image.LossyImageCompression, image.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(image.LossyImageCompressionRatio) == 17.81
