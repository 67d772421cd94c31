"""Synthetic lymphoid cells and blood-smear fields, drawn for demonstrations and tests.

**Not real cells.** Nothing here was ever seen under a microscope, and nothing that a model says of such a picture means
anything. The pixels carry no caption, so that they pass through the pipeline as real ones do; whoever writes them to a
file says there that they are synthetic.

Drawn as light is absorbed: each stain adds optical density to a lit background, densities of what overlaps add up.
Sizes, colours and texture follow the C-NMC and BCCD pictures: a blast is larger, its outline less regular, its
chromatin fine, with nucleoli; a normal precursor is smaller and round, its chromatin in clumps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

#: Optical density (red, green, blue) that one unit of each stain adds.
CHROMATIN = np.array([1.05, 1.95, 0.90])
CYTOPLASM = np.array([0.75, 1.15, 0.50])
RED_CELL = np.array([0.12, 0.34, 0.29])
PLATELET = np.array([0.30, 0.42, 0.12])

#: How strongly each colour follows the texture of the chromatin: its pale places are reddish.
TEXTURE = np.array([1.7, 1.0, 0.9])

#: Colour of the lit background (sRGB, 0 to 255): dim as the segmented cells of C-NMC have it, bright as a field.
DIM_LIGHT = np.array([203.0, 197.0, 194.0])
FIELD_LIGHT = np.array([216.0, 220.0, 212.0])

#: Radius of a cell as a share of a single-cell picture's side: mean and deviation, for blasts and for normal cells.
BLAST_RADIUS = (0.258, 0.012)
NORMAL_RADIUS = (0.185, 0.010)

#: Radius of a red cell as a share of a field's shorter side, and of white cells in red cell radii.
RED_CELL_SHARE = 0.058
BLAST_RED_CELLS = (1.50, 0.10)
NORMAL_RED_CELLS = (1.15, 0.06)


@dataclass(frozen=True, slots=True)
class PlacedCell:
    """Where a white cell lies in a synthetic field, in pixels, and which kind it is."""

    x: float
    y: float
    radius_px: float
    blast: bool


def draw_cell(seed: int, blast: bool, size_px: int = 450) -> NDArray[np.uint8]:
    """Return one synthetic cell on black, as C-NMC shows its segmented cells.

    The same seed draws the same cell.

    Returns
    -------
    ``uint8`` sRGB array of shape (size_px, size_px, 3); 0 outside the cell.
    """
    rng = np.random.default_rng([seed, int(blast)])
    mean, deviation = BLAST_RADIUS if blast else NORMAL_RADIUS
    radius = size_px * float(np.clip(rng.normal(mean, deviation), mean - 2 * deviation, mean + 2 * deviation))
    middle = size_px / 2 + rng.normal(0.0, 0.008 * size_px, 2)
    density, mask = _white_cell(rng, (size_px, size_px), (middle[0], middle[1]), radius, blast)
    rgb = _develop(rng, density * rng.uniform(0.85, 1.08), DIM_LIGHT, blur_px=0.0035 * size_px)
    rgb[~mask] = 0
    return rgb


def draw_field(seed: int, cells: int, size: tuple[int, int] = (640, 480)) -> NDArray[np.uint8]:
    """Return a synthetic field of a blood smear: white cells apart from one another, red cells, platelets.

    Parameters
    ----------
    seed:
        The same seed draws the same field.
    cells:
        Number of white cells.
    size:
        Columns and rows in pixels.

    Returns
    -------
    ``uint8`` sRGB array of shape (rows, columns, 3).

    Raises
    ------
    ValueError
        So many cells do not fit.
    """
    columns, rows = size
    shape = (rows, columns)
    placed = place_cells(seed, cells, size)
    rng = np.random.default_rng([seed, cells, 1])
    red_radius = RED_CELL_SHARE * min(shape)
    density = np.zeros((rows, columns, 3))
    for place in _scattered(rng, shape, 1.75 * red_radius, placed):
        radius = red_radius * rng.uniform(0.88, 1.1)
        window, middle = _around(shape, place, 1.3 * radius)
        density[window] += _red_cell(rng, density[window].shape[:2], middle, radius)
    for place in _scattered(rng, shape, 7.0 * red_radius, placed):
        radius = red_radius * rng.uniform(0.18, 0.32)
        window, middle = _around(shape, place, 2.0 * radius)
        density[window] += _platelet(rng, density[window].shape[:2], middle, radius)
    for cell in placed:
        window, middle = _around(shape, (cell.x, cell.y), 1.5 * cell.radius_px)
        below = density[window]
        white, mask = _white_cell(rng, below.shape[:2], middle, cell.radius_px, cell.blast)
        below[mask] = 0.15 * below[mask] + 0.72 * white[mask]
    rows_from, columns_from = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    vignette = 0.05 * (rows_from**2 + columns_from**2)
    return _develop(rng, density + vignette[..., None], FIELD_LIGHT, blur_px=max(0.6, 0.04 * red_radius))


def place_cells(seed: int, cells: int, size: tuple[int, int] = (640, 480)) -> tuple[PlacedCell, ...]:
    """Return where `draw_field` draws its white cells, every second one a blast.

    Raises
    ------
    ValueError
        So many cells do not fit.
    """
    columns, rows = size
    rng = np.random.default_rng([seed, cells, 0])
    red_radius = RED_CELL_SHARE * min(size)
    placed: list[PlacedCell] = []
    for number in range(cells):
        blast = number % 2 == 0
        radius = red_radius * rng.normal(*(BLAST_RED_CELLS if blast else NORMAL_RED_CELLS))
        edge = 1.3 * radius
        for _ in range(500):
            x, y = rng.uniform(edge, columns - edge), rng.uniform(edge, rows - edge)
            if all(np.hypot(x - other.x, y - other.y) > 1.35 * (radius + other.radius_px) for other in placed):
                placed.append(PlacedCell(float(x), float(y), float(radius), blast))
                break
        else:
            raise ValueError(f"{cells} cells do not fit into {columns} x {rows} pixels")
    return tuple(placed)


def _develop(rng: np.random.Generator, density: Floats, light: Floats, blur_px: float) -> NDArray[np.uint8]:
    """Return what a camera makes of optical densities of shape (rows, columns, 3): blurred, with a little noise."""
    seen = ndimage.gaussian_filter(light * np.exp(-density), (blur_px, blur_px, 0))
    seen += ndimage.gaussian_filter(rng.normal(0.0, 1.6, seen.shape), (0.8, 0.8, 0))
    rgb: NDArray[np.uint8] = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return rgb


def _white_cell(
    rng: np.random.Generator, shape: tuple[int, int], middle: tuple[float, float], radius: float, blast: bool
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the optical density of a white cell, shape (rows, columns, 3), and the mask of the cell."""
    away, angle = _polar(shape, middle)
    waves = 5 if blast else 3
    outline = radius * _wobble(rng, angle, waves, 0.034 if blast else 0.018)
    # A segmented outline is a little ragged.
    outline *= _wobble(rng, angle, 30, 0.0016, lowest=7)
    mask = away < outline

    # The nucleus leaves a thin crescent of cytoplasm on one side.
    share = rng.uniform(0.90, 0.96) if blast else rng.uniform(0.93, 0.97)
    side = rng.uniform(0.0, 2 * np.pi)
    shift = radius * (1 - share) * 0.8
    nucleus_away, nucleus_angle = _polar(shape, (middle[0] + shift * np.cos(side), middle[1] + shift * np.sin(side)))
    rim = share * radius * _wobble(rng, nucleus_angle, waves, 0.020 if blast else 0.008)
    if blast and rng.random() < 0.5:
        cleft = np.exp(-(((nucleus_angle - rng.uniform(-np.pi, np.pi)) / 0.28) ** 2))
        rim = rim * (1 - rng.uniform(0.06, 0.16) * cleft)
    nucleus = _soft_edge(rim - nucleus_away, 0.05 * radius) * mask

    texture = _chromatin(rng, shape, radius, blast)
    # Thinner towards the edge, as a sphere flattened on glass is.
    thickness = 1.0 - 0.16 * np.clip(nucleus_away / rim, 0, 1) ** 6
    if blast:
        for _ in range(int(rng.integers(1, 4))):
            texture -= _nucleolus(rng, shape, middle, radius)
    chromatin = (nucleus * thickness)[..., None] * np.clip(1 + TEXTURE * (texture - 1)[..., None], 0.3, 1.8)
    cytoplasm = mask * (1 - 0.75 * nucleus) * (1 + 0.10 * _cloud(rng, shape, 0.08 * radius))
    return chromatin * CHROMATIN + cytoplasm[..., None] * CYTOPLASM, mask


