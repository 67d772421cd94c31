"""A study with a whole slide, through the steps of a reading and a real store."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from allpacs.commands.show import study_json
from allpacs.domain.artefacts import ArtefactKind
from allpacs.domain.review import Decision, Reviewer
from allpacs.store.records import RevisionState
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from allpacs.study import chunks as chunks_module
from allpacs.study import slides
from allpacs.study import steps as reading_module
from support.reading_steps import STUDY, read_study, reading_of, sr_text, stored_study
from support.slide_maker import SyntheticSlide, write_pyramid

SLIDE = SyntheticSlide((1, 2))


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pyramid(tmp_path_factory.mktemp("pyramid"), SLIDE)


@pytest.fixture
def store(tmp_path: Path, pyramid: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(slides, "REGION_PX", 640)
    monkeypatch.setattr(chunks_module, "_REGIONS_IN_A_CHUNK", 3)
    store = stored_study(tmp_path, pyramid)
    yield store
    store.close()


def test_from_pyramid_to_report(store: Store, tmp_path: Path) -> None:
    chunks = read_study(reading_of(store, tmp_path))
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
    text = sr_text(store)
    assert "Left out on purpose: it is a picture of the slide's label" in text
    assert "Level 1 of 3 was judged" in text


def test_progress_can_be_seen_while_it_is_read(store: Store, tmp_path: Path) -> None:
    reading = reading_of(store, tmp_path)
    reading.begin(STUDY, 1)
    for chunk in (0, 1):
        reading.find_cells(STUDY, 1, chunk)
        reading.classify(STUDY, 1, chunk)
    assert study_json(store, store.studies.latest()[0])["revisions"][0]["progress"] == "2 of 4 pieces"


def test_a_sample_of_the_cells_is_judged_and_said(store: Store, tmp_path: Path) -> None:
    read_study(reading_of(store, tmp_path, max_cells=20))
    reported = store.artefacts.get(STUDY, 1)
    text = sr_text(store)
    assert f"{len(SLIDE.cells())} white cells found, a random sample of 20 looked at" in text
    assert "drawn by the seed" in text
    (html,) = (one for one in reported if one.kind is ArtefactKind.HTML)
    assert f"<b>{len(SLIDE.cells())}</b> cells found, a random sample of 20 looked at" in html.content.decode()
    assert text.count("Tracking Unique Identifier") == 20

    first = {one.kind: one.content for one in reported}
    read_study(reading_of(store, tmp_path, max_cells=20))  # the same again
    assert {one.kind: one.content for one in store.artefacts.get(STUDY, 1)} == first


def test_a_step_run_twice_and_lost_work_files_change_nothing(store: Store, tmp_path: Path) -> None:
    read_study(reading_of(store, tmp_path, max_cells=40))
    wanted = {one.kind: one.content for one in store.artefacts.get(STUDY, 1)}
    reading = reading_of(store, tmp_path, max_cells=40)
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
    store = stored_study(tmp_path, paths)
    read_study(reading_of(store, tmp_path))
    assert sr_text(store).count("No white cell was found.") == 1
    store.close()


def test_bad_tiles_of_several_chunks_are_one_remark(
    pyramid: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for path in pyramid:
        content = bytearray(path.read_bytes())
        starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", content)]
        for start in starts[::7]:
            content[start + 2 : start + 60] = bytes(58)
        paths.append(tmp_path / path.name)
        paths[-1].write_bytes(content)
    monkeypatch.setattr(slides, "REGION_PX", 640)
    told = []
    for regions in (1, 1000):
        monkeypatch.setattr(chunks_module, "_REGIONS_IN_A_CHUNK", regions)
        store = stored_study(tmp_path / str(regions), paths)
        assert (read_study(reading_of(store, tmp_path / str(regions))) > 4) == (regions == 1)
        (level,) = (one for one in store.findings.get(STUDY, 1) if one.cells)
        assert len(level.unreadable) > 5
        told.append([remark.text for remark in level.remarks])
        store.close()
    assert told[0] == told[1]
    assert sum("of its frames could not be decoded" in text for text in told[0]) == 1
    assert f"{len(level.unreadable)} of its frames could not be decoded" in told[0][0]


def test_signing_does_not_search_the_slide_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Report and key images of a signed revision show what those of the reading did."""

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the slide is read again")

    reading = reading_of(store, tmp_path, max_cells=20, key_images=3)
    read_study(reading)
    reading.discard_work(STUDY, 1)
    monkeypatch.setattr(chunks_module, "survey", again)
    monkeypatch.setattr(reading_module, "search", again)
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
