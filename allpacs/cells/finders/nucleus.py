"""White cells in a stained field, by their nuclei.

Nuclei take up the violet stain: they absorb green light much more than blue light. Red cells absorb both alike, or blue
more. The difference of the two optical densities, taken against the background's own colour, therefore tells nuclei
from red cells whatever the white balance and the lamp. Red cells are also the ruler: one is 7 to 8 µm wide in every
field, so nothing has to be known of the magnification.

All sizes below are in red cell radii, all optical densities are natural logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from allpacs.cells.lobes import joined
from allpacs.cells.outline import cell_of, largest_part
from allpacs.domain.image import Cell, Frame, Scale, ScaleOrigin

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

#: Width of a normal red cell: 7.2 µm on average in a dried smear (J. V. Dacie and S. M. Lewis, Practical Haematology).
RED_CELL_UM = 7.2

#: A red cell of a slide has a radius of so many pixels: from an objective of power 4 to more than any there is.
SANE_RADIUS_PX = (1.5, 120.0)

#: Frames with a shorter side hold no cell.
SMALLEST_SIDE_PX = 8

#: Longer side at which a frame is measured for its red cells' radius.
MEASURED_SIDE_PX = 480

#: Radius of a red cell in the pixels that cells are sought at: finer costs time and adds no cells.
WORKING_RADIUS_PX = 11

#: Violet of a nucleus: at least the first; more than the second is never asked for, so that pale nuclei beside dark
#: ones are found too.
PALEST_NUCLEUS = 0.20
SURE_NUCLEUS = 0.42

#: Nuclei that cover more than this share of all objects may be red cells that took up violet; they are if a share of
#: them at most `FEW_NUCLEI` is more violet than the rest, so many times as much.
TOO_MUCH_NUCLEUS = 0.35
FEW_NUCLEI = 0.2
STANDS_OUT = 1.5

#: Optical density in green of anything that is not background.
FAINTEST_OBJECT = 0.10

#: What swallows more green than the first and less blue than the second was drawn into the picture, as a scale bar: the
#: stains take some of both.
DRAWN = (2.5, 0.1)

#: Where red cells of about the nuclei's size cover less than this share of all red cells, the nuclei are platelets.
PLATELETS_ONLY = 0.1

#: Nuclei enough to measure a field by, if they are no smaller than this share of its red cells: else they are specks.
MANY_NUCLEI = 20
LEAST_RULER = 0.5

#: A nucleus covers at least this share of a red cell; platelets and debris cover less.
SMALLEST_NUCLEUS = 0.35

#: Cytoplasm reaches no further than this from the nucleus.
WIDEST_CYTOPLASM = 0.9


class Nucleus:
    """Finds each white cell of a field: its nucleus, then its cytoplasm as far as that can be told from the rest."""

    name = "nucleus"
    segmented = False

    def find(self, frame: Frame) -> tuple[Cell, ...]:
        """Return the white cells, ordered by row then column of their boxes; empty where there are none."""
        return self.find_and_measure(frame)[0]

    def find_and_measure(self, frame: Frame) -> tuple[tuple[Cell, ...], Scale | None]:
        """Return the white cells, and the scale that makes the red cells 7.2 µm wide; None: too few are seen."""
        rows, columns = frame.rgb.shape[:2]
        if min(rows, columns) < SMALLEST_SIDE_PX:
            return (), None
        radius, of_red_cells = _measured(frame.rgb)
        step = working_step(radius)
        labels = _cells_of(_stain_of(_shrink(frame.rgb, step)), radius / step)
        scale = Scale(RED_CELL_UM / (2 * radius), ScaleOrigin.RED_CELLS) if of_red_cells else None
        return self._enlarged(labels, step, (rows, columns)), scale

    def find_by(self, rgb: NDArray[np.uint8], measures: Measures) -> tuple[Cell, ...]:
        """Return the white cells of a part of a slide, by what was measured of the whole of it.

        What is found of a cell then depends on its surroundings only and not on where the part was cut: two parts that
        overlap find the same cells. Parts begin at multiples of `working_step` pixels.
        """
        step = working_step(measures.radius_px)
        labels = _cells_of(_stain_of(_shrink(rgb, step), measures.white), measures.radius_px / step, measures)
        return self._enlarged(labels, step, (rgb.shape[0], rgb.shape[1]))

    def _enlarged(self, labels: Labels, step: int, shape: tuple[int, int]) -> tuple[Cell, ...]:
        cells = []
        for number, window in enumerate(ndimage.find_objects(labels), start=1):
            if window is None:
                continue
            mask, offset = _enlarge(labels, number, window, step, shape)
            if mask.any():
                cells.append(cell_of(mask, offset, shape))
        return tuple(sorted(cells, key=lambda cell: (cell.box.y, cell.box.x)))


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of a slide as a whole, for `Nucleus.find_by`.

    Attributes
    ----------
    radius_px:
        Of a red cell.
    white:
        Red, green and blue of the background.
    threshold, slope, palest:
        Violet from which on there is a nucleus; what tells cytoplasm from red cells (`_paleness_of`).
    """

    radius_px: float
    white: tuple[float, float, float]
    threshold: float
    slope: float
    palest: float

    @property
    def scale_um(self) -> float:
        """Distance of pixels that makes red cells as wide as they are."""
        return RED_CELL_UM / (2 * self.radius_px)