def _chromatin(rng: np.random.Generator, shape: tuple[int, int], radius: float, blast: bool) -> Floats:
    """Return the relative density of chromatin: fine and even in a blast, in dark clumps in a normal cell."""
    broad = 0.05 * _cloud(rng, shape, 0.25 * radius)
    if blast:
        return 0.92 + broad + 0.055 * _cloud(rng, shape, 0.06 * radius) + 0.035 * _cloud(rng, shape, 0.025 * radius)
    clumps = np.tanh(1.4 * _cloud(rng, shape, 0.09 * radius))
    return 1.02 + broad + 0.10 * clumps + 0.03 * _cloud(rng, shape, 0.04 * radius)


def _nucleolus(rng: np.random.Generator, shape: tuple[int, int], middle: tuple[float, float], radius: float) -> Floats:
    """Return how much paler a nucleolus makes the chromatin: 0 to about 0.2."""
    turn, reach = rng.uniform(0.0, 2 * np.pi), radius * 0.6 * np.sqrt(rng.random())
    away, angle = _polar(shape, (middle[0] + reach * np.cos(turn), middle[1] + reach * np.sin(turn)))
    size = radius * rng.uniform(0.10, 0.17)
    paler: Floats = rng.uniform(0.10, 0.22) * _soft_edge(size * _wobble(rng, angle, 3, 0.06) - away, 0.35 * size)
    return paler


