"""The instances of a whole slide, and which of them are read.

A slide comes as a pyramid: the same matrix of pixels at several resolutions, each level an instance or, where it is
large, a concatenation of several. Beside it come pictures of the label and of the whole glass. Cells are sought on one
level only, at one focal plane and in one optical path; everything else is left out and says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from allpacs.domain.findings import Remark, RemarkKind
from allpacs.domain.geometry import PixelMatrix
from allpacs.domain.image import Scale

#: Third value of Image Type of what is no part of the pyramid (PS3.3 C.8.12.4.1.1), in words.
_NOT_THE_SLIDE = {
    "LABEL": "a picture of the slide's label",
    "OVERVIEW": "an overview of the whole glass",
    "THUMBNAIL": "a thumbnail",
    "LOCALIZER": "a localizer",
}


#: By this share the stated spacings and the sizes of two levels of one pyramid may disagree.
_ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class SlideInstance:
    """What counts of one VL Whole Slide Microscopy instance, before its pixels are looked at.

    Attributes
    ----------
    flavour:
        Third value of Image Type: ``VOLUME``, ``LABEL``, ``OVERVIEW``, ``THUMBNAIL`` …
    resampled:
        Whether its pixels were made from those of another level.
    artificial:
        Whether an algorithm of artificial intelligence made it.
    pyramid:
        Pyramid UID: what levels of one pyramid have in common; empty where none is stated.
    concatenation, part, parts:
        Concatenation UID, In-Concatenation Number and Total Number; empty, 1 and 1 where it is not split.
        The total may be 0: not stated.
    first_frame:
        Frames of the concatenation before this part's.
    focal_planes, optical_paths:
        How many the total pixel matrix has; an instance may hold fewer planes (see `Level.planes_held`).
    frame_of_reference:
        Frame of Reference UID, or empty.
    container:
        Container Identifier of the glass, or empty.
    sparse:
        Each frame says where it lies; otherwise all tiles are there, in order.
    """

    sop_instance_uid: str
    series_uid: str
    flavour: str
    resampled: bool
    artificial: bool
    pyramid: str
    matrix: PixelMatrix
    scale: Scale | None
    tile_columns: int
    tile_rows: int
    frames: int
    sparse: bool
    concatenation: str = ""
    part: int = 1
    parts: int = 1
    first_frame: int = 0
    focal_planes: int = 1
    optical_paths: int = 1
    frame_of_reference: str = ""
    container: str = ""

    @property
    def depth_mm(self) -> float | None:
        """Depth of the matrix on the slide, or None where it is not stated."""
        return None if self.matrix.origin_mm is None else self.matrix.origin_mm[2]

    @property
    def across(self) -> int:
        """Tiles in a row of the matrix."""
        return -(-self.matrix.columns // self.tile_columns)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.matrix.rows // self.tile_rows)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid, at one or several focal planes: an instance, or the parts of a concatenation in order."""

    parts: tuple[SlideInstance, ...]

    @property
    def first(self) -> SlideInstance:
        """The part that speaks for all: what is alike in them is asked of it."""
        return self.parts[0]

    @property
    def spacing_um(self) -> float | None:
        """Distance of pixels, or None where it is not known."""
        return None if self.first.scale is None else self.first.scale.spacing_um

    @property
    def pixels(self) -> int:
        """Pixels of the matrix."""
        return self.first.matrix.columns * self.first.matrix.rows

    @property
    def planes_held(self) -> int:
        """Focal planes of one optical path that a level with all its tiles in order holds.

        Total Pixel Matrix Focal Planes counts those of the matrix: a scanner may write an instance for each of them.
        The frames tell how many are here.
        """
        first = self.first
        begins, held = 0, 0
        for part in self.parts:
            begins = (part.first_frame or begins) + part.frames
            held = max(held, begins)
        planes = held // (first.across * first.down) // first.optical_paths
        return max(1, min(first.focal_planes, planes))

    def remarks(self) -> list[Remark]:
        """Return what is missing of it."""
        found = {part.part for part in self.parts}
        stated = max((part.parts for part in self.parts), default=1)
        missing = sorted(set(range(1, max(stated, *found) + 1)) - found)
        frames = sum(part.frames for part in self.parts)
        first = self.first
        expected = 0 if first.sparse else first.across * first.down * self.planes_held * first.optical_paths
        if missing:
            names = ", ".join(map(str, missing))
            text = f"Parts {names} of a concatenation of {max(stated, *found)} were not received; the rest was judged."
            return [Remark(RemarkKind.INCOMPLETE, text)]
        if frames < expected:
            text = f"{frames} tiles were received where the matrix has {expected}; the rest was judged."
            return [Remark(RemarkKind.INCOMPLETE, text)]
        return []


