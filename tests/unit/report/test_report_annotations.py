"""Thousands of cells of an image: annotations beside a summary report, read back by highdicom."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from allpacs.deliver.c_store import CStoreDestination
from allpacs.deliver.destinations.folder import FolderDestination
from allpacs.deliver.stow_rs import StowRsDestination
from allpacs.demo.archive import Archive
from allpacs.domain.artefacts import Artefact, ArtefactKind
from allpacs.domain.findings import CellFinding, CellLabel, MatrixPlace, NotAssessable, StudyFindings
from allpacs.domain.geometry import BoxPx, PixelMatrix
from allpacs.domain.instance import InstanceIdentity
from allpacs.domain.review import CellReview, Decision, Review, Reviewer
from allpacs.report.context import ReportContext
from allpacs.report.listing import annotated_images
from allpacs.store.store import Store
from allpacs.study.results import results
from allpacs.study.signing import signed_results
from conformance.support.report_samples import CONTEXT, SERIES, STUDY, WHOLE_SLIDE, cell, header, instance, study
from support.deliver_samples import stow_server

SLIDE = f"{SERIES}.1"
MANY_CELLS = CONTEXT.annotations_above
CROWDED = replace(CONTEXT, annotations_above=10)
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


def crowded_study() -> tuple[StudyFindings, dict[str, Dataset]]:
    """Return a slide of 15 cells, a field of three and one of twelve."""
    fields = [
        instance(n, [cell(f"{SERIES}.{n}", k, label=CellLabel.HEM, probability_all=0.2) for k in range(1, cells + 1)])
        for n, cells in ((2, 3), (3, 12))
    ]
    slide, headers = slide_study(15)
    headers |= {f"{SERIES}.3": header(3)}
    return study([slide.instances[0], *fields]), headers


def test_every_crowded_image_has_annotations_and_the_others_stay_in_the_report() -> None:
    findings, headers = crowded_study()
    made = list(results(findings, headers, CROWDED))
    artefacts = [a for a in made if a.kind is ArtefactKind.ANNOTATIONS]
    assert [(a.name, a.number) for a in artefacts] == [("annotations", 1), ("annotations-2", 2)]
    annotations = [pydicom.dcmread(BytesIO(a.content)) for a in artefacts]
    assert [a.uid for a in artefacts] == [one.SOPInstanceUID for one in annotations]
    assert len({one.SOPInstanceUID for one in annotations}) == 2
    assert len({one.SeriesInstanceUID for one in annotations}) == 1
    assert [one.InstanceNumber for one in annotations] == [1, 2]
    shown = [one.ReferencedImageSequence[0].ReferencedSOPInstanceUID for one in annotations]
    assert shown == [f"{SERIES}.1", f"{SERIES}.3"]
    assert [one.PixelOriginInterpretation for one in annotations] == ["VOLUME", "FRAME"]
    assert [sum(g.NumberOfAnnotations for g in one.AnnotationGroupSequence) for one in annotations] == [15, 12]
    assert list(results(findings, headers, CROWDED)) == made, "the same findings give the same results"

    (report,) = [pydicom.dcmread(BytesIO(a.content)) for a in made if a.kind is ArtefactKind.SR]
    named = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "ANNOTATIONS"]
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in named] == [a.uid for a in artefacts]
    evidence = {
        one.ReferencedSOPInstanceUID
        for of_study in report.CurrentRequestedProcedureEvidenceSequence
        for series in of_study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert evidence == {*headers, *(a.uid for a in artefacts)}
    by_name = {
        i.ConceptNameCodeSequence[0].CodeValue: i.ContentSequence
        for i in report.ContentSequence
        if "ContentSequence" in i
    }
    assert len(by_name["126010"]) == 3, "the cells of the field that is not crowded"
    (found,) = [i for i in by_name["126011"] if i.ConceptNameCodeSequence[0].CodeValue == "CELLS"]
    assert found.MeasuredValueSequence[0].NumericValue == 15 + 3 + 12
    said = [i.TextValue for i in by_name["C0034375"] if "in the annotations" in i.get("TextValue", "")]
    assert said == [
        f"{SERIES}.1: its 15 cells are in the annotations, instance 1 of their series.",
        f"{SERIES}.3: its 12 cells are in the annotations, instance 2 of their series.",
    ]

    (bundle,) = [json.loads(a.content) for a in made if a.kind is ArtefactKind.FHIR]
    (panel,) = [one["resource"] for one in bundle["entry"] if "hasMember" in one["resource"]]
    assert (len(panel["hasMember"]), panel["component"][0]["valueQuantity"]["value"]) == (3, 30)


def signed_study() -> tuple[StudyFindings, dict[str, Dataset], Review]:
    """Return the crowded study, and a review that changes three cells of its slide."""
    findings, headers = crowded_study()
    slide, _, field = findings.instances
    hematogone, blurred, lymphoblast, other, *_ = slide.cells
    decided = (
        CellReview(hematogone.tracking_uid, Decision.RELABELLED, CellLabel.ALL, "Coarse chromatin."),
        CellReview(blurred.tracking_uid, Decision.RELABELLED, CellLabel.HEM),
        CellReview(lymphoblast.tracking_uid, Decision.EXCLUDED),
        CellReview(other.tracking_uid, Decision.ACCEPTED),
        *(CellReview(one.tracking_uid, Decision.ACCEPTED) for one in field.cells),
    )
    return findings, headers, Review(Reviewer("Haddad^Layla", "Hospital", "lh"), CONTEXT.made_at, decided)


@pytest.fixture(scope="module")
def signed() -> list[Artefact]:
    findings, headers, review = signed_study()
    return list(signed_results(findings, headers, CROWDED, review))


def test_the_signed_report_lists_the_annotated_cells_that_a_person_changed(signed: list[Artefact]) -> None:
    slide = signed_study()[0].instances[0]
    (report,) = [pydicom.dcmread(BytesIO(a.content)) for a in signed if a.kind is ArtefactKind.SR]
    by_name = {
        i.ConceptNameCodeSequence[0].CodeValue: i.ContentSequence
        for i in report.ContentSequence
        if "ContentSequence" in i
    }
    groups = [
        {one.ConceptNameCodeSequence[0].CodeValue: one for one in group.ContentSequence} for group in by_name["126010"]
    ]
    assert [group["112040"].UID for group in groups[:3]] == [cell.tracking_uid for cell in slide.cells[:3]]
    assert len(groups) == 3 + 3, "and the cells of the field that is not crowded"
    decided = [group["DECISION"].ConceptCodeSequence[0].CodeValue for group in groups if "DECISION" in group]
    assert decided == ["RELABELLED", "RELABELLED", "EXCLUDED"]
    before = [group["BEFORE_REVIEW"].ConceptCodeSequence[0].CodeValue for group in groups[:3]]
    assert before == ["HEM", "110531", "15433008"]
    assert groups[0]["121106"].TextValue == "Coarse chromatin."
    said = [i.TextValue for i in by_name["C0034375"] if "in the annotations" in i.get("TextValue", "")]
    changed = "3 of them, changed by the reviewer, in this report, too"
    assert said == [
        f"{SERIES}.1: its 15 cells are in the annotations, instance 1 of their series; {changed}.",
        f"{SERIES}.3: its 12 cells are in the annotations, instance 2 of their series.",
    ]


def test_the_ehr_gets_observations_of_the_annotated_cells_that_a_person_changed(signed: list[Artefact]) -> None:
    slide = signed_study()[0].instances[0]
    (bundle,) = [json.loads(a.content) for a in signed if a.kind is ArtefactKind.FHIR]
    (panel,) = [one["resource"] for one in bundle["entry"] if "hasMember" in one["resource"]]
    by_url = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    members = [by_url[one["reference"]] for one in panel["hasMember"]]
    uids = [one["identifier"][0]["value"].removeprefix("urn:oid:") for one in members]
    assert uids[:3] == [cell.tracking_uid for cell in slide.cells[:3]]
    assert [one["status"] for one in members] == ["final"] * 6
    assert members[0]["note"][0]["text"] == "Changed by the reviewer; by the algorithm: Hematogone."
    assert members[0]["note"][1]["text"] == "Coarse chromatin."
    assert "dataAbsentReason" in members[2]


def test_what_a_person_changed_is_annotated_apart_and_not_as_the_algorithm_s(signed: list[Artefact]) -> None:
    findings, headers, _ = signed_study()
    first, second = (
        highdicom.ann.annread(BytesIO(a.content)).get_annotation_groups()
        for a in signed
        if a.kind is ArtefactKind.ANNOTATIONS
    )
    assert [(g.label, g.algorithm_type.value, g.number_of_annotations) for g in first] == [
        ("Lymphoblast", "AUTOMATIC", 4),
        ("Hematogone", "AUTOMATIC", 4),
        ("Not assessable", "AUTOMATIC", 4),
        ("Lymphoblast, by review", "SEMIAUTOMATIC", 1),
        ("Hematogone, by review", "SEMIAUTOMATIC", 1),
        ("Not assessable, by review", "SEMIAUTOMATIC", 1),
    ]
    types = [group.annotated_property_type.value for group in first]
    assert types[:3] == types[3:]
    assert [len(group.get_measurements()[0]) for group in first] == [1, 1, 0, 0, 0, 0]
    cell = findings.instances[0].cells[0]
    assert cell.on_matrix is not None
    shown = first[3].get_coordinates(annotation_number=1, coordinate_type="2D")
    assert np.allclose(shown, cell.on_matrix.outline)
    assert [(g.label, g.algorithm_type.value) for g in second] == [("Hematogone", "AUTOMATIC")]

    unsigned = [
        group.uid
        for one in results(findings, headers, CROWDED)
        if one.kind is ArtefactKind.ANNOTATIONS
        for group in highdicom.ann.annread(BytesIO(one.content)).get_annotation_groups()
    ]
    uids = [group.uid for group in (*first, *second)]
    assert len({*uids, *unsigned}) == len(uids) + len(unsigned), "a changed group is another group"


def test_the_store_keeps_each_and_all_are_delivered(tmp_path: Path) -> None:
    findings, headers = crowded_study()
    made = list(results(findings, headers, CROWDED))
    with closing(Store.open(tmp_path / "store")) as store:
        keep_a_study(store)
        for _ in range(2):
            store.artefacts.put_all(STUDY, 1, made)
        kept = store.artefacts.get(STUDY, 1)
    assert sorted(kept, key=made.index) == made
    objects = {one.uid for one in made if one.is_dicom}
    assert len(objects) == 3

    with Archive(tmp_path / "pacs", "PACS") as archive:
        CStoreDestination(archive.host, archive.port, "PACS", "ALLPACS", timeout_s=30).deliver(kept)
        assert {one.sop_instance_uid for one in archive.instances} == objects
    with stow_server(tmp_path / "web") as base_url:
        StowRsDestination(base_url, timeout_s=30).deliver(kept)
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / "web").iterdir()} == objects
    FolderDestination(tmp_path / "folder").deliver(kept)
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {one.file_name for one in made}


def test_a_study_reported_anew_with_fewer_crowded_images_leaves_no_annotations_behind(tmp_path: Path) -> None:
    findings, headers = crowded_study()
    with closing(Store.open(tmp_path)) as store:
        keep_a_study(store)
        for above, numbers in ((10, [1, 2]), (12, [1]), (30, [])):
            made = list(results(findings, headers, replace(CONTEXT, annotations_above=above)))
            store.artefacts.put_all(STUDY, 1, made)
            kept = store.artefacts.get(STUDY, 1)
            assert sorted(kept, key=made.index) == made
            assert [one.number for one in kept if one.kind is ArtefactKind.ANNOTATIONS] == numbers


def keep_a_study(store: Store) -> None:
    """Have the store receive an instance of the study and close its first revision."""
    which = InstanceIdentity(f"{SERIES}.1", "1.2.4", "1.2.840.10008.1.2.1", STUDY, SERIES)
    store.receiving.keep_instance(
        which, b"meta", b"pixels", calling_ae="PACS", received_at=1.0, quiet_s=0.0, max_age_s=1.0
    )
    store.revisions.close_due(2.0)


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
    for name, probability in (("Lymphoblast", 0.9), ("Hematogone", 0.9)):
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
    assert panel["component"][0]["valueQuantity"]["value"] == MANY_CELLS + 101


def test_a_slide_of_few_cells_has_outlines_on_the_frame_and_in_millimetres_on_the_slide() -> None:
    made = {one.kind: one for one in results(*slide_study(3), CONTEXT)}
    report = pydicom.dcmread(BytesIO(made[ArtefactKind.SR].content))
    (measurements,) = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    group = measurements.ContentSequence[0]
    assert [i.ValueType for i in group.ContentSequence if i.ValueType.startswith("SCOORD")] == ["SCOORD3D", "SCOORD"]
    (place,) = [i for i in group.ContentSequence if i.ValueType == "SCOORD3D"]
    assert place.ReferencedFrameOfReferenceUID == MATRIX.frame_of_reference_uid
    found = slide_study(3)[0].cells[0].on_matrix
    assert found is not None
    assert np.allclose(list(place.GraphicData[:3]), MATRIX.on_slide_mm(found.outline[0]))
    assert place.GraphicData[:3] == place.GraphicData[-3:]


@pytest.mark.parametrize(
    ("sources", "context"),
    [(slide_study(3), CONTEXT), (slide_study(), CONTEXT), (crowded_study(), CROWDED)],
    ids=["few", "many", "many of several images"],
)
def test_dciodvfy_finds_no_error(
    sources: tuple[StudyFindings, dict[str, Dataset]], context: ReportContext, tmp_path: Path
) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    assert dciodvfy(program, results(*sources, context), tmp_path) == []


def test_dciodvfy_finds_no_error_in_what_is_signed(signed: list[Artefact], tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.exists():
        pytest.skip("dciodvfy is not installed")
    assert dciodvfy(program, signed, tmp_path) == []


def dciodvfy(program: Path, made: Iterable[Artefact], folder: Path) -> list[str]:
    """Return the errors that the program finds in the DICOM objects among some results."""
    errors = []
    for artefact in made:
        if artefact.media_type == "application/dicom":
            file = folder / artefact.file_name
            file.write_bytes(artefact.content)
            done = subprocess.run([program, "-new", str(file)], capture_output=True, text=True, errors="replace")
            told = (done.stdout + done.stderr).splitlines()
            assert told
            errors += [line for line in told if line.startswith("Error")]
    return errors
