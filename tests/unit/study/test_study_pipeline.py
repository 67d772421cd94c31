"""The stages in memory: what comes of an image, whatever it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from allpacs.cells.scale import CNMC_UM
from allpacs.classify.bundle import load_bundle
from allpacs.demo.synthetic import RED_CELL_SHARE, draw_cell, draw_field
from allpacs.domain.findings import CellLabel, NotAssessable, RemarkKind
from allpacs.domain.image import Scale, ScaleOrigin
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.study.pipeline import ImageFile, Pipeline

sys.path.append(str(Path(__file__).resolve().parents[1] / "decode"))

import decode_samples as samples

BLACK = np.zeros((80, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(load_bundle(SHIPPED_BUNDLE), max_pixels=1_000_000)


def _file(tmp_path: Path, rgb: NDArray[np.uint8], name: str = "image.png", cell_finder: str | None = None) -> ImageFile:
    Image.fromarray(rgb).save(tmp_path / name)
    return ImageFile(tmp_path / name, f"1.2.{len(name)}", "", "", cell_finder)


def _surely(score: float):  # type: ignore[no-untyped-def]
    return lambda crops: np.tile(np.array([[score, -score]], np.float32), (len(crops), 1))


def test_every_cell_has_a_finding_and_an_input(pipeline: Pipeline, tmp_path: Path) -> None:
    findings, crops = pipeline.find(_file(tmp_path, draw_field(seed=1, cells=5)))
    side = pipeline.bundle.input_px
    assert crops.shape == (len(findings.cells), side, side, 3)
    assert len(findings.cells) >= 4
    assert [cell.cell_number for cell in findings.cells] == list(range(1, len(findings.cells) + 1))
    assert findings.fault is None


def test_a_black_image_has_no_cells_and_no_fault(pipeline: Pipeline, tmp_path: Path) -> None:
    findings, crops = pipeline.find(_file(tmp_path, BLACK))
    assert (findings.cells, findings.frames, findings.fault, len(crops)) == ((), 1, None, 0)
    assert pipeline.label(findings, crops, _surely(9)) == findings


def test_an_unreadable_image_is_a_finding(pipeline: Pipeline, tmp_path: Path) -> None:
    image = _file(tmp_path, BLACK)
    image.path.write_bytes(b"BM no picture")
    findings, _ = pipeline.find(image)
    assert findings.fault
    assert findings.cells == ()


def test_an_image_that_is_too_large_is_a_finding(pipeline: Pipeline, tmp_path: Path) -> None:
    findings, _ = pipeline.find(_file(tmp_path, np.zeros((1001, 1000, 3), np.uint8)))
    assert "too large" in (findings.fault or "")


@pytest.mark.parametrize(
    ("score", "label", "reason"),
    [
        (9.0, CellLabel.ALL, None),
        (-9.0, CellLabel.HEM, None),
        (0.0, None, NotAssessable.INDETERMINATE),
        (float("nan"), None, NotAssessable.MODEL_FAILED),
    ],
)
def test_the_model_decides(
    pipeline: Pipeline, tmp_path: Path, score: float, label: CellLabel | None, reason: NotAssessable | None
) -> None:
    findings, crops = pipeline.find(_file(tmp_path, draw_cell(seed=1, blast=True)))
    (cell,) = pipeline.label(findings, crops, _surely(score)).cells
    assert (cell.label, cell.reason) == (label, reason)
    assert (cell.probability_all is None) == np.isnan(score)


def test_a_blurred_cell_is_not_shown_to_the_model(pipeline: Pipeline, tmp_path: Path) -> None:
    blurred = Image.fromarray(draw_cell(seed=1, blast=True)).filter(ImageFilter.GaussianBlur(16))
    findings, crops = pipeline.find(_file(tmp_path, np.asarray(blurred)))
    asked: list[int] = []

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(len(crops))
        return np.zeros((len(crops), 2), np.float32)

    (cell,) = pipeline.label(findings, crops, ask).cells
    assert cell.reason == NotAssessable.BLURRED
    assert asked == []


def test_answers_go_to_the_cells_they_were_asked_for(pipeline: Pipeline, tmp_path: Path) -> None:
    images = [_file(tmp_path, draw_cell(seed=seed, blast=True), f"{seed}.png") for seed in range(3)]
    images.insert(1, _file(tmp_path, BLACK, "black.png"))
    found = [pipeline.find(image) for image in images]
    scores = iter([9.0, -9.0, 9.0])

    def ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([[score, -score] for score, _ in zip(scores, crops, strict=True)], np.float32)

    labelled = pipeline.label_all([one for one, _ in found], [crops for _, crops in found], ask)
    assert [[str(cell.label) for cell in one.cells] for one in labelled] == [["ALL"], [], ["HEM"], ["ALL"]]


def test_another_way_of_finding_cells_is_another_decision(pipeline: Pipeline, tmp_path: Path) -> None:
    field = draw_field(seed=1, cells=5)
    assert len(pipeline.find(_file(tmp_path, field, cell_finder="whole_frame"))[0].cells) == 1
    assert pipeline.decision_digest([None]) != pipeline.decision_digest(["nucleus"])
    assert pipeline.decision_digest(["nucleus", None]) == pipeline.decision_digest([None, "nucleus", None])


def test_a_frame_that_does_not_decode_is_remarked_and_the_others_are_judged(pipeline: Pipeline, tmp_path: Path) -> None:
    field = draw_field(seed=1, cells=5)
    rows, columns, _ = field.shape
    ds = samples.header(rows, columns, frames=3, photometric="YBR_FULL_422")
    good = samples.jpeg()(field)
    (tmp_path / "a.dcm").write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, [good, good[:500], good]))
    findings, crops = pipeline.find(ImageFile(tmp_path / "a.dcm", "1.2.3", "", ""))
    assert findings.fault is None
    assert findings.frames == 3
    assert {cell.frame_number for cell in findings.cells} == {1, 3}
    assert len(crops) == len(findings.cells)
    (remark,) = findings.remarks
    assert remark.kind is RemarkKind.UNREADABLE_FRAMES
    assert "1 of its frames could not be decoded and so not judged: 2. frame 2" in remark.text


def test_an_instance_whose_frames_all_fail_is_unreadable(pipeline: Pipeline, tmp_path: Path) -> None:
    ds = samples.header(22, 34, frames=2, photometric="YBR_FULL_422")
    (tmp_path / "a.dcm").write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, [b"\xff\xd8no\xff\xd9"] * 2))
    findings, _ = pipeline.find(ImageFile(tmp_path / "a.dcm", "1.2.3", "", ""))
    assert "no frame can be decoded" in (findings.fault or "")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_what_artificial_intelligence_made_is_left_out(pipeline: Pipeline, tmp_path: Path, syntax: str) -> None:
    ds, equipment, family = samples.header(22, 34), Dataset(), Dataset()
    family.CodeValue, family.CodingSchemeDesignator, family.CodeMeaning = "123110", "DCM", "Artificial Intelligence"
    equipment.PurposeOfReferenceCodeSequence = [family]
    ds.ContributingEquipmentSequence = [equipment]
    (tmp_path / "a.dcm").write_bytes(samples.native(ds, syntax, samples.smooth_rgb()))
    findings, crops = pipeline.find(ImageFile(tmp_path / "a.dcm", "1.2.3", "", ""))
    assert (findings.left_out, findings.fault, findings.cells, len(crops)) == (True, None, (), 0)


@pytest.mark.parametrize("grey", [0, 200, 255])
def test_a_field_of_nothing_is_a_finding(pipeline: Pipeline, tmp_path: Path, grey: int) -> None:
    findings, _ = pipeline.find(_file(tmp_path, np.full((480, 640, 3), grey, np.uint8)))
    assert findings.fault is None
    assert [remark.kind for remark in findings.remarks] == [RemarkKind.NO_CELLS]


def test_the_scale_is_stated_or_seen_or_configured(pipeline: Pipeline, tmp_path: Path) -> None:
    field = draw_field(seed=1, cells=5)
    seen = pipeline.find(_file(tmp_path, field))[0].scale
    assert seen is not None
    assert seen.origin is ScaleOrigin.RED_CELLS
    red_cell_px = 2 * RED_CELL_SHARE * min(field.shape[:2])
    assert seen.spacing_um == pytest.approx(7.2 / red_cell_px, rel=0.1)

    ds = samples.header(*field.shape[:2])
    ds.PixelSpacing = ["0.00014", "0.00014"]
    (tmp_path / "a.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, field))
    stated = ImageFile(tmp_path / "a.dcm", "1.2.3", "", "", spacing_um=0.4)
    found = pipeline.find(stated)[0]
    assert found.scale is not None
    assert found.scale.origin is ScaleOrigin.PIXEL_SPACING
    assert found.scale.spacing_um == pytest.approx(0.14)
    assert found.remarks == ()

    ds.PixelSpacing = ["0.00025", "0.00025"]  # twice what the red cells say
    (tmp_path / "a.dcm").write_bytes(samples.native(ds, ExplicitVRLittleEndian, field))
    contradicted = pipeline.find(stated)[0]
    assert contradicted.scale == seen
    assert [remark.kind for remark in contradicted.remarks] == [RemarkKind.SCALE_CONFLICT]

    cell = _file(tmp_path, draw_cell(seed=1, blast=True), "cell.png")
    assert pipeline.find(cell)[0].scale == Scale(CNMC_UM, ScaleOrigin.ASSUMED)
    assert pipeline.find(replace(cell, spacing_um=0.06))[0].scale == Scale(0.06, ScaleOrigin.CONFIGURED)
