"""The stages over a whole slide, region by region: a slide never has to be in memory as a whole.

A slide is *surveyed* once: which level is read, where on it there is anything, how large red cells and how dark nuclei
are on it. Then its regions are searched one after the other, in any order and as often as need be. Regions overlap by
more than a cell, and a cell belongs to the region that its middle lies in: by the same measures everywhere, what is
found of a cell does not depend on where a region was cut, so that each is found once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from allpacs.cells.finders.nucleus import Measures, Nucleus, measure, working_step
from allpacs.cells.tissue import something_there
from allpacs.decode.slide import SlideLevel, read_slide_instance
from allpacs.domain.errors import InternalFault, UndecodablePixels
from allpacs.domain.findings import CellFinding, InstanceFindings, MatrixPlace, NotAssessable, Remark, RemarkKind
from allpacs.domain.geometry import BoxPx, PointPx
from allpacs.domain.image import Cell, Scale, ScaleOrigin, UnreadableFrame
from allpacs.domain.slide import Level, Slide, SlideInstance, choose
from allpacs.study.containment import contained
from allpacs.study.pipeline import Crops, ImageFile, Pipeline

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"

#: Side of a region, about: large enough that overlaps cost little, small enough to be nothing in memory.
REGION_PX = 2048

#: Regions overlap by this many red cell radii on each side: more than the widest cell (6.4 radii across).
MARGIN_RADII = 10.0

#: A slide is measured by so many pieces of it, each of so many pixels along its side.
_PIECES, _PIECE_PX = 24, 512
#: They are chosen from so many places, as far as the map shows something there.
_PIECES_LOOKED_AT = 2500

#: The level that shows where something is has at most this many pixels.
_MOST_MAP_PIXELS = 50_000_000

#: Two outlines that share more of their boxes than this are of one cell.
_SAME_CELL = 0.4


@dataclass(frozen=True, slots=True)
class SlidePlan:
    """A slide that has been surveyed.

    Attributes
    ----------
    images:
        Files of the level's parts, in order.
    regions:
        Rectangles of the matrix to be searched; together they hold everything that may be a cell.
    scale:
        Distance of the level's pixels.
    """

    level: Level
    images: tuple[ImageFile, ...]
    regions: tuple[BoxPx, ...]
    measures: Measures
    scale: Scale
    remarks: tuple[Remark, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole slide instances of a study: the slides to be searched, and findings of the instances that are not."""

    slides: tuple[SlidePlan, ...]
    others: tuple[InstanceFindings, ...]


def survey(pipeline: Pipeline, images: Sequence[ImageFile]) -> Survey:
    """Return how the slides among whole slide images are searched. Doing so again gives the same.

    An instance that cannot be read gives findings with a `fault`; it is never an exception.
    """
    by_uid = {image.sop_instance_uid: image for image in images}
    facts: dict[str, SlideInstance] = {}
    others: list[InstanceFindings] = []
    for image in images:
        try:
            facts[image.sop_instance_uid] = read_slide_instance(image.path)
        except UndecodablePixels as fault:
            others.append(_unread(image, 0, fault=str(fault)))
    choice = choose(list(facts.values()), pipeline.bundle.preprocessing.spacing_um)
    others += [
        _unread(by_uid[uid], facts[uid].frames, remarks=(remark,), about=facts[uid])
        for uid, remark in choice.left_out.items()
    ]
    plans = []
    for slide in choice.slides:
        parts = tuple(by_uid[part.sop_instance_uid] for part in slide.level.parts)
        try:
            plans.append(_plan(pipeline, slide, parts, by_uid))
        except UndecodablePixels as fault:
            others += [_unread(image, facts[image.sop_instance_uid].frames, fault=str(fault)) for image in parts]
    return Survey(tuple(plans), tuple(others))