def _red_cell(rng: np.random.Generator, shape: tuple[int, int], middle: tuple[float, float], radius: float) -> Floats:
    """Return the optical density of a red cell: a disc, pale in the middle."""
    away, angle = _polar(shape, middle)
    outline = radius * _wobble(rng, angle, 3, 0.03)
    pallor = rng.uniform(0.35, 0.65) * np.exp(-((away / (rng.uniform(0.38, 0.5) * radius)) ** 4))
    disc = _soft_edge(outline - away, 0.05 * radius) * (1 - pallor)
    density: Floats = disc[..., None] * RED_CELL * rng.uniform(0.85, 1.2)
    return density


def _platelet(rng: np.random.Generator, shape: tuple[int, int], middle: tuple[float, float], radius: float) -> Floats:
    """Return the optical density of a platelet: small, granular, pale violet."""
    away, angle = _polar(shape, middle)
    disc = _soft_edge(radius * _wobble(rng, angle, 5, 0.10) - away, 0.3 * radius)
    density: Floats = (disc * (1 + 0.3 * _cloud(rng, shape, 0.25 * radius)))[..., None] * PLATELET
    return density


def _scattered(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, placed: tuple[PlacedCell, ...]
) -> list[tuple[float, float]]:
    """Return places about `spacing` apart, some a little too near one another, none under a white cell."""
    rows, columns = shape
    places: list[tuple[float, float]] = []
    for _ in range(int(1.6 * rows * columns / spacing**2)):
        x, y = rng.uniform(0, columns), rng.uniform(0, rows)
        near = spacing * rng.uniform(0.85, 1.15)
        if all(np.hypot(x - a, y - b) > near for a, b in places) and all(
            np.hypot(x - cell.x, y - cell.y) > cell.radius_px + 0.55 * spacing for cell in placed
        ):
            places.append((x, y))
    return places


def _around(
    shape: tuple[int, int], place: tuple[float, float], reach: float
) -> tuple[tuple[slice, slice], tuple[float, float]]:
    """Return the window of a frame within `reach` of (x, y), and (x, y) in that window."""
    left, top = (max(0, int(at - reach)) for at in place)
    window = (
        slice(top, min(shape[0], int(place[1] + reach) + 1)),
        slice(left, min(shape[1], int(place[0] + reach) + 1)),
    )
    return window, (place[0] - left, place[1] - top)


def _polar(shape: tuple[int, int], middle: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return each pixel's distance from (x, y) and its direction, -π to π."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    across, down = columns + 0.5 - middle[0], rows + 0.5 - middle[1]
    return np.hypot(across, down), np.arctan2(down, across)


def _wobble(rng: np.random.Generator, angle: Floats, waves: int, amount: float, lowest: int = 2) -> Floats:
    """Return a factor around 1 that varies with direction: waves from `lowest` on, weaker the shorter they are."""
    factor = np.ones_like(angle)
    for wave in range(lowest, lowest + waves):
        strength = amount * np.sqrt(lowest / wave)
        factor += rng.normal(0.0, strength) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return factor


def _soft_edge(inside: Floats, width: float) -> Floats:
    """Return 1 well inside, 0 well outside, in between over about `width` pixels."""
    return 1.0 / (1.0 + np.exp(-np.clip(4.0 * inside / max(width, 0.25), -40, 40)))


def _cloud(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> Floats:
    """Return smooth noise of mean 0 and deviation 1 with grains of about `grain_px`."""
    noise: Floats = ndimage.gaussian_filter(rng.standard_normal(shape), max(grain_px, 0.5))
    noise -= noise.mean()
    noise /= max(float(noise.std()), 1e-9)
    return noise