def working_step(radius_px: float) -> int:
    """Return how many pixels along each side become one when cells are sought."""
    return max(1, round(radius_px / WORKING_RADIUS_PX))


def measure(rgb: NDArray[np.uint8], spacing_um: float | None) -> Measures:
    """Return the measures of a slide from pieces of it, laid side by side.

    Where no nucleus is in them, one is what is as violet as the middle of the range that thresholds have.

    Parameters
    ----------
    spacing_um:
        Distance of pixels, which says how large a red cell is; None, or an absurd one: measured.
    """
    radius = 0.0 if spacing_um is None else RED_CELL_UM / (2 * spacing_um)
    if not SANE_RADIUS_PX[0] <= radius <= SANE_RADIUS_PX[1]:
        radius = min(max(_measured(rgb)[0], SANE_RADIUS_PX[0]), SANE_RADIUS_PX[1])
    step = working_step(radius)
    small = _shrink(rgb, step)
    white = _white_of(small)
    stain = _stain_of(small, white)
    nuclei, threshold = _nuclei_of(stain)
    nuclei = _without_specks(nuclei, _speck(radius / step))
    if not nuclei.any():
        threshold = (PALEST_NUCLEUS + SURE_NUCLEUS) / 2
    slope, palest = _paleness_of(stain, ndimage.distance_transform_edt(~nuclei), radius / step, threshold)
    red, green, blue = (float(channel) for channel in white)
    return Measures(radius, (red, green, blue), threshold, slope, palest)


