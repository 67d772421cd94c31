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
        What levels of one pyramid have in common: Pyramid UID or, where there is none, series and frame of reference.
    concatenation, part, parts:
        Concatenation UID, In-Concatenation Number and Total Number; empty, 1 and 1 where it is not split.
        The total may be 0: not stated.
    first_frame:
        Frames of the concatenation before this part's.
    focal_planes, optical_paths:
        How many there are.
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

    def remarks(self) -> list[Remark]:
        """Return what is missing of it."""
        found = {part.part for part in self.parts}
        stated = max((part.parts for part in self.parts), default=1)
        missing = sorted(set(range(1, max(stated, *found) + 1)) - found)
        frames = sum(part.frames for part in self.parts)
        first = self.first
        expected = 0 if first.sparse else first.across * first.down * first.focal_planes * first.optical_paths
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
    pyramids: dict[str, list[SlideInstance]] = defaultdict(list)
    for one in sorted(instances, key=lambda one: one.sop_instance_uid):
        if one.artificial:
            left_out[one.sop_instance_uid] = _left_out("it was made by artificial intelligence")
        elif one.flavour in _NOT_THE_SLIDE:
            left_out[one.sop_instance_uid] = _left_out(f"it is {_NOT_THE_SLIDE[one.flavour]}")
        else:
            pyramids[one.pyramid].append(one)
    slides = []
    for members in pyramids.values():
        slide = _slide(_levels(members), wanted_um)
        read = {part.sop_instance_uid for part in slide.level.parts}
        for one in members:
            if one.sop_instance_uid not in read:
                left_out[one.sop_instance_uid] = _left_out(_other(one, slide.level))
        slides.append(slide)
    return Choice(tuple(slides), left_out)


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
    smaller = [other for other in levels if other.pixels < level.pixels]
    remarks = level.remarks()
    if len(levels) > 1:
        remarks.append(Remark(RemarkKind.SELECTED, f"Level {levels.index(level) + 1} of {len(levels)} was judged."))
    if all(other.first.resampled for other in levels):
        text = "The level as it was scanned was not received; cells were judged on a coarser one."
        remarks.append(Remark(RemarkKind.INCOMPLETE, text))
    first = level.first
    for count, things, chosen in (
        (first.focal_planes, "focal planes", "the middle one"),
        (first.optical_paths, "optical paths", "the first one"),
    ):
        if count > 1:
            remarks.append(Remark(RemarkKind.SELECTED, f"Of {count} {things} {chosen} was judged."))
    return Slide(level, min(smaller, key=lambda other: other.pixels, default=None), tuple(remarks))


def _other(one: SlideInstance, level: Level) -> str:
    if (one.matrix.columns, one.matrix.rows) == (level.first.matrix.columns, level.first.matrix.rows):
        return "it is the same level again, at another focal plane or in another optical path"
    return "it is another level of a pyramid of which one level is judged"


def _left_out(why: str) -> Remark:
    return Remark(RemarkKind.LEFT_OUT, f"Left out on purpose: {why}.")
