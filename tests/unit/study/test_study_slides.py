"""Whole slides through the stages: every cell once, wherever tiles and regions are cut; what is left out says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from allpacs.classify.bundle import load_bundle
from allpacs.decode.part10 import read_header
from allpacs.domain.findings import CellFinding, InstanceFindings, RemarkKind
from allpacs.domain.parts import complete
from allpacs.settings import SHIPPED_BUNDLE
from allpacs.study import slides
from allpacs.study.pipeline import ImageFile, Pipeline
from allpacs.study.slides import search, survey
from support.slide_maker import SPACING_UM, SyntheticSlide, write_level, write_pyramid

SLIDE = SyntheticSlide((1, 2))
HALF = SyntheticSlide((1, 2), filled=lambda _, column: column == 0)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(load_bundle(SHIPPED_BUNDLE))


def images(paths: Sequence[Path]) -> list[ImageFile]:
    made = []
    for path in paths:
        header = read_header(path)
        made.append(ImageFile(path, str(header.SOPInstanceUID), str(header.SOPClassUID), str(header.SeriesInstanceUID)))
    return made


def read(pipeline: Pipeline, paths: Sequence[Path]) -> tuple[list[InstanceFindings], list[InstanceFindings]]:
    """Return the findings of the slide's level, and those of all that is left out."""
    found = survey(pipeline, images(paths))
    (plan,) = found.slides
    return search(pipeline, plan, plan.regions, with_remarks=True)[0], list(found.others)


def assert_each_once(slide: SyntheticSlide, cells: Sequence[CellFinding]) -> None:
    wanted = np.array(slide.cells())
    boxes = [cell.on_matrix.box for cell in cells if cell.on_matrix is not None]
    found = np.array([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])
    apart = np.hypot(*(wanted[:, None] - found[None]).transpose(2, 0, 1))
    assert (apart.min(axis=1) < 12).all()  # all are found
    assert ((apart < 12).sum(axis=1) == 1).all()  # once
    assert len(found) == len(wanted)  # and nothing else


def test_every_cell_once_on_tiles_and_across_regions(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "REGION_PX", 500)  # borders of regions run through many cells
    paths = write_pyramid(tmp_path, SLIDE)
    (found,), others = read(pipeline, paths)
    assert_each_once(SLIDE, found.cells)
    numbers = {(cell.frame_number, cell.cell_number) for cell in found.cells}
    assert len(numbers) == len(found.cells)
    for cell in found.cells:
        assert cell.on_matrix is not None
        tile_x, tile_y = (cell.frame_number - 1) % 10 * 256, (cell.frame_number - 1) // 10 * 256
        on_tile, on_matrix = cell.box, cell.on_matrix.box
        assert 0 <= on_tile.x < on_tile.right <= 256
        assert 0 <= on_tile.y < on_tile.bottom <= 256
        assert tile_x + on_tile.x == max(on_matrix.x, tile_x)
        assert tile_y + on_tile.bottom == min(on_matrix.bottom, tile_y + 256)
        assert all(0 <= x <= 256 and 0 <= y <= 256 for x, y in cell.outline)
    across = [cell for cell in found.cells if cell.on_matrix and cell.on_matrix.box.width > cell.box.width]
    assert len(across) > 5  # the test is about cells that lie on two tiles
    assert {one.left_out for one in others} == {True}
    assert len(others) == 4
    assert found.scale is not None
    assert found.scale.spacing_um == pytest.approx(SPACING_UM)
    assert found.matrix is not None


def test_the_map_saves_looking_at_glass(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "REGION_PX", 640)
    with_map = survey(pipeline, images(write_pyramid(tmp_path, HALF))).slides[0]
    without = survey(pipeline, images([tmp_path / "level-1.dcm"])).slides[0]
    assert len(with_map.regions) < len(without.regions) == 8
    for plan in (with_map, without):
        (found,), _ = search(pipeline, plan, plan.regions, with_remarks=True)
        assert_each_once(HALF, found.cells)


def test_a_sparse_slide_in_a_concatenation(pipeline: Pipeline, tmp_path: Path) -> None:
    parts = [list(range(25)), list(range(25, 50))]
    for number, tiles in enumerate(parts, start=1):
        write_level(
            tmp_path / f"{number}", SLIDE, tiles=tiles, sparse=True, ConcatenationUID="1.2.9",
            InConcatenationNumber=number, InConcatenationTotalNumber=2, ConcatenationFrameOffsetNumber=tiles[0],
        )  # fmt: skip
    found, others = read(pipeline, [tmp_path / "2", tmp_path / "1"])
    assert others == []
    assert len(found) == 2
    assert all(one.cells for one in found)
    assert all(cell.sop_instance_uid == one.sop_instance_uid for one in found for cell in one.cells)
    assert_each_once(SLIDE, [cell for one in found for cell in one.cells])


def test_without_a_spacing_red_cells_tell_it(pipeline: Pipeline, tmp_path: Path) -> None:
    write_level(tmp_path / "a", SyntheticSlide((1, 1)), spacing_um=None)
    (found,), _ = read(pipeline, [tmp_path / "a"])
    assert found.scale is not None
    assert found.scale.origin == "red-cells"
    assert found.scale.spacing_um == pytest.approx(SPACING_UM, rel=0.2)
    assert len(found.cells) > 40


@pytest.mark.parametrize("spacing_um", [1e-6, 400.0])
def test_an_absurd_spacing_is_no_catastrophe(pipeline: Pipeline, tmp_path: Path, spacing_um: float) -> None:
    write_level(tmp_path / "a", SyntheticSlide((1, 1)), spacing_um=spacing_um)
    (found,), _ = read(pipeline, [tmp_path / "a"])
    assert found.fault is None


def test_an_empty_slide_has_no_cells_and_no_fault(pipeline: Pipeline, tmp_path: Path) -> None:
    write_level(tmp_path / "a", SyntheticSlide((1, 1), filled=lambda _row, _column: False))
    (found,), _ = read(pipeline, [tmp_path / "a"])
    assert (found.cells, found.fault) == ((), None)


def test_bad_tiles_are_remarked_and_the_rest_is_judged(pipeline: Pipeline, tmp_path: Path) -> None:
    write_level(tmp_path / "a", SLIDE)
    content = bytearray((tmp_path / "a").read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start + 2 : start + 60] = bytes(58)
    (tmp_path / "a").write_bytes(content)
    (found,), _ = read(pipeline, [tmp_path / "a"])
    assert found.fault is None
    assert len(found.cells) > 80
    assert [remark.kind for remark in complete(found).remarks] == [RemarkKind.UNREADABLE_FRAMES]


def test_what_cannot_be_read_is_a_finding(pipeline: Pipeline, tmp_path: Path) -> None:
    write_level(tmp_path / "good", SyntheticSlide((1, 1)), uid="1.2.1")
    write_level(tmp_path / "bad", SyntheticSlide((1, 1)), uid="1.2.2", pyramid="9.9")
    taken = images([tmp_path / "good", tmp_path / "bad"])
    content = (tmp_path / "bad").read_bytes()
    (tmp_path / "bad").write_bytes(content[: len(content) // 2])
    found = survey(pipeline, taken)
    assert len(found.slides) == 1
    (other,) = found.others
    assert other.sop_instance_uid == "1.2.2"
    assert other.fault
