"""White cells in a stained field, by their nuclei.

Nuclei take up the violet stain: they absorb green light much more than blue light. Red cells absorb both alike, or blue
more. The difference of the two optical densities, taken against the background's own colour, therefore tells nuclei
from red cells whatever the white balance and the lamp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from allpacs.cells.outline import cell_of
from allpacs.domain.image import Cell, Frame

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

#: Frames are searched at no more than this many pixels along their longer side.
WORKING_SIDE_PX = 720

#: Violet (difference of optical densities, green less blue) of a nucleus: at least the first; more than the second is
#: never asked for, so that pale nuclei beside dark ones are still found.
PALEST_NUCLEUS = 0.20
SURE_NUCLEUS = 0.42

#: Optical density in green of anything that is not background.
FAINTEST_OBJECT = 0.10


class Nucleus:
    """Finds each white cell of a field: its nucleus, then its cytoplasm as far as that can be told from the rest."""

    name = "nucleus"

    def find(self, frame: Frame) -> tuple[Cell, ...]:
        """Return the white cells, ordered by row then column of their boxes; empty where there are none."""
        rows, columns = frame.rgb.shape[:2]
        step = -(-max(rows, columns) // WORKING_SIDE_PX)
        if min(rows, columns) < 8 * step:
            return ()
        labels = _segment(_stain_of(_shrink(frame.rgb, step)))
        cells = []
        for number, window in enumerate(ndimage.find_objects(labels), start=1):
            if window is None:
                continue
            mask = labels[window] == number
            if step > 1:
                mask = mask.repeat(step, axis=0).repeat(step, axis=1)
            top, left = window[0].start * step, window[1].start * step
            mask = mask[: rows - top, : columns - left]
            cells.append(cell_of(mask, (top, left), (rows // step * step, columns // step * step)))
        return tuple(sorted(cells, key=lambda cell: (cell.box.y, cell.box.x)))


@dataclass(frozen=True, slots=True, eq=False)
class _Stain:
    """Optical densities of a field against its background, smoothed; each of shape (rows, columns)."""

    violet: Floats  # green less blue: nuclei
    green: Floats  # anything but background


def _shrink(rgb: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the image with each step × step block averaged; what is left over at the right and bottom is dropped."""
    if step == 1:
        return rgb
    rows, columns = rgb.shape[0] // step, rgb.shape[1] // step
    blocks = rgb[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    shrunk: NDArray[np.uint8] = blocks.mean(axis=(1, 3), dtype=np.float32).astype(np.uint8)
    return shrunk


def _stain_of(rgb: NDArray[np.uint8]) -> _Stain:
    """Return the optical densities of an image of shape (rows, columns, 3)."""
    green = rgb[..., 1]
    background = rgb[green >= np.percentile(green[::2, ::2], 85)]
    white = np.median(background, axis=0)
    # One table a channel: the logarithm of 256 values instead of one of every pixel.
    levels = np.log1p(np.arange(256, dtype=np.float32))
    od_green, od_blue = ((np.log1p(np.float32(white[c])) - levels)[rgb[..., c]] for c in (1, 2))
    return _Stain(
        violet=ndimage.gaussian_filter(od_green - od_blue, 1.0, output=np.float32),
        green=ndimage.gaussian_filter(od_green, 1.0, output=np.float32),
    )


def _segment(stain: _Stain) -> Labels:
    """Return the cells of a field as labels from 1; 0 elsewhere."""
    nothing = np.zeros(stain.violet.shape, np.int32)
    stained = stain.violet[stain.violet > PALEST_NUCLEUS / 2]
    if stained.size < 16 or float(np.ptp(stained)) < 1e-3:
        return nothing
    threshold = min(max(float(threshold_otsu(stained)), PALEST_NUCLEUS), SURE_NUCLEUS)
    nuclei = stain.violet > threshold
    radius = _cell_radius(stain, nuclei)
    nuclei = _without_specks(nuclei, 0.08 * np.pi * radius**2)
    if not nuclei.any():
        return nothing
    parts = _split(nuclei, radius)
    cells = _grow(parts, stain, threshold, radius)
    return _without_platelets(cells, parts, radius)


def _cell_radius(stain: _Stain, nuclei: Mask) -> float:
    """Return the radius of a red cell in working pixels: the ruler of the field.

    A small lymphocyte's nucleus is as large as a red cell. Where no red cells are seen, the nuclei are the ruler.
    """
    red = _peaks(
        ndimage.binary_fill_holes(stain.green > FAINTEST_OBJECT) & ~ndimage.binary_dilation(nuclei, iterations=3)
    )
    white = _peaks(ndimage.binary_fill_holes(nuclei))
    largest = float(white.max(initial=0.0))
    red = np.sort(red[(red > 0.3 * largest) & (red < 2.0 * largest)])
    if red.size < 3:
        return max(0.8 * largest, 2.0)
    # Weighted by area: the gaps, rims and slivers that the edges leave are many, but small.
    area = np.cumsum(red**2)
    return float(red[np.searchsorted(area, 0.5 * area[-1])])


def _peaks(mask: Mask) -> Floats:
    """Return the distances from the edge at the middles of a mask's parts."""
    distance = _distance(mask)
    places = peak_local_max(distance, min_distance=4, threshold_abs=3.0, exclude_border=False)
    peaks: Floats = distance[tuple(places.T)]
    return peaks


def _distance(mask: Mask) -> Floats:
    """Return each pixel's distance from the outside of the mask; the frame's edge is not an outside."""
    if mask.all():
        return np.full(mask.shape, float(min(mask.shape)) / 2, np.float32)
    distance: Floats = ndimage.distance_transform_edt(mask).astype(np.float32)
    return distance


def _without_specks(mask: Mask, smallest: float) -> Mask:
    """Return the mask without parts of fewer pixels than `smallest`, holes filled."""
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    filled: Mask = ndimage.binary_fill_holes(keep[labels])
    return filled


def _split(nuclei: Mask, radius: float) -> Labels:
    """Return one label a cell: touching nuclei apart, lobes of one nucleus together."""
    distance = ndimage.gaussian_filter(_distance(nuclei), max(0.5, 0.08 * radius))
    distance[~nuclei] = 0
    places = peak_local_max(
        distance, min_distance=max(2, int(0.3 * radius)), threshold_abs=0.15 * radius, exclude_border=False
    )
    markers = np.zeros(nuclei.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    parts: Labels = watershed(-distance, markers, mask=nuclei)
    return _merge_lobes(parts, distance, radius)


def _merge_lobes(parts: Labels, distance: Floats, radius: float) -> Labels:
    """Return the parts with those joined that belong to one cell.

    Two parts are one cell where the neck between them is nearly as wide as the smaller of them, or where they are so
    small that together they still fit into one cell.
    """
    windows = ndimage.find_objects(parts)
    count = len(windows)
    areas = np.bincount(parts.ravel(), minlength=count + 1).astype(float)
    peaks = ndimage.maximum(distance, parts, np.arange(count + 1))
    centres = np.array(ndimage.center_of_mass(parts > 0, parts, np.arange(1, count + 1))).reshape(count, 2)
    centres = np.vstack([[0.0, 0.0], centres])
    necks = _necks(parts, distance)
    parent = list(range(count + 1))

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    reach = 1.5 * radius
    near = [
        (float(np.hypot(*(centres[a] - centres[b]))), a, b)
        for a in range(1, count + 1)
        for b in range(a + 1, count + 1)
        if abs(centres[a][0] - centres[b][0]) < 2.5 * radius and abs(centres[a][1] - centres[b][1]) < 2.5 * radius
    ]
    for apart, a, b in sorted(near):
        first, second = root(a), root(b)
        if first == second:
            continue
        neck = necks.get((a, b), 0.0) / max(min(peaks[a], peaks[b]), 1e-6)
        lobes = apart < reach and areas[first] + areas[second] < 1.4 * np.pi * radius**2
        if neck > 0.75 or lobes:
            parent[second] = first
            areas[first] += areas[second]
    roots = np.array([root(label) for label in range(count + 1)], np.int32)
    merged: Labels = roots[parts]
    return merged


def _necks(parts: Labels, distance: Floats) -> dict[tuple[int, int], float]:
    """Return the half width of the neck between each two parts that touch."""
    necks: dict[tuple[int, int], float] = {}
    for first, second, here, there in (
        (parts[:, :-1], parts[:, 1:], distance[:, :-1], distance[:, 1:]),
        (parts[:-1], parts[1:], distance[:-1], distance[1:]),
    ):
        touching = (first != second) & (first > 0) & (second > 0)
        width = np.minimum(here[touching], there[touching])
        for a, b, value in zip(first[touching], second[touching], width, strict=True):
            pair = (min(int(a), int(b)), max(int(a), int(b)))
            necks[pair] = max(necks.get(pair, 0.0), float(value))
    return necks


def _grow(parts: Labels, stain: _Stain, threshold: float, radius: float) -> Labels:
    """Return the parts grown into their cytoplasm, as far as it can be told apart and a cell can reach."""
    away = ndimage.distance_transform_edt(parts == 0)
    others = (stain.green > FAINTEST_OBJECT) & (away > 1.5 * radius)
    red = stain.violet[others]
    # Cytoplasm is only a little more violet than red cells: ask for more than most of their pixels have.
    palest = float(np.percentile(red, 90)) if red.size > 100 else 0.05
    palest = min(max(palest, 0.04), 0.5 * threshold)
    cytoplasm = (stain.violet > palest) & (stain.green > FAINTEST_OBJECT) & (away < 0.8 * radius)
    field = ndimage.binary_opening(cytoplasm, iterations=max(1, round(0.12 * radius))) | (parts > 0)
    grown: Labels = watershed(away, parts, mask=field)
    return grown


def _without_platelets(cells: Labels, parts: Labels, radius: float) -> Labels:
    """Return the cells without those that are too small for a white cell, each filled, smoothed and in one part."""
    kept = np.zeros_like(cells)
    smooth = max(1, round(0.1 * radius))
    nuclei = np.bincount(parts.ravel(), minlength=int(cells.max()) + 1)
    for number, window in enumerate(ndimage.find_objects(cells), start=1):
        if window is None or nuclei[number] < 0.3 * np.pi * radius**2:
            continue
        mask = np.pad(cells[window] == number, smooth + 1)
        mask = ndimage.binary_fill_holes(ndimage.binary_opening(mask, iterations=smooth))
        inner = tuple(slice(smooth + 1, -smooth - 1) for _ in range(2))
        labels, count = ndimage.label(mask[inner])
        if count == 0:
            continue
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        target = kept[window]
        target[(labels == int(sizes.argmax())) & (target == 0)] = number
    return kept