def search(
    pipeline: Pipeline, plan: SlidePlan, regions: Iterable[BoxPx], *, with_remarks: bool
) -> tuple[list[InstanceFindings], list[Crops]]:
    """Find the cells of some regions of a slide; cells of poor quality carry their reason already.

    Parameters
    ----------
    with_remarks:
        Whether the remarks on the slide as a whole go with these findings: with those of one call for each slide.

    Returns
    -------
    Findings of each part of the level, as far as these regions show it (`allpacs.domain.parts`), and for each the
    network's inputs in the order of its cells.
    """
    cells: dict[int, list[CellFinding]] = defaultdict(list)
    crops: dict[int, list[Crops]] = defaultdict(list)
    fault: str | None = None
    unreadable: dict[int, list[UnreadableFrame]] = defaultdict(list)
    seen = _Seen()
    lost: list[str] = []
    try:
        with SlideLevel(plan.level, [image.path for image in plan.images], max_pixels=pipeline.max_pixels) as level:
            for region in regions:
                try:
                    with contained("a region of the slide"):
                        found = list(_cells_in(pipeline, plan, level, region, seen))
                except InternalFault as internal:
                    lost.append(str(internal))
                    continue
                for number, cell, crop in found:
                    cells[number].append(cell)
                    crops[number].append(crop)
            for (number, _), frame in sorted(level.unreadable.items()):
                unreadable[number].append(frame)
    except UndecodablePixels as undecodable:
        fault = str(undecodable)
    findings = []
    for number, (image, part) in enumerate(zip(plan.images, plan.level.parts, strict=True)):
        remarks = plan.remarks if with_remarks else ()
        remarks += tuple(Remark(RemarkKind.NOT_ANALYSED, f"Not analysed: {reason}.") for reason in dict.fromkeys(lost))
        shown = _unread(image, part.frames, fault=fault, remarks=remarks, about=part)
        shown = replace(shown, cells=tuple(cells[number]), scale=plan.scale, unreadable=tuple(unreadable[number]))
        findings.append(shown)
    return findings, [pipeline.stack(crops[number]) for number in range(len(plan.images))]


def _cells_in(
    pipeline: Pipeline, plan: SlidePlan, level: SlideLevel, region: BoxPx, seen: _Seen
) -> Iterator[tuple[int, CellFinding, Crops]]:
    """Yield the cells whose middle lies in a region: index of the part, finding, the network's input."""
    matrix = plan.level.first.matrix
    window = _grown(region, _margin(plan.measures), matrix.columns, matrix.rows)
    rgb = level.region(window.x, window.y, window.width, window.height)
    if not something_there(rgb[::4, ::4], plan.measures.white[1]).any():
        return
    for cell in Nucleus().find_by(rgb, plan.measures):
        box = BoxPx(cell.box.x + window.x, cell.box.y + window.y, cell.box.width, cell.box.height)
        x, y = box.x + box.width / 2, box.y + box.height / 2
        if not (region.x <= x < region.right and region.y <= y < region.bottom) or seen.before(box):
            continue
        tile = level.tile_at(x, y)
        if tile is None:
            continue
        part, frame, left, top = tile
        reason = pipeline.rejection_reason(rgb, cell, plan.scale)
        finding = _placed(plan, part, frame, (left, top), (x, y), box, cell, (window.x, window.y), reason)
        yield part, finding, pipeline.prepared(rgb, cell, plan.scale)


def _placed(
    plan: SlidePlan,
    part: int,
    frame: int,
    tile: tuple[int, int],
    middle: PointPx,
    box: BoxPx,
    cell: Cell,
    window: tuple[int, int],
    reason: NotAssessable | None,
) -> CellFinding:
    """Return the finding of a cell: on the tile with its middle, cut at the tile's edges, and on the matrix."""
    one = plan.level.parts[part]
    outline = tuple((round(x + window[0], 2), round(y + window[1], 2)) for x, y in cell.outline)

    def on_tile(point: PointPx) -> PointPx:
        x, y = point[0] - tile[0], point[1] - tile[1]
        return round(min(max(x, 0.0), one.tile_columns), 2), round(min(max(y, 0.0), one.tile_rows), 2)

    left, top = (int(edge) for edge in on_tile((box.x, box.y)))
    right, bottom = (int(edge) for edge in on_tile((box.right, box.bottom)))
    return CellFinding(
        sop_instance_uid=plan.images[part].sop_instance_uid,
        frame_number=frame,
        # By its place: a number that is the cell's alone on its tile, whatever else is found there and when.
        cell_number=int(middle[1] - tile[1]) * one.tile_columns + int(middle[0] - tile[0]) + 1,
        box=BoxPx(left, top, right - left, bottom - top),
        outline=tuple(on_tile(point) for point in outline),
        reason=reason,
        on_matrix=MatrixPlace(box, outline),
    )


class _Seen:
    """Boxes of cells met so far, to tell whether one is met again."""

    _GRID_PX = 256

    def __init__(self) -> None:
        self._boxes: dict[tuple[int, int], list[BoxPx]] = defaultdict(list)

    def before(self, box: BoxPx) -> bool:
        """Whether a box is of a cell met before; it is kept where it is not."""
        column, row = box.x // self._GRID_PX, box.y // self._GRID_PX
        near = (other for c in (-1, 0, 1) for r in (-1, 0, 1) for other in self._boxes.get((column + c, row + r), ()))
        if any(_overlap(box, other) > _SAME_CELL for other in near):
            return True
        self._boxes[column, row].append(box)
        return False


