"""The main job over real processes and associations: a study in, one SR and one FHIR report out, saying the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from acceptance.reports import cells_of_ehr, cells_of_sr, in_percent, numbers_of_sr, panel_of_ehr, read, resources
from allpacs.app import open_store
from allpacs.demo.synthetic import draw_field
from allpacs.domain.identity import derive_uid
from allpacs.domain.specimen import PatientAndSpecimen
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.import_images import import_pictures
from conformance.support.network import wait_until
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

NAME = "Иванова^Анна"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHospital]:
    """Run the whole plugin, its model loaded once for all tests of this module."""
    with StubHospital(tmp_path_factory.mktemp("hospital"), quiet_s=0.6) as hospital, hospital.running("serve"):
        hospital.wait_for_echo()
        yield hospital


@pytest.fixture(scope="module")
def store(hospital: StubHospital) -> Iterator[Store]:
    store = open_store(hospital.settings)
    yield store
    store.close()


def _delivered(store: Store, study_uid: str, revision: int = 1) -> bool:
    row = store.studies.get(study_uid)
    return row is not None and row.revision == revision and row.state == RevisionState.DELIVERED


def _reports(hospital: StubHospital, study_uid: str) -> list[Path]:
    return [path for path in hospital.reports if path.parent.name == study_uid]


@pytest.mark.essential
def test_a_study_comes_back_as_sr_and_fhir_that_say_the_same(
    hospital: StubHospital, store: Store, tmp_path: Path
) -> None:
    files = drawn_study(tmp_path, range(6), patient_name=NAME)
    source = read(files[0])
    study_uid = source.StudyInstanceUID

    assert [one.status for one in hospital.send(tmp_path / "dicom")] == [0] * 6
    wait_until(lambda: _delivered(store, study_uid), 120, "delivered")

    (path,) = _reports(hospital, study_uid)
    report = read(path)
    assert report.StudyInstanceUID == study_uid
    assert report.AccessionNumber == source.AccessionNumber
    assert report.PatientName == source.PatientName == NAME
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert {one.ReferencedSOPInstanceUID for one in evidence} == {path.stem for path in files}

    in_sr, in_ehr = cells_of_sr(report), cells_of_ehr(hospital.folder / "ehr")
    assert len(in_sr) >= 6
    assert in_sr == in_ehr
    labels = [cell.label for cell in in_sr.values()]
    numbers, panel = numbers_of_sr(report), panel_of_ehr(hospital.folder / "ehr")
    for name, count in (
        ("Number of cells found", len(labels)),
        ("Number of lymphoblasts", labels.count("ALL")),
        ("Number of hematogones", labels.count("HEM")),
        ("Number of cells not assessable", labels.count(None)),
    ):
        assert numbers[name] == count
        assert panel[name]["valueQuantity"]["value"] == count
    if labels.count(None) < len(labels):
        name = "Lymphoblasts as fraction of assessable cells"
        assert in_percent(numbers[name]) == panel[name]["valueQuantity"]["value"]

    (one,) = resources(hospital.folder / "ehr", "DiagnosticReport")
    assert one["status"] == "preliminary"
    (document,) = resources(hospital.folder / "ehr", "DocumentReference")
    assert document["masterIdentifier"]["value"] == f"urn:oid:{report.SOPInstanceUID}"


@pytest.mark.essential
def test_a_late_instance_supersedes_the_report(hospital: StubHospital, store: Store, tmp_path: Path) -> None:
    study_uid = generate_uid()
    drawn_study(tmp_path / "first", range(10, 12), study_uid=study_uid)
    hospital.send(tmp_path / "first")
    wait_until(lambda: _delivered(store, study_uid), 60, "first revision delivered")
    reports_before = len(resources(hospital.folder / "ehr", "DiagnosticReport"))

    drawn_study(tmp_path / "late", range(20, 21), study_uid=study_uid)
    hospital.send(tmp_path / "late")
    wait_until(lambda: _delivered(store, study_uid, 2), 60, "second revision delivered")

    first, second = sorted((read(path) for path in _reports(hospital, study_uid)), key=lambda one: one.InstanceNumber)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    (predecessor,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert predecessor.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert len(cells_of_sr(second)) == len(cells_of_sr(first)) + 1
    # A cell keeps its tracking UID, and the EHR the one report it has.
    assert cells_of_sr(first).keys() < cells_of_sr(second).keys()
    assert len(resources(hospital.folder / "ehr", "DiagnosticReport")) == reports_before


@pytest.mark.essential
def test_a_field_gives_every_cell_its_outline(hospital: StubHospital, store: Store, tmp_path: Path) -> None:
    picture = tmp_path / "field.png"
    Image.fromarray(draw_field(seed=3, cells=5)).save(picture)
    made_at = datetime.now(UTC)
    (file,) = import_pictures(
        [picture], tmp_path / "dicom", patient=PatientAndSpecimen(), made_at=made_at, synthetic=True
    )
    source = read(file)
    hospital.send(tmp_path / "dicom")
    wait_until(lambda: _delivered(store, source.StudyInstanceUID), 60, "delivered")
    (path,) = _reports(hospital, source.StudyInstanceUID)
    report = read(path)
    assert len(cells_of_sr(report)) >= 4
    # Patient ID is unknown and stays so; nothing is made up.
    assert report.PatientID in ("", None)


@pytest.mark.essential
def test_an_undecodable_instance_is_a_finding_and_the_rest_is_read(
    hospital: StubHospital, store: Store, tmp_path: Path
) -> None:
    files = drawn_study(tmp_path, range(30, 33))
    broken = dcmread(files[0])
    broken.PixelData = broken.PixelData[: len(broken.PixelData) // 2]
    broken.save_as(files[0])
    assert [one.status for one in hospital.send(tmp_path / "dicom")] == [0] * 3
    wait_until(lambda: _delivered(store, broken.StudyInstanceUID), 60, "delivered")
    (path,) = _reports(hospital, broken.StudyInstanceUID)
    assert len(cells_of_sr(read(path))) == 2
    findings = store.findings.get(broken.StudyInstanceUID, 1)
    (unreadable,) = [one for one in findings if one.fault]
    assert unreadable.sop_instance_uid == broken.SOPInstanceUID
    assert broken.SOPInstanceUID in path.read_bytes().decode("latin-1")


@pytest.mark.essential
def test_a_study_without_any_readable_instance_is_reported_too(
    hospital: StubHospital, store: Store, tmp_path: Path
) -> None:
    (file,) = drawn_study(tmp_path, range(40, 41))
    black = dcmread(file)
    black.PixelData = np.zeros((black.Rows, black.Columns, 3), np.uint8).tobytes()
    black.save_as(file)
    hospital.send(tmp_path / "dicom")
    wait_until(lambda: _delivered(store, black.StudyInstanceUID), 60, "delivered")
    (path,) = _reports(hospital, black.StudyInstanceUID)
    assert cells_of_sr(read(path)) == {}


def test_a_worker_killed_in_the_midst_of_a_study_is_started_again_and_delivers_once(
    hospital: StubHospital, store: Store, tmp_path: Path
) -> None:
    files = drawn_study(tmp_path, range(50, 90))
    study_uid = read(files[0]).StudyInstanceUID
    hospital.send(tmp_path / "dicom")
    wait_until(lambda: store.studies.get(study_uid).state == RevisionState.READING, 60, "reading")
    killed = hospital.pid_of("work")
    os.kill(killed, signal.SIGKILL)
    hospital.wait_for_echo(5)  # the receiver does not notice
    wait_until(lambda: _delivered(store, study_uid), 120, "delivered")
    assert hospital.pid_of("work") != killed
    (report,) = _reports(hospital, study_uid)
    assert len(cells_of_sr(read(report))) == 40
    identifier = derive_uid("diagnostic-report", study_uid)
    reports = resources(hospital.folder / "ehr", "DiagnosticReport")
    assert sum(identifier in json.dumps(one["identifier"]) for one in reports) == 1


@pytest.mark.essential
def test_no_patient_data_in_logs_or_workflow_state(hospital: StubHospital, store: Store) -> None:
    """Run after the others: their patients' names and ids must be nowhere but in spool, artefacts and results."""
    folder = hospital.settings.store.folder
    (folder / "index.sqlite").resolve(strict=True)
    looked_at = [hospital.folder / "serve.log", *folder.glob("*.sqlite*")]
    assert len(looked_at) >= 3
    for path in looked_at:
        content = path.read_bytes()
        for secret in ("TEST-1", "Synthetic^Test", NAME, "Иванова"):
            assert secret.encode() not in content, path
            assert json.dumps(secret).strip('"').encode() not in content, path
