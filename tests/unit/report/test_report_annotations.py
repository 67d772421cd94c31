"""Thousands of cells of an image: annotations beside a summary report, read back by highdicom."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, MatrixPlace, NotAssessable, StudyFindings
from allpacs.domain.geometry import BoxPx, PixelMatrix
from allpacs.report.annotations import annotated_images
from allpacs.results import results
from unit.report.report_samples import CONTEXT, SERIES, WHOLE_SLIDE, cell, header, instance, study

SLIDE = f"{SERIES}.1"
MANY_CELLS = CONTEXT.annotations_above
MATRIX = PixelMatrix(
    100_000, 80_000, (10.0, 20.0, 0.0), spacing_mm=(0.00025, 0.00025), frame_of_reference_uid=f"{SERIES}.9"
)  # fmt: skip


def on_slide(number: int) -> CellFinding:
    """Return a cell of a tile, and where it lies on the slide."""
    outcome = (
        {"label": CellLabel.ALL, "probability_all": 0.9},
        {"label": CellLabel.HEM, "probability_all": 0.1},
        {"reason": NotAssessable.BLURRED},
    )[number % 3]
    left, top = 30.0 * (number % 2_000), 40.0 * (number // 2_000)
    outline = ((left, top), (left + 20, top), (left + 20, top + 20), (left, top + 20))
    place = MatrixPlace(BoxPx(int(left), int(top), 20, 20), outline)
    return replace(cell(SLIDE, number, frame=1 + number % 7, **outcome), on_matrix=place)


def slide_study(cells: int = MANY_CELLS + 100) -> tuple[StudyFindings, dict[str, Dataset]]:
    """Return a slide of many cells and a field of one."""
    slide = replace(
        instance(1, [on_slide(k) for k in range(1, cells + 1)], frames=7, sop_class=WHOLE_SLIDE), matrix=MATRIX
    )
    field = instance(2, [cell(f"{SERIES}.2", 1, label=CellLabel.ALL, probability_all=0.7)])
    return study([slide, field]), {SLIDE: header(1, SOPClassUID=WHOLE_SLIDE), f"{SERIES}.2": header(2)}


@pytest.fixture(scope="module")
def made() -> dict[ArtefactKind, Artefact]:
    return {one.kind: one for one in results(*slide_study(), CONTEXT)}


def test_few_cells_and_cells_of_many_frames_stay_in_the_report() -> None:
    few, _ = slide_study(MANY_CELLS - 1)
    assert annotated_images(few, MANY_CELLS) == []
    stack = instance(1, [cell(SLIDE, k, frame=k, label=CellLabel.ALL) for k in range(1, MANY_CELLS + 9)], frames=9_000)
    assert annotated_images(study([stack]), MANY_CELLS) == []


def test_the_image_of_most_cells_has_annotations_and_the_others_stay_in_the_report() -> None:
    fields = [
        instance(n, [cell(f"{SERIES}.{n}", k, label=CellLabel.HEM, probability_all=0.2) for k in range(1, cells + 1)])
        for n, cells in ((1, 12), (2, 3), (3, 15))
    ]
    headers = {f"{SERIES}.{n}": header(n) for n in (1, 2, 3)}
    made = list(results(study(fields), headers, replace(CONTEXT, annotations_above=10)))
    annotations = [pydicom.dcmread(BytesIO(a.content)) for a in made if a.kind is ArtefactKind.ANNOTATIONS]
    (only,) = annotations
    assert only.ReferencedImageSequence[0].ReferencedSOPInstanceUID == f"{SERIES}.3"
    assert sum(group.NumberOfAnnotations for group in only.AnnotationGroupSequence) == 15
    (report,) = [pydicom.dcmread(BytesIO(a.content)) for a in made if a.kind is ArtefactKind.SR]
    named = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "ANNOTATIONS"]
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in named] == [
        one.SOPInstanceUID for one in annotations
    ]
    (measurements,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    assert len(measurements.ContentSequence) == 12 + 3, "the cells of the other images"


def test_every_cell_is_an_annotation_of_its_class_with_its_probability(made: dict[ArtefactKind, Artefact]) -> None:
    read = highdicom.ann.annread(BytesIO(made[ArtefactKind.ANNOTATIONS].content))
    groups = {group.label: group for group in read.get_annotation_groups()}
    cells = slide_study()[0].instances[0].cells
    expected = {
        "Lymphoblast": [c for c in cells if c.label is CellLabel.ALL],
        "Hematogone": [c for c in cells if c.label is CellLabel.HEM],
        "Not assessable": [c for c in cells if c.label is None],
    }
    assert {name: group.number_of_annotations for name, group in groups.items()} == {
        name: len(several) for name, several in expected.items()
    }
    for name, probability in (("Lymphoblast", 0.9), ("Hematogone", 0.1)):
        names, values, units = groups[name].get_measurements()
        assert ([n.value for n in names], [u.value for u in units]) == (["122157"], ["1"])
        assert np.allclose(values, probability)
    first = groups["Lymphoblast"].get_coordinates(annotation_number=1, coordinate_type="2D")
    assert expected["Lymphoblast"][0].on_matrix is not None
    assert np.allclose(first, expected["Lymphoblast"][0].on_matrix.outline)
    assert groups["Lymphoblast"].annotated_property_type.value == "15433008"
    assert groups["Hematogone"].annotated_property_type.scheme_designator == "99ALLPACS"


def test_the_summary_report_points_to_them_and_keeps_the_numbers(made: dict[ArtefactKind, Artefact]) -> None:
    report = pydicom.dcmread(BytesIO(made[ArtefactKind.SR].content))
    by_name = {item.ConceptNameCodeSequence[0].CodeValue: item for item in report.ContentSequence}
    reference = by_name["ANNOTATIONS"].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == made[ArtefactKind.ANNOTATIONS].uid
    groups = [i for i in by_name["126010"].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "125007"]
    assert len(groups) == 1, "the field's cell is a group all the same"
    counts = {
        item.ConceptNameCodeSequence[0].CodeValue: str(item.MeasuredValueSequence[0].NumericValue)
        for item in by_name["126011"].ContentSequence
        if item.ValueType == "NUM"
    }
    assert counts["CELLS"] == str(MANY_CELLS + 101)


def test_the_ehr_gets_the_panel_and_no_thousands_of_observations(made: dict[ArtefactKind, Artefact]) -> None:
    entries = [entry["resource"] for entry in json.loads(made[ArtefactKind.FHIR].content)["entry"]]
    observations = [one for one in entries if one["resourceType"] == "Observation"]
    assert len(observations) == 2
    (panel,) = [one for one in observations if "hasMember" in one]
    assert len(panel["hasMember"]) == 1
    assert panel["component"][0]["valueInteger"] == MANY_CELLS + 101


def test_a_slide_of_few_cells_has_outlines_on_the_frame_and_in_millimetres_on_the_slide() -> None:
    made = {one.kind: one for one in results(*slide_study(3), CONTEXT)}
    report = pydicom.dcmread(BytesIO(made[ArtefactKind.SR].content))
    (measurements,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    group = measurements.ContentSequence[0]
    assert [i.ValueType for i in group.ContentSequence if i.ValueType.startswith("SCOORD")] == ["SCOORD", "SCOORD3D"]
    (place,) = [i for i in group.ContentSequence if i.ValueType == "SCOORD3D"]
    assert place.ReferencedFrameOfReferenceUID == MATRIX.frame_of_reference_uid
    found = slide_study(3)[0].cells[0].on_matrix
    assert found is not None
    assert np.allclose(list(place.GraphicData[:3]), MATRIX.on_slide_mm(found.outline[0]))
    assert place.GraphicData[:3] == place.GraphicData[-3:]


@pytest.mark.parametrize("cells", [3, MANY_CELLS + 100])
def test_dciodvfy_finds_no_error(cells: int, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    for artefact in results(*slide_study(cells), CONTEXT):
        if artefact.media_type == "application/dicom":
            file = tmp_path / artefact.file_name
            file.write_bytes(artefact.content)
            done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace")
            told = (done.stdout + done.stderr).splitlines()
            assert told
            assert [line for line in told if line.startswith("Error")] == []