@dataclass(frozen=True, slots=True)
class Slide:
    """What is read of one pyramid.

    Attributes
    ----------
    level:
        Where cells are sought.
    map:
        The coarsest level that may show where there is anything to seek in; None where there is no other.
    remarks:
        On the choice, for the instances of the level.
    """

    level: Level
    map: Level | None
    remarks: tuple[Remark, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which slides are read, and why the other instances are not: SOP Instance UID to remark."""

    slides: tuple[Slide, ...]
    left_out: dict[str, Remark]


def choose(instances: Sequence[SlideInstance], wanted_um: float) -> Choice:
    """Return what is read of the whole slide instances of a study.

    Of each pyramid it is the level whose pixels are nearest to `wanted_um` apart, as a ratio; of levels of one size the
    one that was not resampled. Where no distance is known it is the largest. The order of the instances makes no
    difference.
    """
    left_out: dict[str, Remark] = {}
    members: list[SlideInstance] = []
    for one in sorted(instances, key=lambda one: one.sop_instance_uid):
        if one.artificial:
            left_out[one.sop_instance_uid] = _left_out("it was made by artificial intelligence")
        elif one.flavour in _NOT_THE_SLIDE:
            left_out[one.sop_instance_uid] = _left_out(f"it is {_NOT_THE_SLIDE[one.flavour]}")
        else:
            members.append(one)
    slides = []
    for pyramid in _pyramids(members):
        slide = _slide(_levels(pyramid), wanted_um)
        read = {part.sop_instance_uid for part in slide.level.parts}
        for one in pyramid:
            if one.sop_instance_uid not in read:
                left_out[one.sop_instance_uid] = _left_out(_other(one, slide.level))
        slides.append(slide)
    return Choice(tuple(slides), left_out)


def _pyramids(members: Sequence[SlideInstance]) -> list[list[SlideInstance]]:
    """Return the instances of each pyramid.

    Pyramid UID tells them apart. Where there is none it is the frame of reference, within a series and a glass, but
    some converters give each level a frame of reference of its own: those whose matrices are the same area at other
    sizes are one pyramid.
    """
    stated: dict[str, list[SlideInstance]] = defaultdict(list)
    unstated: dict[tuple[str, str], dict[str, list[SlideInstance]]] = defaultdict(lambda: defaultdict(list))
    of_concatenation: dict[str, str] = {}
    for one in members:
        reference = one.frame_of_reference
        if one.concatenation:
            reference = of_concatenation.setdefault(one.concatenation, reference)
        if one.pyramid:
            stated[one.pyramid].append(one)
        else:
            unstated[one.series_uid, one.container][reference].append(one)
    pyramids = list(stated.values())
    for by_frame_of_reference in unstated.values():
        merged: list[list[SlideInstance]] = []
        for group in sorted(by_frame_of_reference.values(), key=lambda group: -max(map(_pixels, group))):
            same = (pyramid for pyramid in merged if all(_other_size(one, two) for one in pyramid for two in group))
            into = next(same, None)
            if into is None:
                merged.append(group)
            else:
                into += group
        pyramids += merged
    return pyramids


def _pixels(one: SlideInstance) -> int:
    return one.matrix.columns * one.matrix.rows


def _other_size(one: SlideInstance, other: SlideInstance) -> bool:
    """Return whether two matrices are the same area, by its shape and its size in millimetres, at two sizes."""
    large, small = (one, other) if _pixels(one) > _pixels(other) else (other, one)
    if _pixels(large) == _pixels(small):
        return False
    steps = []
    for across, down in ((large.matrix.columns, small.matrix.columns), (large.matrix.rows, small.matrix.rows)):
        # A level is rounded to whole pixels, up or down.
        steps.append((across / (down + 1) * (1 - _ROUNDING), across / max(1, down - 1) * (1 + _ROUNDING)))
    least, most = max(step[0] for step in steps), min(step[1] for step in steps)
    if large.scale is not None and small.scale is not None:
        step = small.scale.spacing_um / large.scale.spacing_um
        least, most = max(least, step * (1 - _ROUNDING)), min(most, step * (1 + _ROUNDING))
    return least <= most


def _levels(members: Sequence[SlideInstance]) -> list[Level]:
    """Return the levels of one pyramid, the largest first."""
    parts: dict[str, dict[int, SlideInstance]] = defaultdict(dict)
    for one in members:
        size = f"{one.matrix.columns}x{one.matrix.rows}"  # a concatenation is of one size, whatever its UID says
        whole = f"{one.concatenation}/{size}" if one.concatenation else one.sop_instance_uid
        parts[whole].setdefault(one.part, one)
    levels = [Level(tuple(by_part[number] for number in sorted(by_part))) for by_part in parts.values()]
    return sorted(levels, key=lambda level: (-level.pixels, level.first.resampled, level.first.sop_instance_uid))


def _slide(levels: Sequence[Level], wanted_um: float) -> Slide:
    def distance(level: Level) -> float:
        return math.inf if level.spacing_um is None else abs(math.log(level.spacing_um / wanted_um))

    level = min(levels, key=lambda level: (distance(level), -level.pixels, level.first.resampled))
    alike = [other for other in levels if _same_but_for_depth(other, level)]
    level = _middle_plane(alike)
    smaller = [other for other in levels if other.pixels < level.pixels]
    remarks = level.remarks()
    sizes = sorted({other.pixels for other in levels}, reverse=True)
    if len(sizes) > 1:
        text = f"Level {sizes.index(level.pixels) + 1} of {len(sizes)} was judged."
        remarks.append(Remark(RemarkKind.SELECTED, text))
    if all(other.first.resampled for other in levels):
        text = "The level as it was scanned was not received; cells were judged on a coarser one."
        remarks.append(Remark(RemarkKind.INCOMPLETE, text))
    first = level.first
    if first.focal_planes > 1 or len(alike) > 1:
        planes = max(first.focal_planes, len(alike))
        remarks.append(
            Remark(RemarkKind.SELECTED, f"Of {planes} focal planes {_which_plane(level, alike)} was judged.")
        )
    if first.optical_paths > 1:
        text = f"Of {first.optical_paths} optical paths the first one was judged."
        remarks.append(Remark(RemarkKind.SELECTED, text))
    return Slide(level, min(smaller, key=lambda other: other.pixels, default=None), tuple(remarks))


def _same_but_for_depth(one: Level, other: Level) -> bool:
    """Return whether two levels are focal planes of one matrix, an instance each, at known depths."""
    size, other_size = (level.first.matrix for level in (one, other))
    return one is other or (
        (size.columns, size.rows, one.first.resampled) == (other_size.columns, other_size.rows, other.first.resampled)
        and one.first.depth_mm is not None
        and other.first.depth_mm is not None
        and one.first.depth_mm != other.first.depth_mm
        and one.planes_held == other.planes_held == 1
    )


def _middle_plane(alike: Sequence[Level]) -> Level:
    in_depth = sorted(alike, key=lambda level: (level.first.depth_mm or 0.0, level.first.sop_instance_uid))
    return in_depth[len(in_depth) // 2]


def _which_plane(level: Level, alike: Sequence[Level]) -> str:
    if len(alike) > 1 or level.planes_held > 1 or level.first.sparse:
        return "the middle one"
    return "the one in this instance"


def _other(one: SlideInstance, level: Level) -> str:
    if (one.matrix.columns, one.matrix.rows) == (level.first.matrix.columns, level.first.matrix.rows):
        return "it is the same level again, at another focal plane or in another optical path"
    return "it is another level of a pyramid of which one level is judged"


def _left_out(why: str) -> Remark:
    return Remark(RemarkKind.LEFT_OUT, f"Left out on purpose: {why}.")