def _measured(rgb: NDArray[np.uint8]) -> tuple[float, bool]:
    """Return the radius of a red cell in pixels of the frame, and whether red cells themselves told it."""
    coarse = -(-max(rgb.shape[:2]) // MEASURED_SIDE_PX)
    radius, of_red_cells = _red_cell_radius(_stain_of(_shrink(rgb, coarse)))
    return radius * coarse, of_red_cells


@dataclass(frozen=True, slots=True, eq=False)
class _Stain:
    """Optical densities of a field against its background, smoothed; each of shape (rows, columns)."""

    green: Floats
    blue: Floats

    @property
    def violet(self) -> Floats:
        """What nuclei have most of."""
        return self.green - self.blue


def _shrink(rgb: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the image with each step × step block averaged; the last row and column are repeated to fill blocks."""
    if step == 1:
        return rgb
    rows, columns = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -rows % step), (0, -columns % step), (0, 0)), mode="edge")
    sums = np.zeros((padded.shape[0] // step, padded.shape[1] // step, 3), np.uint32)
    for row in range(step):
        for column in range(step):
            sums += padded[row::step, column::step]
    shrunk: NDArray[np.uint8] = (sums // step**2).astype(np.uint8)
    return shrunk


def _enlarge(
    labels: Labels, number: int, window: tuple[slice, slice], step: int, shape: tuple[int, int]
) -> tuple[Mask, tuple[int, int]]:
    """Return a label as a smooth mask in the frame's own pixels, and the row and column of the mask's window."""
    top, left = (max(0, part.start - 2) for part in window)
    small = labels[top : window[0].stop + 2, left : window[1].stop + 2] == number
    large = small.repeat(step, axis=0).repeat(step, axis=1)
    if step > 1:
        large = ndimage.gaussian_filter(large.astype(np.float32), 0.7 * step, mode="nearest") > 0.5
    offset = (top * step, left * step)
    return largest_part(large[: shape[0] - offset[0], : shape[1] - offset[1]]), offset


def _white_of(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colour of the background of an image of shape (rows, columns, 3)."""
    green = rgb[..., 1]
    white: NDArray[np.float64] = np.median(rgb[green >= np.percentile(green, 85)], axis=0)
    return white


def _stain_of(rgb: NDArray[np.uint8], background: Sequence[float] | NDArray[np.float64] | None = None) -> _Stain:
    """Return the optical densities of an image of shape (rows, columns, 3); its own background where none is given."""
    white = _white_of(rgb) if background is None else np.asarray(background)
    # One table a channel: the logarithm of 256 values instead of one of every pixel.
    levels = np.log1p(np.arange(256, dtype=np.float32))
    green, blue = ((np.log1p(np.float32(white[c])) - levels)[rgb[..., c]] for c in (1, 2))
    drawn = (green > DRAWN[0]) & (blue < DRAWN[1])
    if drawn.any():
        around = ndimage.binary_dilation(drawn, iterations=3)  # lines have soft edges
        green[around] = blue[around] = 0.0
    return _Stain(*(ndimage.gaussian_filter(density, 0.8, output=np.float32) for density in (green, blue)))


def _nuclei_of(stain: _Stain) -> tuple[Mask, float]:
    """Return where nuclei are, and the violet from which on they are."""
    violet = stain.violet
    stained = violet[violet > PALEST_NUCLEUS / 2]
    if stained.size < 16 or float(np.ptp(stained)) < 1e-3:
        return np.zeros(violet.shape, np.bool_), PALEST_NUCLEUS
    threshold = min(max(float(threshold_otsu(stained)), PALEST_NUCLEUS), SURE_NUCLEUS)
    nuclei = violet > threshold
    if np.count_nonzero(nuclei) > TOO_MUCH_NUCLEUS * np.count_nonzero(stain.green > FAINTEST_OBJECT):
        threshold = _above_violet_red_cells(violet[nuclei], threshold)
        nuclei = violet > threshold
    return nuclei, threshold


def _above_violet_red_cells(violet: Floats, threshold: float) -> float:
    """Return the threshold, or a higher one where most of what is above it are red cells that took up violet too.

    Then the few nuclei stand out from them as they else do from red cells; nuclei of unlike stain do less.
    """
    if float(np.ptp(violet)) < 1e-3:
        return threshold
    higher = float(threshold_otsu(violet))
    above = violet > higher
    stands_out = violet[above].mean() > STANDS_OUT * violet[~above].mean()
    return higher if stands_out and above.mean() < FEW_NUCLEI else threshold


def _red_cell_radius(stain: _Stain) -> tuple[float, bool]:
    """Return the radius of a red cell in pixels, the ruler of the field, and whether red cells told it.

    A small lymphocyte's nucleus is as large as a red cell. Where no red cells are seen, the nuclei are the ruler.
    """
    nuclei, _ = _nuclei_of(stain)
    white = _half_widths(nuclei)
    largest = float(white.max(initial=0.0))
    near = ndimage.binary_dilation(nuclei, iterations=2)
    others = (stain.green > FAINTEST_OBJECT) & ~near
    # A hole in a red cell is its pale middle; a larger one is background with red cells around it.
    pallor = max(largest, _weighted_median(_half_widths(others)), 3.0)
    red = _half_widths(_without_holes(others | near, np.pi * (0.7 * pallor) ** 2) & ~near)
    alike = red[(red > 0.3 * largest) & (red < 2.0 * largest)]
    # What is much larger than the nuclei is heaps; unless it is nearly all there is, and the nuclei are platelets.
    red = alike if np.sum(alike**2) > PLATELETS_ONLY * np.sum(red**2) else red
    if red.size < 3:
        return max(0.8 * largest, 3.0), False
    radius = _weighted_median(red)
    # Heaps of red cells look like large ones. Nuclei are the better ruler where there are too many to be lobes.
    white = white[white > 0.5 * largest]
    if white.size >= MANY_NUCLEI and LEAST_RULER * radius < (limit := 1.1 * _weighted_median(white)) < radius:
        return limit, False
    return radius, True


def _half_widths(mask: Mask) -> Floats:
    """Return the distances from the edge at the middles of a mask's parts."""
    distance = _distance(mask)
    places = peak_local_max(distance, min_distance=3, threshold_abs=2.0, exclude_border=False)
    widths: Floats = distance[tuple(places.T)]
    return widths


def _weighted_median(radii: Floats) -> float:
    """Return the median by area, 0 of nothing: the gaps, rims and slivers between cells are many, but small."""
    if radii.size == 0:
        return 0.0
    ordered = np.sort(radii)
    area = np.cumsum(ordered**2)
    return float(ordered[np.searchsorted(area, 0.5 * area[-1])])


def _distance(mask: Mask) -> Floats:
    """Return each pixel's distance from the outside of the mask; the frame's edge is not an outside."""
    if mask.all():
        return np.full(mask.shape, min(mask.shape) / 2, np.float32)
    distance: Floats = ndimage.distance_transform_edt(mask).astype(np.float32)
    return distance


def _cells_of(stain: _Stain, radius: float, measures: Measures | None = None) -> Labels:
    """Return the cells of a field as labels from 1, 0 elsewhere; `radius` is a red cell's in pixels."""
    if measures is None:
        nuclei, threshold = _nuclei_of(stain)
    else:
        nuclei, threshold = stain.violet > measures.threshold, measures.threshold
    speck = _speck(radius)
    nuclei = _without_holes(_without_specks(nuclei, speck), speck)
    if not nuclei.any():
        return np.zeros(nuclei.shape, np.int32)
    distance = ndimage.gaussian_filter(_distance(nuclei), max(0.5, 0.08 * radius))
    parts = _split(nuclei, distance, radius)
    if not parts.any():  # threads and scratches that took up violet: nowhere as wide as a nucleus
        return np.zeros(nuclei.shape, np.int32)
    away = ndimage.distance_transform_edt(parts == 0)
    paleness = _paleness_of(stain, away, radius, threshold) if measures is None else (measures.slope, measures.palest)
    cells = _grow(parts, stain, away, radius, *paleness)
    roots = joined(parts, cells, distance, radius)
    return _tidy(roots[cells], roots[parts], radius)


def _without_specks(mask: Mask, smallest: float) -> Mask:
    """Return the mask without parts of fewer pixels than `smallest`."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= smallest
    large[0] = False
    kept: Mask = large[labels]
    return kept


def _without_holes(mask: Mask, smallest: float) -> Mask:
    """Return the mask without holes of fewer pixels than `smallest`."""
    return ~_without_specks(~mask, smallest)


def _split(nuclei: Mask, distance: Floats, radius: float) -> Labels:
    """Return one label for each bulge of the nuclei: one cell may still have several."""
    places = peak_local_max(
        distance * nuclei, min_distance=max(2, int(0.3 * radius)), threshold_abs=0.15 * radius, exclude_border=False
    )
    markers = np.zeros(nuclei.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    parts: Labels = watershed(-distance, markers, mask=nuclei)
    return parts


def _speck(radius: float) -> float:
    """Return how many pixels a stain's specks, and holes in nuclei, have at most."""
    return 0.08 * np.pi * radius**2


def _paleness_of(stain: _Stain, away: NDArray[np.float64], radius: float, threshold: float) -> tuple[float, float]:
    """Return what tells cytoplasm: it is pale, and not on the line through background and this field's red cells.

    Returns
    -------
    The line's slope, green over blue density, and how far off it cytoplasm is at least.
    """
    others = (stain.green > FAINTEST_OBJECT) & (away > 1.5 * radius)
    if np.count_nonzero(others) <= 100:
        return 1.0, 0.06
    green, blue = stain.green[others], stain.blue[others]
    slope = float(np.clip(np.median(green) / max(float(np.median(blue)), 0.02), 0.7, 2.0))
    return slope, float(np.clip(np.percentile(green - slope * blue, 90), 0.06, 0.5 * threshold))


def _grow(
    parts: Labels, stain: _Stain, away: NDArray[np.float64], radius: float, slope: float, palest: float
) -> Labels:
    """Return the parts grown into their cytoplasm, as far as it can be told apart and a cell can reach."""
    objects = stain.green > FAINTEST_OBJECT / 2
    pale = stain.green - slope * stain.blue
    cytoplasm = (ndimage.gaussian_filter(pale, 0.08 * radius) > palest) & objects & (away < WIDEST_CYTOPLASM * radius)
    field = _opened(cytoplasm | (parts > 0), 0.2 * radius) | (parts > 0)
    grown: Labels = watershed(away, parts, mask=field)
    return grown


def _opened(mask: Mask, by: float) -> Mask:
    """Return the mask without anything that a disc of radius `by` does not fit into."""
    core = _distance(mask) > by
    if not core.any():
        return core
    opened: Mask = ndimage.distance_transform_edt(~core) <= by
    return opened & mask


def _tidy(cells: Labels, nuclei: Labels, radius: float) -> Labels:
    """Return the cells without those too small for a white cell; each filled, smoothed and in one part."""
    tidy = np.zeros_like(cells)
    nuclear = np.bincount(nuclei.ravel(), minlength=int(cells.max()) + 1)
    for number, window in enumerate(ndimage.find_objects(cells), start=1):
        if window is None or nuclear[number] < SMALLEST_NUCLEUS * np.pi * radius**2:
            continue
        mask = largest_part(_opened(cells[window] == number, 0.3 * radius))
        target = tidy[window]
        target[mask & (target == 0)] = number
    return tidy


FINDER = Nucleus()
