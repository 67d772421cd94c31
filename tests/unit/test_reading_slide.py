"""A study with a whole slide, through the steps of a reading and a real store."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from allpacs import reading as reading_module
from allpacs import slides
from allpacs.classify.bundle import load_bundle
from allpacs.commands.show import study_json
from allpacs.decode.part10 import read_header
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.instance import InstanceIdentity
from allpacs.domain.review import Decision, Reviewer
from allpacs.pipeline import Pipeline
from allpacs.reading import Reading, ReadingOptions
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.store.records import RevisionState
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from slide_maker import SyntheticSlide, write_pyramid

SLIDE = SyntheticSlide((1, 2))
STUDY = "1.2.826.1"


def _ask(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Say something of a cell that depends on the cell alone."""
    score = crops.reshape(len(crops), -1).mean(axis=1) - 20.0
    return np.stack([score, -score], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pyramid(tmp_path_factory.mktemp("pyramid"), SLIDE)


@pytest.fixture
def store(tmp_path: Path, pyramid: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(slides, "REGION_PX", 640)
    monkeypatch.setattr(reading_module, "_REGIONS_IN_A_CHUNK", 3)
    store = _stored(tmp_path, pyramid)
    yield store
    store.close()


def _stored(folder: Path, paths: list[Path]) -> Store:
    """Return a store whose one study, of these files, is complete."""
    store = Store.open(folder / "store")
    for path in paths:
        header = read_header(path)
        content = path.read_bytes()
        identity = InstanceIdentity(
            sop_class_uid=str(header.SOPClassUID),
            sop_instance_uid=str(header.SOPInstanceUID),
            transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
            study_uid=STUDY,
            series_uid=str(header.SeriesInstanceUID),
        )
        meta = 144 + int.from_bytes(content[140:144], "little")
        with memoryview(content)[meta:] as data_set:
            store.receiving.keep_instance(
                identity, content[:meta], data_set, calling_ae="SCANNER", received_at=1.0, quiet_s=0.0, max_age_s=1.0
            )
    assert store.revisions.close_due(10.0) == [(STUDY, 1)]
    return store


def _sr(store: Store) -> str:
    (sr,) = (one for one in store.artefacts.get(STUDY, 1) if one.kind is ArtefactKind.SR)
    return sr.content.decode("latin-1")


def _reading(store: Store, tmp_path: Path, max_cells: int = 10_000, key_images: int = 0) -> Reading:
    return Reading(
        store=store,
        pipeline=Pipeline(load_bundle(SHIPPED_BUNDLE), max_cells=max_cells),
        ask=_ask,
        work_folder=tmp_path / "work",
        options=ReadingOptions(chunk_instances=2, cells_by={}, host_name="here", key_images=key_images),
    )


def _read(reading: Reading) -> int:
    chunks = reading.begin(STUDY, 1)
    for chunk in range(chunks):
        reading.find_cells(STUDY, 1, chunk)
        reading.classify(STUDY, 1, chunk)
    reading.report(STUDY, 1)
    return chunks


def test_from_pyramid_to_report(store: Store, tmp_path: Path) -> None:
    chunks = _read(_reading(store, tmp_path))
    assert chunks == 4  # what is left out, and eight regions by threes
    found = store.findings.get(STUDY, 1)
    assert len(found) == 5
    assert sorted(len(one.cells) for one in found) == [0, 0, 0, 0, len(SLIDE.cells())]
    assert sum(one.left_out for one in found) == 4
    (level,) = (one for one in found if one.cells)
    assert all(cell.label is not None or cell.reason is not None for cell in level.cells)
    details = study_json(store, store.studies.latest()[0])["revisions"][0]
    assert details["progress"] == "4 of 4 pieces"
    assert len(details["left_out"]) == 4
    text = _sr(store)
    assert "Left out on purpose: it is a picture of the slide's label" in text
    assert "Level 1 of 3 was judged" in text


def test_progress_can_be_seen_while_it_is_read(store: Store, tmp_path: Path) -> None:
    reading = _reading(store, tmp_path)
    reading.begin(STUDY, 1)
    for chunk in (0, 1):
        reading.find_cells(STUDY, 1, chunk)
        reading.classify(STUDY, 1, chunk)
    assert study_json(store, store.studies.latest()[0])["revisions"][0]["progress"] == "2 of 4 pieces"


def test_a_sample_of_the_cells_is_judged_and_said(store: Store, tmp_path: Path) -> None:
    _read(_reading(store, tmp_path, max_cells=20))
    reported = store.artefacts.get(STUDY, 1)
    text = _sr(store)
    assert f"{len(SLIDE.cells())} white cells found, a random sample of 20 looked at" in text
    assert "drawn by the seed" in text
    (html,) = (one for one in reported if one.kind is ArtefactKind.HTML)
    assert f"<b>{len(SLIDE.cells())}</b> cells found, a random sample of 20 looked at" in html.content.decode()
    assert text.count("Tracking Unique Identifier") == 20

    first = {one.kind: one.content for one in reported}
    _read(_reading(store, tmp_path, max_cells=20))  # the same again
    assert {one.kind: one.content for one in store.artefacts.get(STUDY, 1)} == first


def test_a_step_run_twice_and_lost_work_files_change_nothing(store: Store, tmp_path: Path) -> None:
    _read(_reading(store, tmp_path, max_cells=40))
    wanted = {one.kind: one.content for one in store.artefacts.get(STUDY, 1)}
    reading = _reading(store, tmp_path, max_cells=40)
    for chunk in range(reading.begin(STUDY, 1)):
        reading.find_cells(STUDY, 1, chunk)
        if chunk == 1:
            reading.find_cells(STUDY, 1, chunk)
            shutil.rmtree(tmp_path / "work")
            reading.classify(STUDY, 1, chunk)
        reading.classify(STUDY, 1, chunk)
    reading.report(STUDY, 1)
    assert {one.kind: one.content for one in store.artefacts.get(STUDY, 1)} == wanted


def test_an_empty_slide_is_told(tmp_path: Path) -> None:
    paths = write_pyramid(tmp_path / "glass", SyntheticSlide((1, 1), filled=lambda _row, _column: False), steps=(1, 4))
    store = _stored(tmp_path, paths)
    _read(_reading(store, tmp_path))
    assert _sr(store).count("No white cell was found.") == 1
    store.close()


def test_signing_does_not_search_the_slide_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Report and key images of a signed revision show what those of the reading did."""

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the slide is read again")

    reading = _reading(store, tmp_path, max_cells=20, key_images=3)
    _read(reading)
    reading.discard_work(STUDY, 1)
    for part in ("survey", "search"):
        monkeypatch.setattr(reading_module, part, again)
    (cell, *_) = (cell for one in store.findings.get(STUDY, 1) for cell in one.cells)
    for revision in (1, 2):  # a signed one can be signed again
        store.revisions.set_state(STUDY, revision, RevisionState.REPORTED)
        version = store.reviews.decide(
            STUDY, revision, [NewDecision(cell.tracking_uid, Decision.ACCEPTED, None, revision - 1)], by="sam", now=20.0
        )[0].version
        store.reviews.sign(
            STUDY,
            revision,
            seen_version=version,
            reviewer=Reviewer("Specialist^Sam", "Hospital", "sam"),
            by="sam",
            now=20.0,
        )
        reading.report(STUDY, revision + 1)
        assert _thumbnails(store, revision + 1) == _thumbnails(store, 1)
        assert len(_thumbnails(store, 1)) == 20
        kinds = {one.kind for one in store.artefacts.get(STUDY, revision + 1)}
        assert {ArtefactKind.KEY_IMAGES, ArtefactKind.SR} <= kinds


def _thumbnails(store: Store, revision: int) -> list[str]:
    (html,) = (one for one in store.artefacts.get(STUDY, revision) if one.kind is ArtefactKind.HTML)
    return sorted(re.findall(r"data:image/jpeg;base64,[^\"]+", html.content.decode()))
