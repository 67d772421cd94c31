"""Which instances of a slide are read, and why the others are not."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from allpacs.domain.findings import RemarkKind
from allpacs.domain.geometry import PixelMatrix
from allpacs.domain.image import Scale, ScaleOrigin
from allpacs.domain.slide import SlideInstance, choose


def level(step: int, uid: str | None = None, **changes: object) -> SlideInstance:
    """Return an instance of a slide of 40,960 x 20,480 pixels of 0.25 µm, so many times coarser."""
    columns, rows = 40_960 // step, 20_480 // step
    made = SlideInstance(
        sop_instance_uid=uid or f"1.2.{step}",
        series_uid="1.1",
        flavour="VOLUME",
        resampled=step > 1,
        artificial=False,
        pyramid="1.3",
        matrix=PixelMatrix(columns, rows),
        scale=Scale(0.25 * step, ScaleOrigin.PIXEL_SPACING),
        tile_columns=256,
        tile_rows=256,
        frames=-(-columns // 256) * -(-rows // 256),
        sparse=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


LEVELS = [level(1), level(4), level(16)]
LABEL = level(32, "1.9", flavour="LABEL", pyramid="label")


@pytest.mark.parametrize(
    ("wanted_um", "step"), [(0.01, 1), (0.12, 1), (0.25, 1), (0.4, 1), (0.6, 4), (1.5, 4), (3.0, 16), (100.0, 16)]
)
def test_the_level_of_the_nearest_spacing_in_any_order(wanted_um: float, step: int) -> None:
    for order in permutations([*LEVELS, LABEL]):
        choice = choose(order, wanted_um)
        (slide,) = choice.slides
        assert slide.level.first.sop_instance_uid == f"1.2.{step}"
        assert sorted(choice.left_out) == sorted({"1.2.1", "1.2.4", "1.2.16", "1.9"} - {f"1.2.{step}"})
        assert all(remark.kind is RemarkKind.LEFT_OUT for remark in choice.left_out.values())


def test_without_a_spacing_it_is_the_largest() -> None:
    choice = choose([replace(one, scale=None) for one in LEVELS], 3.0)
    assert choice.slides[0].level.first.sop_instance_uid == "1.2.1"


def test_the_coarsest_other_level_is_the_map() -> None:
    slide = choose(LEVELS, 0.1).slides[0]
    assert slide.map is not None
    assert slide.map.first.sop_instance_uid == "1.2.16"
    assert choose(LEVELS[:1], 0.1).slides[0].map is None


@pytest.mark.parametrize("flavour", ["LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"])
def test_what_is_not_the_slide_is_left_out(flavour: str) -> None:
    choice = choose([level(1, flavour=flavour)], 0.1)
    assert choice.slides == ()
    assert "Left out on purpose" in choice.left_out["1.2.1"].text


def test_what_an_algorithm_made_is_left_out() -> None:
    choice = choose([*LEVELS, level(1, "1.8", artificial=True)], 0.1)
    assert choice.slides[0].level.first.sop_instance_uid == "1.2.1"
    assert "artificial intelligence" in choice.left_out["1.8"].text


def test_two_pyramids_are_two_slides() -> None:
    other = [replace(one, pyramid="2.3", sop_instance_uid=f"2{one.sop_instance_uid}") for one in LEVELS]
    assert len(choose([*LEVELS, *other], 0.1).slides) == 2


def test_the_same_level_at_other_focal_planes_is_left_out() -> None:
    choice = choose([level(1), level(1, "1.2.1.2"), level(1, "1.2.1.3")], 0.1)
    assert choice.slides[0].level.parts == (level(1),)
    assert all("focal plane" in remark.text for remark in choice.left_out.values())


def test_a_scanned_level_is_preferred_to_a_resampled_one() -> None:
    choice = choose([level(1, "1.1", resampled=True), level(1, "1.2")], 0.1)
    assert choice.slides[0].level.first.sop_instance_uid == "1.2"


def _parts(numbers: tuple[int, ...], total: int) -> list[SlideInstance]:
    return [
        level(1, f"1.4.{number}", concatenation="1.4", part=number, parts=total, frames=3200, first_frame=3200 * number)
        for number in numbers
    ]


def test_parts_of_a_concatenation_are_put_together() -> None:
    for order in permutations(_parts((1, 2, 3, 4), 4)):
        (slide,) = choose(order, 0.1).slides
        assert [part.part for part in slide.level.parts] == [1, 2, 3, 4]
        assert slide.remarks == ()


@pytest.mark.parametrize(("numbers", "total", "named"), [((1, 3), 4, "2, 4"), ((2, 3), 0, "1")])
def test_missing_parts_are_told(numbers: tuple[int, ...], total: int, named: str) -> None:
    (slide,) = choose(_parts(numbers, total), 0.1).slides
    (remark,) = slide.remarks
    assert remark.kind is RemarkKind.INCOMPLETE
    assert f"Parts {named} of" in remark.text


def test_missing_tiles_are_told() -> None:
    (slide,) = choose([level(1, frames=12_000)], 0.1).slides
    assert "12000 tiles were received where the matrix has 12800" in slide.remarks[0].text


def test_a_pyramid_without_its_scanned_level_says_so() -> None:
    (slide,) = choose(LEVELS[1:], 0.1).slides
    assert any("as it was scanned was not received" in remark.text for remark in slide.remarks)


def test_focal_planes_and_optical_paths_of_one_instance_are_told() -> None:
    (slide,) = choose([level(1, focal_planes=5, optical_paths=2, frames=128_000)], 0.1).slides
    assert [remark.kind for remark in slide.remarks] == [RemarkKind.SELECTED, RemarkKind.SELECTED]
    assert not any(remark.kind is RemarkKind.LEFT_OUT for remark in slide.remarks)
