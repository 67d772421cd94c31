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


def _without_pyramid(step: int, reference: str, uid: str | None = None, **changes: object) -> SlideInstance:
    return level(step, uid, pyramid="", frame_of_reference=reference, **changes)


def test_levels_with_a_frame_of_reference_each_are_one_slide() -> None:
    parts = [_without_pyramid(step, f"1.5.{step}") for step in (1, 4, 16)]
    # What a scanner leaves of 40,960 x 20,480 in steps of about 4, rounded.
    parts[2] = replace(parts[2], matrix=PixelMatrix(2559, 1281))
    for order in permutations(parts):
        (slide,) = choose(order, 0.1).slides
        assert slide.level.first.sop_instance_uid == "1.2.1"
        assert slide.map is not None
        assert slide.map.first.sop_instance_uid == "1.2.16"


@pytest.mark.parametrize(
    "change",
    [
        {"series_uid": "9.1"},
        {"container": "another glass"},
        {"matrix": PixelMatrix(10_240, 6_000)},  # another shape
        {"scale": Scale(0.5, ScaleOrigin.PIXEL_SPACING)},  # another area
        {"matrix": PixelMatrix(40_960, 20_480), "scale": Scale(0.25, ScaleOrigin.PIXEL_SPACING)},  # the same size
    ],
)
def test_other_frames_of_reference_are_other_slides(change: dict[str, object]) -> None:
    parts = [_without_pyramid(1, "1.5.1"), _without_pyramid(4, "1.5.4", **change)]
    for order in permutations(parts):
        assert len(choose(order, 0.1).slides) == 2


def test_parts_of_a_concatenation_are_one_level_whatever_their_frames_of_reference() -> None:
    parts = [replace(part, pyramid="", frame_of_reference=f"1.5.{part.part}") for part in _parts((1, 2, 3, 4), 4)]
    for order in permutations(parts):
        (slide,) = choose(order, 0.1).slides
        assert [part.part for part in slide.level.parts] == [1, 2, 3, 4]


def _plane(depth_mm: float, uid: str) -> SlideInstance:
    return level(1, uid, focal_planes=3, matrix=PixelMatrix(40_960, 20_480, origin_mm=(1.0, 2.0, depth_mm)))


def test_of_focal_planes_that_are_an_instance_each_the_middle_one_is_judged() -> None:
    planes = [_plane(0.002, "1.2.1"), _plane(0.0, "1.2.2"), _plane(0.001, "1.2.3")]
    for order in permutations(planes):
        choice = choose(order, 0.1)
        (slide,) = choice.slides
        assert slide.level.first.sop_instance_uid == "1.2.3"
        assert [remark.text for remark in slide.remarks] == ["Of 3 focal planes the middle one was judged."]
        assert sorted(choice.left_out) == ["1.2.1", "1.2.2"]


def test_the_one_focal_plane_that_came_is_judged_and_nothing_is_missing_of_it() -> None:
    (slide,) = choose([level(1, focal_planes=3)], 0.1).slides
    assert slide.level.planes_held == 1
    assert [remark.text for remark in slide.remarks] == ["Of 3 focal planes the one in this instance was judged."]


@pytest.mark.parametrize(
    ("planes", "paths", "frames", "held"),
    [(3, 1, 3, 3), (3, 1, 2, 2), (3, 2, 6, 3), (3, 2, 2, 1), (1, 2, 2, 1), (3, 1, 9, 3)],
)
def test_the_focal_planes_that_an_instance_holds(planes: int, paths: int, frames: int, held: int) -> None:
    tiles = level(1).frames
    one = level(1, focal_planes=planes, optical_paths=paths, frames=frames * tiles)
    assert choose([one], 0.1).slides[0].level.planes_held == held
