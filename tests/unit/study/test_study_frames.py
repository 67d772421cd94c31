"""A study with an instance of many frames: what is found does not depend on how many are read at a time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from allpacs.decode import open_files
from allpacs.demo.synthetic import draw_cell, draw_field
from allpacs.domain.findings import InstanceFindings, RemarkKind
from allpacs.domain.image import Frame, ScaleOrigin, UnreadableFrame
from allpacs.store.store import Store
from allpacs.study.pipeline import Crops, ImageFile, Pipeline
from support.reading_steps import STUDY, read_study, reading_of, sr_text, stored_study

sys.path.append(str(Path(__file__).resolve().parents[1] / "decode"))

import numpy as np

import decode_samples as samples

MANY = "1.2.3.4.50"
SIZES = (1, 3, 1000)
BAD = b"\xff\xd8no\xff\xd9"
BLACK = np.zeros((240, 320, 3), np.uint8)


def _encoded(rgb: NDArray[np.uint8]) -> bytes:
    return samples.jpeg()(rgb)


#: Fields whose red cells are not quite of one size, a frame without a cell, a cell on black.
FRAMES = [_encoded(draw_field(seed, cells=2, size=(320, 240))) for seed in range(5)]
FRAMES[2:2] = [_encoded(BLACK), _encoded(np.pad(draw_cell(1, blast=True, size_px=240), ((0, 0), (40, 40), (0, 0))))]


def _many(path: Path, frames: list[bytes]) -> Path:
    ds = samples.header(240, 320, frames=len(frames), photometric="YBR_FULL_422")
    ds.SOPClassUID, ds.SOPInstanceUID = MultiFrameTrueColorSecondaryCaptureImageStorage, MANY
    path.write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, frames))
    return path


def _store(tmp_path: Path, frames: list[bytes], single: int = 2) -> Store:
    """Return a store whose study has an instance of these frames and some of one frame."""
    paths = [_many(tmp_path / "many.dcm", frames)]
    for number in range(single):
        ds = samples.header(240, 320, photometric="YBR_FULL_422")
        ds.SOPInstanceUID = f"1.2.3.4.{number * 50 + 20}"  # one before and one after the other
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(samples.encapsulated(ds, JPEGBaseline8Bit, [FRAMES[number]]))
    return stored_study(tmp_path, paths)


def _outcome(store: Store) -> tuple[list[InstanceFindings], dict[str, bytes]]:
    return store.findings.get(STUDY, 1), {str(one.kind): one.content for one in store.artefacts.get(STUDY, 1)}


def _by_sizes(store: Store, tmp_path: Path, max_cells: int = 10_000) -> InstanceFindings:
    """Read the study with chunks of every size, and return what is found of the instance of many frames."""
    outcomes = []
    for size in SIZES:
        read_study(reading_of(store, tmp_path, max_cells, key_images=2, chunk=size))
        outcomes.append(_outcome(store))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    (many,) = (one for one in outcomes[0][0] if one.sop_instance_uid == MANY)
    return many


def test_findings_and_reports_do_not_depend_on_the_size_of_chunks(tmp_path: Path) -> None:
    store = _store(tmp_path, FRAMES)
    many = _by_sizes(store, tmp_path)
    assert many.frames == 7
    assert {cell.frame_number for cell in many.cells} == {1, 2, 4, 5, 6, 7}
    assert many.scale is not None
    assert many.scale.origin is ScaleOrigin.RED_CELLS
    assert len(set(many.measured_um)) > 2
    assert many.remarks == ()
    assert [chunk.images[0].sop_instance_uid for chunk in reading_of(store, tmp_path, chunk=3)._chunks(STUDY, 1)] == [
        *[MANY] * 3,
        "1.2.3.4.20",
    ]
    store.close()


def test_a_sample_does_not_depend_on_the_size_of_chunks(tmp_path: Path) -> None:
    store = _store(tmp_path, FRAMES)
    many = _by_sizes(store, tmp_path, max_cells=4)
    assert many.found > len(many.cells)
    assert sr_text(store).count("Tracking Unique Identifier") == 4
    assert "No white cell was found" not in sr_text(store)
    store.close()


def test_frames_that_cannot_be_decoded_are_one_remark(tmp_path: Path) -> None:
    frames = list(FRAMES)
    frames[1] = frames[2] = frames[5] = BAD
    store = _store(tmp_path, frames)
    many = _by_sizes(store, tmp_path)
    assert many.fault is None
    assert {cell.frame_number for cell in many.cells} == {1, 4, 5, 7}
    (remark,) = many.remarks
    assert remark.kind is RemarkKind.UNREADABLE_FRAMES
    assert remark.text.startswith("3 of its frames could not be decoded and so not judged: 2, 3, 6. frame 2 ")
    assert sr_text(store).count("could not be decoded") == 1
    store.close()


def test_that_no_frame_can_be_decoded_is_a_fault_of_the_whole(tmp_path: Path) -> None:
    store = _store(tmp_path, [BAD] * 7, single=0)
    many = _by_sizes(store, tmp_path)
    assert "no frame can be decoded: frame 1 " in (many.fault or "")
    assert (many.cells, many.remarks, many.scale, many.frames) == ((), (), None, 7)
    store.close()


def test_that_there_are_no_cells_is_told_of_the_whole_once(tmp_path: Path) -> None:
    store = _store(tmp_path, [_encoded(BLACK)] * 7, single=0)
    many = _by_sizes(store, tmp_path)
    assert [remark.kind for remark in many.remarks] == [RemarkKind.NO_CELLS]
    store.close()


def test_more_frames_than_the_pixels_have_are_one_fault_and_one_chunk(tmp_path: Path) -> None:
    path = _many(tmp_path / "many.dcm", FRAMES)
    content = path.read_bytes()
    assert content.count(b"\x28\x00\x08\x00IS\x02\x007 ") == 1
    path.write_bytes(content.replace(b"\x28\x00\x08\x00IS\x02\x007 ", b"\x28\x00\x08\x00IS\x02\x0099"))
    store = stored_study(tmp_path, [path])
    assert read_study(reading_of(store, tmp_path, chunk=1)) == 1
    assert "99 frames were stated" in (store.findings.get(STUDY, 1)[0].fault or "")
    store.close()


class _Measured(Pipeline):
    """A pipeline that tells how many frames it is given at a time."""

    most = 0

    def find_among(self, image: ImageFile, frames: Iterable[Frame | UnreadableFrame]) -> tuple[InstanceFindings, Crops]:
        given = list(frames)
        _Measured.most = max(_Measured.most, len(given))
        return super().find_among(image, given)


def test_no_more_frames_than_a_chunk_are_looked_at_in_one_go(tmp_path: Path) -> None:
    store = _store(tmp_path, FRAMES)
    reading = reading_of(store, tmp_path, chunk=3, kind=_Measured)
    assert read_study(reading) == 4
    assert _Measured.most == 3
    assert all(len(chunk.frames or chunk.images) <= 3 for chunk in reading._chunks(STUDY, 1))
    store.close()


def test_a_reading_that_was_killed_between_parts_goes_on(tmp_path: Path) -> None:
    store = _store(tmp_path, FRAMES)
    read_study(reading_of(store, tmp_path, max_cells=6, chunk=2))
    wanted = _outcome(store)
    chunks = reading_of(store, tmp_path, max_cells=6, chunk=2).begin(STUDY, 1)
    for chunk in range(chunks):
        reading_of(store, tmp_path, max_cells=6, chunk=2).find_cells(STUDY, 1, chunk)
        again = reading_of(store, tmp_path, max_cells=6, chunk=2)  # another process, which has nothing in memory
        again.find_cells(STUDY, 1, chunk)
        if chunk == 1:
            shutil.rmtree(tmp_path / "work")
        again.classify(STUDY, 1, chunk)
    reading_of(store, tmp_path, max_cells=6, chunk=2).report(STUDY, 1)
    reading_of(store, tmp_path, max_cells=6, chunk=2).report(STUDY, 1)
    assert _outcome(store) == wanted
    store.close()


def test_a_file_is_opened_once_for_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = open_files.open_frames

    def counted(path: Path, **how: int):  # type: ignore[no-untyped-def]
        opened.append(path)
        return real(path, **how)

    monkeypatch.setattr(open_files, "open_frames", counted)
    paths = [_many(tmp_path / f"{name}.dcm", FRAMES) for name in "abc"]
    files = open_files.KeptOpen(2)

    def read(path: Path, first: int, last: int) -> list[int]:
        return [one.number for one in files.read(path, range(first, last + 1), max_pixels=1_000_000)]

    assert [read(paths[0], 1, 3), read(paths[0], 4, 6), read(paths[0], 7, 7)] == [[1, 2, 3], [4, 5, 6], [7]]
    assert opened == [paths[0]]
    assert not files._idle  # closed after its last frame
    for path in (*paths, paths[0]):  # the first is pushed out by the third
        read(path, 1, 2)
    assert opened == [paths[0], *paths, paths[0]]
    assert list(files._idle) == [paths[2], paths[0]]


def test_a_deflated_instance_is_read_in_parts_however_small_it_is(tmp_path: Path) -> None:
    ds = samples.header(240, 320, frames=5)
    pixels = np.stack([np.asarray(draw_field(seed, cells=2, size=(320, 240))) for seed in range(5)])
    (tmp_path / "a.dcm").write_bytes(samples.native(ds, DeflatedExplicitVRLittleEndian, pixels))
    store = stored_study(tmp_path, [tmp_path / "a.dcm"])
    assert read_study(reading_of(store, tmp_path, chunk=2)) == 3
    (found,) = store.findings.get(STUDY, 1)
    assert found.frames == 5
    assert {cell.frame_number for cell in found.cells} == {1, 2, 3, 4, 5}
    store.close()
