"""VL Whole Slide Microscopy: what an instance says of itself, and regions of the total pixel matrix from its tiles.

Tiles are decoded as every frame is (`allpacs.decode.part10`), so that the same checks hold and a tile that does not
decode is one bad frame. What frames say of their places is read item by item: a slide has 100,000 of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from allpacs.decode.ai_generated import made_by_artificial_intelligence
from allpacs.decode.elements import PER_FRAME_GROUPS, data_set, per_frame_groups, read_until
from allpacs.decode.guard import as_input_fault, opened
from allpacs.decode.part10 import OpenFrames, open_frames
from allpacs.decode.scale import stated_scale
from allpacs.domain.errors import UndecodablePixels
from allpacs.domain.geometry import PixelMatrix
from allpacs.domain.image import UnreadableFrame
from allpacs.domain.slide import Level, SlideInstance

#: More frames than this are no slide: 1,000,000 x 1,000,000 pixels in tiles of 256.
_MOST_FRAMES = 16_000_000
#: More than 1,000,000 x 1,000,000 pixels are no slide: 25 cm at the finest.
_MOST_PIXELS = 10**12
#: Decoded tiles that are kept, since regions overlap.
_CACHED_BYTES = 64 * 1024**2


def read_slide_instance(path: Path) -> SlideInstance:
    """Return what counts of a whole slide instance.

    Raises
    ------
    UndecodablePixels
        It is not one that can be read.
    StoreFault
        The file cannot be opened.

    Source: PS3.3 C.8.12.4 (Whole Slide Microscopy Image), C.7.6.16.2.2.4 (Concatenations), C.8.12.14 (Pyramid).
    """
    with opened(path) as file, as_input_fault("the header cannot be read"):
        stream, _, encoding = data_set(file)
        with stream:
            header = read_until(stream, encoding, PER_FRAME_GROUPS)
        return _facts(header)


def _facts(header: Dataset) -> SlideInstance:
    image_type = [str(value) for value in header.get("ImageType") or ()] + [""] * 4
    columns, rows = _count(header, "TotalPixelMatrixColumns"), _count(header, "TotalPixelMatrixRows")
    tile_columns, tile_rows = _count(header, "Columns"), _count(header, "Rows")
    frames = _count(header, "NumberOfFrames", 1) or 1
    if min(columns, rows, tile_columns, tile_rows, frames) < 1 or frames > _MOST_FRAMES:
        raise UndecodablePixels(
            f"no slide: {columns} x {rows} pixels in {frames} tiles of {tile_columns} x {tile_rows}"
        )
    if -(-columns // tile_columns) * -(-rows // tile_rows) > _MOST_FRAMES or columns * rows > _MOST_PIXELS:
        raise UndecodablePixels(f"too large: {columns} x {rows} pixels in tiles of {tile_columns} x {tile_rows}")
    reference = str(header.get("FrameOfReferenceUID") or "")
    series = str(header.get("SeriesInstanceUID") or "")
    concatenation = str(header.get("ConcatenationUID") or "")
    return SlideInstance(
        sop_instance_uid=str(header.get("SOPInstanceUID") or ""),
        series_uid=series,
        flavour=image_type[2].upper() or "VOLUME",
        resampled=image_type[3].upper() == "RESAMPLED",
        artificial=made_by_artificial_intelligence(header),
        pyramid=str(header.get("PyramidUID") or ""),
        matrix=_matrix(header, columns, rows, reference),
        scale=stated_scale(header),
        tile_columns=tile_columns,
        tile_rows=tile_rows,
        frames=frames,
        sparse=str(header.get("DimensionOrganizationType") or "") != "TILED_FULL",
        concatenation=concatenation,
        part=max(1, _count(header, "InConcatenationNumber", 1)) if concatenation else 1,
        parts=max(0, _count(header, "InConcatenationTotalNumber", 0)) if concatenation else 1,
        first_frame=max(0, _count(header, "ConcatenationFrameOffsetNumber", 0)) if concatenation else 0,
        focal_planes=max(1, _count(header, "TotalPixelMatrixFocalPlanes", 1)),
        optical_paths=max(1, _count(header, "NumberOfOpticalPaths", 1)),
        frame_of_reference=reference,
        container=str(header.get("ContainerIdentifier") or ""),
    )


def _matrix(header: Dataset, columns: int, rows: int, reference: str) -> PixelMatrix:
    """Return the matrix and, where the header states it wholly, its place on the slide."""
    try:
        origin = header.TotalPixelMatrixOriginSequence[0]
        x, y = float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem)
        z = float(origin.get("ZOffsetInSlideCoordinateSystem") or 0.0) / 1000  # x and y are mm, z is µm
        cosines = [float(value) for value in header.ImageOrientationSlide]
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return PixelMatrix(columns, rows, frame_of_reference_uid=reference)
    numbers = [x, y, z, between_rows, between_columns, *cosines]
    if len(cosines) != 6 or not np.isfinite(numbers).all() or min(between_rows, between_columns) <= 0:
        return PixelMatrix(columns, rows, frame_of_reference_uid=reference)
    return PixelMatrix(
        columns,
        rows,
        origin_mm=(x, y, z),
        along_row=(cosines[0], cosines[1], cosines[2]),
        along_column=(cosines[3], cosines[4], cosines[5]),
        spacing_mm=(between_columns, between_rows),
        frame_of_reference_uid=reference,
    )


def _count(header: Dataset, keyword: str, default: int | None = None) -> int:
    value = header.get(keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise UndecodablePixels(f"{keyword} is missing or not a whole number")
    return int(value)


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """Where the tiles of one focal plane and optical path lie; each array has one entry a tile.

    Attributes
    ----------
    x, y:
        Column and row of the top left pixel, from 0.
    part, frame:
        Index of the part, and number of the frame in it, from 1.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    part: NDArray[np.int64]
    frame: NDArray[np.int64]


