"""Images that come after a person has signed: the EHR keeps what was signed until somebody signs again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import JPEGBaseline8Bit

from allpacs.demo.synthetic import draw_field
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.review import Reviewer
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from allpacs.study.steps import StudySteps
from support.reading_steps import STUDY, read_study, reading_of, receive, stored_study

sys.path.append(str(Path(__file__).resolve().parents[1] / "decode"))

import decode_samples as samples

FOR_THE_EHR = {ArtefactKind.FHIR, ArtefactKind.HL7V2}


def picture(folder: Path, number: int) -> Path:
    ds = samples.header(240, 320, photometric="YBR_FULL_422")
    ds.SOPInstanceUID = f"1.2.3.4.{number}"
    path = folder / f"{number}.dcm"
    field = draw_field(number, cells=2, size=(320, 240))
    path.write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, [samples.jpeg()(field)]))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = stored_study(tmp_path, [picture(tmp_path, 1)])
    yield store
    store.close()


def sign(store: Store, reading: StudySteps, revision: int) -> None:
    store.revisions.set_state(STUDY, revision, RevisionState.REPORTED)
    reviewer = Reviewer("Specialist^Sam", "Hospital", "sam")
    store.reviews.sign(STUDY, revision, seen_version=0, reviewer=reviewer, by="sam", now=20.0)
    reading.report(STUDY, revision + 1)


def late(store: Store, folder: Path, number: int, revision: int, *, at: float) -> None:
    store.revisions.set_state(STUDY, revision, RevisionState.DELIVERED)
    receive(store, picture(folder, number), at=at)
    assert store.revisions.close_due(at + 10.0) == [(STUDY, revision + 1)]


def kinds(store: Store, revision: int) -> set[ArtefactKind]:
    return {one.kind for one in store.artefacts.get(STUDY, revision)}


def status(store: Store, revision: int) -> str:
    (bundle,) = (one for one in store.artefacts.get(STUDY, revision) if one.kind is ArtefactKind.FHIR)
    resources = [entry["resource"] for entry in json.loads(bundle.content)["entry"]]
    (report,) = (one for one in resources if one["resourceType"] == "DiagnosticReport")
    return str(report["status"])


def test_the_ehr_keeps_the_signed_report_until_the_late_images_are_signed_too(store: Store, tmp_path: Path) -> None:
    reading = reading_of(store, tmp_path)
    read_study(reading)
    assert status(store, 1) == "preliminary"
    sign(store, reading, 1)
    assert status(store, 2) == "final"
    for revision, at in ((2, 100.0), (3, 200.0)):  # late, and later
        late(store, tmp_path, revision, revision, at=at)
        read_study(reading, revision + 1)
        assert kinds(store, revision + 1) & FOR_THE_EHR == set()
        assert {ArtefactKind.SR, ArtefactKind.HTML} <= kinds(store, revision + 1)
    sign(store, reading, 4)
    assert kinds(store, 5) >= FOR_THE_EHR
    assert status(store, 5) == "amended"


def test_late_images_of_a_study_that_nobody_has_signed_replace_the_report(store: Store, tmp_path: Path) -> None:
    reading = reading_of(store, tmp_path)
    read_study(reading)
    late(store, tmp_path, 2, 1, at=100.0)
    read_study(reading, 2)
    assert status(store, 2) == "preliminary"
