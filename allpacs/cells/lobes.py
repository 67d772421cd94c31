"""Which parts of nuclei belong to one cell: the lobes of a granulocyte do, touching blasts do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

Window = tuple[slice, slice]

#: A neck this wide, against the narrower of its two parts, is no neck.
WIDEST_NECK = 0.85

#: Share of its convex hull that a single nucleus without lobes fills; two that touch leave notches.
NUCLEUS_SOLIDITY = 0.92

#: In red cells; two nuclei that touch without a neck cover more together.
LARGEST_NUCLEUS = 6.0

#: Lobes of one nucleus together cover at most this many red cells; whole nuclei of two cells cover more.
LOBES_AREA = 1.5
LOBES_REACH = 1.5

#: With their cytoplasm, the lobes of one cell make a disc: of at most this diameter in red cell radii, filling these
#: shares of the circle around it and of its convex hull, itself filled with nucleus to no more than the last share.
CELL_NUCLEUS_AREA = 3.7
CELL_DIAMETER = 6.4
CELL_ROUNDNESS = 0.54
CELL_SOLIDITY = 0.84
CELL_NUCLEAR_SHARE = 0.62


#: Of round cells that touch, little of the smaller one's box lies within the other's; of a cell's lobes, most does.
NESTED = 0.5


def joined(
    parts: NDArray[np.int32], cells: NDArray[np.int32], distance: NDArray[np.float32], radius: float
) -> NDArray[np.int32]:
    """Return for each label the label of the cell it belongs to: an array to index with labels.

    Parameters
    ----------
    parts:
        Labels from 1 of the parts of nuclei.
    cells:
        The same labels, grown into the cytoplasm.
    distance:
        Distance of each pixel from the outside of the nuclei.
    radius:
        A red cell's, in pixels.
    """
    count = int(parts.max())
    disc = np.pi * radius**2
    areas = np.bincount(parts.ravel(), minlength=count + 1).astype(float)
    inside = parts > 0  # scipy sorts all that it is given
    peaks = ndimage.maximum(distance[inside], parts[inside], np.arange(count + 1))
    centres = np.array(ndimage.center_of_mass(parts > 0, parts, np.arange(1, count + 1))).reshape(count, 2)
    windows = ndimage.find_objects(cells, max_label=count)
    necks = _necks(parts, distance)
    touching = sorted((float(np.hypot(*(centres[a - 1] - centres[b - 1]))), a, b) for a, b in _necks(cells, distance))
    roots = np.arange(count + 1, dtype=np.int32)

    def one_cell(labels: list[int], window: Window) -> bool:
        area = sum(areas[label] for label in labels)
        return area < CELL_NUCLEUS_AREA * disc and _one_disc(
            np.isin(roots[cells[window]], labels), area, radius, cut=_cut(window, cells)
        )

    # A whole heap may be one granulocyte, although no two of its lobes look like one.
    for heap, window in _heaps(cells, windows):
        if len(heap) > 2 and one_cell(heap, window):
            roots[heap] = heap[0]
            areas[heap[0]] = areas[heap].sum()
            windows[heap[0] - 1] = window
    for apart, a, b in touching:
        first, second = int(roots[a]), int(roots[b])
        if first == second:
            continue
        area = areas[first] + areas[second]
        window = _around(windows[first - 1], windows[second - 1])
        no_neck = necks.get((a, b), 0.0) > WIDEST_NECK * min(peaks[a], peaks[b]) and (
            area < LOBES_AREA * disc
            or (area < LARGEST_NUCLEUS * disc and _convex(np.isin(roots[parts[window]], (first, second))))
        )
        lobes = apart < LOBES_REACH * radius and area < LOBES_AREA * disc
        within = area < CELL_NUCLEUS_AREA * disc and _nested(windows[first - 1], windows[second - 1]) > NESTED
        if no_neck or lobes or within or one_cell([first, second], window):
            roots[roots == second] = first
            areas[first] = area
            windows[first - 1] = window
    return roots


def _heaps(cells: NDArray[np.int32], windows: list[Window]) -> list[tuple[list[int], Window]]:
    """Return the labels that touch one another, heap by heap, and the window around each heap."""
    heaps, count = ndimage.label(cells)
    members: list[list[int]] = [[] for _ in range(count)]
    for label in range(1, len(windows) + 1):
        window = windows[label - 1]
        inside = heaps[window][cells[window] == label]
        members[int(inside[0]) - 1].append(label)
    return list(zip(members, ndimage.find_objects(heaps), strict=True))


def _necks(labels: NDArray[np.int32], distance: NDArray[np.float32]) -> dict[tuple[int, int], float]:
    """Return the greatest distance value along the line where two labels touch, for each two that do."""
    necks: dict[tuple[int, int], float] = {}
    for first, second, here, there in (
        (labels[:, :-1], labels[:, 1:], distance[:, :-1], distance[:, 1:]),
        (labels[:-1], labels[1:], distance[:-1], distance[1:]),
    ):
        touching = (first != second) & (first > 0) & (second > 0)
        width = np.minimum(here[touching], there[touching])
        for a, b, value in zip(first[touching].tolist(), second[touching].tolist(), width.tolist(), strict=True):
            pair = (min(a, b), max(a, b))
            necks[pair] = max(necks.get(pair, 0.0), value)
    return necks


def _nested(first: Window, second: Window) -> float:
    """Return which share of the smaller of two windows lies within the other."""
    common = [max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(first, second, strict=True)]
    sizes = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in (first, second)]
    return float(common[0] * common[1] / min(sizes))


def _around(first: Window, second: Window) -> Window:
    """Return the smallest window that holds both."""
    rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return rows, columns


def _cut(window: Window, frame: NDArray[np.int32]) -> bool:
    """Whether a window lies at the frame's edge."""
    return any(part.start == 0 or part.stop == size for part, size in zip(window, frame.shape, strict=True))


def _convex(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask has no notches."""
    hull = _hull(np.argwhere(mask))
    return hull is not None and np.count_nonzero(mask) > NUCLEUS_SOLIDITY * hull.volume


def _one_disc(mask: NDArray[np.bool_], nuclear_area: float, radius: float, *, cut: bool) -> bool:
    """Whether a mask is round enough, and not too large or too full of nucleus, for a single cell with lobes."""
    points = np.argwhere(mask)
    hull = _hull(points)
    if hull is None or nuclear_area > CELL_NUCLEAR_SHARE * len(points):
        return False
    diameter = float(pdist(points[hull.vertices]).max()) + 1.0
    solid = len(points) > CELL_SOLIDITY * hull.volume
    # The frame's edge makes a segment of a disc: what is left of the circle says nothing.
    full = cut or len(points) > CELL_ROUNDNESS * np.pi * (diameter / 2) ** 2
    return bool(solid and full and diameter < CELL_DIAMETER * radius)


def _hull(points: NDArray[np.intp]) -> ConvexHull | None:
    """Return the convex hull of points, or None where they lie on a line."""
    try:
        return ConvexHull(points)
    except QhullError:
        return None