class SlideLevel:
    """An open level of a slide: regions of its matrix, as sRGB. A context manager.

    Parameters
    ----------
    level:
        Its parts, in order.
    paths:
        Their files.
    max_pixels:
        Tiles of more are not decoded.

    Attributes
    ----------
    unreadable:
        Tiles that have no place on the matrix, and those met so far that cannot be decoded, by index of part and frame
        number.

    Raises
    ------
    UndecodablePixels
        A part's header or pixel data cannot be read at all.
    StoreFault
        A file cannot be opened.
    """

    def __init__(self, level: Level, paths: Sequence[Path], *, max_pixels: int = 100_000_000) -> None:
        self.level = level
        self.unreadable: dict[tuple[int, int], UnreadableFrame] = {}
        self._files = ExitStack()
        self._cache: OrderedDict[tuple[int, int], NDArray[np.uint8] | None] = OrderedDict()
        first = level.first
        self._cached = max(4, _CACHED_BYTES // (3 * first.tile_columns * first.tile_rows))
        try:
            self._frames: list[OpenFrames] = []
            for part, path in zip(level.parts, paths, strict=True):
                frames = self._files.enter_context(open_frames(path, max_pixels=max_pixels))
                layout = frames.layout
                if (layout.columns, layout.rows) != (part.tile_columns, part.tile_rows):
                    raise UndecodablePixels("its tiles are of another size than its header says")
                self._frames.append(frames)
            self._tiles, misplaced = _sparse(level, paths) if first.sparse else (_full(level), {})
            self.unreadable.update(misplaced)
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a region as an ``uint8`` array of shape (height, width, 3), sRGB; white where there is no tile."""
        first = self.level.first
        rgb = np.full((height, width, 3), 255, np.uint8)
        tiles = self._tiles
        meets = np.flatnonzero(
            (tiles.x < x + width)
            & (tiles.x + first.tile_columns > x)
            & (tiles.y < y + height)
            & (tiles.y + first.tile_rows > y)
        )
        for tile in meets:
            decoded = self._tile(int(tile))
            if decoded is None:
                continue
            left, top = int(tiles.x[tile]) - x, int(tiles.y[tile]) - y
            rows = slice(max(0, top), min(height, top + first.tile_rows))
            columns = slice(max(0, left), min(width, left + first.tile_columns))
            rgb[rows, columns] = decoded[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return rgb

    def tile_at(self, x: float, y: float) -> tuple[int, int, int, int] | None:
        """Return the tile that a point of the matrix lies on; None where there is none.

        Returns
        -------
        Index of the part, frame number in it, column and row of the tile's top left pixel.
        """
        first, tiles = self.level.first, self._tiles
        on = np.flatnonzero(
            (tiles.x <= x) & (x < tiles.x + first.tile_columns) & (tiles.y <= y) & (y < tiles.y + first.tile_rows)
        )
        if on.size == 0:
            return None
        tile = on[0]
        return int(tiles.part[tile]), int(tiles.frame[tile]), int(tiles.x[tile]), int(tiles.y[tile])

    def _tile(self, tile: int) -> NDArray[np.uint8] | None:
        part, frame = int(self._tiles.part[tile]), int(self._tiles.frame[tile])
        place = (part, frame)
        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        matrix = self.level.first.matrix
        on_matrix = (matrix.rows - int(self._tiles.y[tile]), matrix.columns - int(self._tiles.x[tile]))
        try:
            decoded: NDArray[np.uint8] | None = self._frames[part].rgb(frame, at_least=on_matrix)
        except UndecodablePixels as fault:
            self.unreadable[place] = UnreadableFrame(frame, str(fault))
            decoded = None
        self._cache[place] = decoded
        if len(self._cache) > self._cached:
            self._cache.popitem(last=False)
        return decoded


def _full(level: Level) -> _Tiles:
    """Return the tiles where all are there: column by column, row by row, then planes, then paths.

    Source: PS3.3 C.7.6.17.3.
    """
    first = level.first
    each = first.across * first.down
    middle = (level.planes_held // 2) * each  # of the first optical path
    index = np.arange(each, dtype=np.int64)
    overall = index + middle
    part, frame = np.full(each, -1, np.int64), np.zeros(each, np.int64)
    begins = 0
    for number, one in enumerate(level.parts):
        start = one.first_frame or begins
        inside = (overall >= start) & (overall < start + one.frames)
        part[inside], frame[inside] = number, overall[inside] - start + 1
        begins = start + one.frames
    there = part >= 0
    x, y = (index % first.across) * first.tile_columns, (index // first.across) * first.tile_rows
    return _Tiles(x[there], y[there], part[there], frame[there])


def _sparse(level: Level, paths: Sequence[Path]) -> tuple[_Tiles, dict[tuple[int, int], UnreadableFrame]]:
    """Return the tiles where each frame says where it lies: of the first optical path, at each place the middle plane.

    A scanner that follows the focus gives tiles of one plane different depths. The second value holds the frames that
    lie nowhere on the matrix: they are lost, not the slide.
    """
    rows: list[tuple[int, int, int, int]] = []
    planes: list[float] = []
    misplaced: dict[tuple[int, int], UnreadableFrame] = {}
    first_path: str | None = None
    matrix = level.first.matrix
    for number, path in enumerate(paths):
        for frame, place in enumerate(_places(path, level.parts[number].frames), start=1):
            if place is None:
                reason = f"frame {frame} does not say where on the matrix it lies"
                misplaced[number, frame] = UnreadableFrame(frame, reason)
                continue
            x, y, z, optical_path = place
            if not (0 <= x < matrix.columns and 0 <= y < matrix.rows):
                misplaced[number, frame] = UnreadableFrame(frame, f"frame {frame} lies outside the matrix")
                continue
            first_path = optical_path if first_path is None else first_path
            if optical_path == first_path:
                rows.append((x, y, number, frame))
                planes.append(z)
    first = level.first
    whole = first.across * first.down * level.planes_held * first.optical_paths
    if not rows and not misplaced and sum(part.frames for part in level.parts) == whole:
        return _full(level), {}  # as many as there are places, and none says otherwise
    if not rows:
        outside = any("outside" in frame.reason for frame in misplaced.values())
        raise UndecodablePixels(
            "all its frames lie outside the matrix" if outside else "its frames do not say where on the matrix they lie"
        )
    tiles = np.array(rows, np.int64)
    return _Tiles(*tiles[_middle(tiles[:, 0], tiles[:, 1], np.array(planes))].T), misplaced


def _middle(x: NDArray[np.int64], y: NDArray[np.int64], z: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return, in order, the indices of the tiles that have as many others above as below them at their place."""
    by_place = np.lexsort((z, y, x))
    another = np.ones(len(by_place), np.bool_)
    another[1:] = (np.diff(x[by_place]) != 0) | (np.diff(y[by_place]) != 0)
    begins = np.flatnonzero(another)
    planes = np.diff(begins, append=len(by_place))
    return np.sort(by_place[begins + planes // 2])


def _places(path: Path, frames: int) -> Iterator[tuple[int, int, float, str] | None]:
    """Yield column, row, depth and optical path of each frame, one item of the sequence read at a time.

    None comes for a frame that does not state its place, or not as numbers.
    """
    with opened(path) as file, as_input_fault("the places of the frames cannot be read"):
        stream, _, encoding = data_set(file)
        with stream:
            header = read_until(stream, encoding, PER_FRAME_GROUPS)
            shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
            for item in islice(per_frame_groups(stream, header), frames):
                try:
                    yield _place(item, shared)
                except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
                    yield None


def _place(item: Dataset, shared: Dataset) -> tuple[int, int, float, str]:
    place = item.PlanePositionSlideSequence[0]
    paths = item.get("OpticalPathIdentificationSequence") or shared.get("OpticalPathIdentificationSequence")
    return (
        int(place.ColumnPositionInTotalImagePixelMatrix) - 1,
        int(place.RowPositionInTotalImagePixelMatrix) - 1,
        float(place.get("ZOffsetInSlideCoordinateSystem") or 0.0),
        str(paths[0].get("OpticalPathIdentifier") or "") if paths else "",
    )