def _overlap(one: BoxPx, other: BoxPx) -> float:
    """Return intersection over union."""
    width = min(one.right, other.right) - max(one.x, other.x)
    height = min(one.bottom, other.bottom) - max(one.y, other.y)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (one.width * one.height + other.width * other.height - width * height)


def _plan(pipeline: Pipeline, slide: Slide, parts: tuple[ImageFile, ...], by_uid: dict[str, ImageFile]) -> SlidePlan:
    matrix = slide.level.first.matrix
    there = _map(pipeline, slide, by_uid)
    with SlideLevel(slide.level, [image.path for image in parts], max_pixels=pipeline.max_pixels) as level:
        measures = measure(_pieces(level, there), slide.level.spacing_um)
    scale = slide.level.first.scale or Scale(measures.scale_um, ScaleOrigin.RED_CELLS)
    step = working_step(measures.radius_px)
    side = REGION_PX // step * step
    grid = (
        BoxPx(x, y, min(side, matrix.columns - x), min(side, matrix.rows - y))
        for y in range(0, matrix.rows, side)
        for x in range(0, matrix.columns, side)
    )
    regions = tuple(region for region in grid if there is None or _shows(there, region, matrix.columns, matrix.rows))
    return SlidePlan(slide.level, parts, regions, measures, scale, slide.remarks)


def _map(pipeline: Pipeline, slide: Slide, by_uid: dict[str, ImageFile]) -> NDArray[np.bool_] | None:
    """Return where on the slide there is something, as a coarser level shows it; None where none does."""
    if slide.map is None or slide.map.pixels > _MOST_MAP_PIXELS:
        return None
    paths = [by_uid[part.sop_instance_uid].path for part in slide.map.parts]
    with suppress(UndecodablePixels), SlideLevel(slide.map, paths, max_pixels=pipeline.max_pixels) as level:
        matrix = slide.map.first.matrix
        there = something_there(level.region(0, 0, matrix.columns, matrix.rows))
        if not level.unreadable:
            return there
    return None  # a map with holes would hide cells


def _shows(there: NDArray[np.bool_], region: BoxPx, columns: int, rows: int) -> bool:
    down, across = there.shape[0] / rows, there.shape[1] / columns
    window = there[
        math.floor(region.y * down) : math.ceil(region.bottom * down),
        math.floor(region.x * across) : math.ceil(region.right * across),
    ]
    return bool(window.any())


def _pieces(level: SlideLevel, there: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Return pieces of a slide side by side, in which there is something if the map knows, spread evenly over it."""
    matrix = level.level.first.matrix
    side = min(_PIECE_PX, matrix.columns, matrix.rows)
    across, down = matrix.columns // side, matrix.rows // side
    places = np.linspace(0, across * down - 1, min(_PIECES_LOOKED_AT, across * down)).astype(int).tolist()
    pieces = [BoxPx(place % across * side, place // across * side, side, side) for place in places]
    full = [one for one in pieces if there is None or _shows(there, one, matrix.columns, matrix.rows)] or pieces
    chosen = [full[int(index)] for index in np.linspace(0, len(full) - 1, min(_PIECES, len(full)))]
    return np.concatenate([level.region(one.x, one.y, one.width, one.height) for one in chosen], axis=1)


def _margin(measures: Measures) -> int:
    step = working_step(measures.radius_px)
    return math.ceil(MARGIN_RADII * measures.radius_px / step) * step


def _grown(region: BoxPx, margin: int, columns: int, rows: int) -> BoxPx:
    x, y = max(0, region.x - margin), max(0, region.y - margin)
    return BoxPx(x, y, min(columns, region.right + margin) - x, min(rows, region.bottom + margin) - y)


def _unread(
    image: ImageFile,
    frames: int,
    *,
    fault: str | None = None,
    remarks: tuple[Remark, ...] = (),
    about: SlideInstance | None = None,
) -> InstanceFindings:
    return InstanceFindings(
        sop_instance_uid=image.sop_instance_uid,
        sop_class_uid=image.sop_class_uid,
        series_uid=image.series_uid,
        frames=frames,
        cells=(),
        fault=fault,
        scale=None if about is None else about.scale,
        matrix=None if about is None else about.matrix,
        remarks=remarks,
    )
