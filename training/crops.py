"""Samples to the pictures that a network sees, through the very preprocessing that serving uses; kept on disk."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from allpacs.cells.choose import central_cell, finder_for
from allpacs.cells.finders.whole_frame import WholeFrame
from allpacs.cells.scale import CONFLICT, choose_scale
from allpacs.classify.preprocess import Preprocessing, prepare
from allpacs.classify.quality import Quality, judge
from allpacs.domain.errors import InputFault
from allpacs.domain.geometry import BoxPx
from allpacs.domain.image import Cell, Frame, Scale, ScaleOrigin
from training.datasets import Sample

#: ``cell``: each cell cut out on black, as in serving; ``field``: the whole picture, scaled.
View = Literal["cell", "field"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Pictures as a network sees them, and the sample each comes from.

    Attributes
    ----------
    pixels:
        ``uint8`` of shape (n, input_px, input_px, 3).
    fit:
        Which of them pass serving's quality check; None where it was not asked.
    """

    pixels: Pixels
    samples: tuple[Sample, ...]
    fit: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def pick(self, indices: Sequence[int] | NDArray[np.int64]) -> Crops:
        """Return the pictures at these places."""
        return Crops(self.pixels[np.asarray(indices, int)], tuple(self.samples[int(i)] for i in indices))


def joined(parts: Sequence[Crops]) -> Crops:
    """Return several sets of pictures as one."""
    return Crops(np.concatenate([p.pixels for p in parts]), tuple(s for p in parts for s in p.samples))


def read_crops(
    samples: Sequence[Sample], view: View, contract: Preprocessing, cache: Path, quality: Quality | None = None
) -> Crops:
    """Return the pictures of all samples in which one was found, from the cache where it holds them.

    With `quality`, what serving's check says of each cell comes with them; of whole pictures it says nothing.

    The cache is named after the samples and the preprocessing. It belongs to a run folder, which so sees the same
    pictures after it was resumed; a new run reads the images anew, for the way of finding cells may have changed.

    Raises
    ------
    InputFault
        There are no samples, or an image cannot be read.
    """
    if not samples:
        raise InputFault("no images to train on or to test: look at --data and at the recipe's classes")
    facts = repr([(s.image.as_posix(), s.shows, s.spacing_um) for s in samples]) + view + repr(contract.to_dict())
    facts += repr(quality) if quality else ""
    title = "".join(c for c in samples[0].source if c.isalnum())
    path = cache / f"{title}-{view}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        found = list(_prepared(samples, view, contract, quality))
        if not found:
            raise InputFault(f"{samples[0].source}: no cell was found in any of {len(samples)} images")
        scratch = path.with_name(f".{os.getpid()}-{path.name}")
        index, pixels, fit = (list(column) for column in zip(*found, strict=True))
        np.savez(scratch, pixels=np.stack(pixels), index=np.array(index), fit=np.array(fit, bool))
        scratch.replace(path)
    with np.load(path) as stored:
        passed = stored["fit"] if quality else None
        return Crops(stored["pixels"], tuple(samples[i] for i in stored["index"]), passed)


def read_rgb(path: Path) -> Pixels:
    """Return an image of any size and mode as ``uint8`` RGB.

    Raises
    ------
    InputFault
        It cannot be read; the message names it.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as fault:
        raise InputFault(f"image cannot be read: {path}: {fault}") from fault


def _prepared(
    samples: Sequence[Sample], view: View, contract: Preprocessing, quality: Quality | None
) -> Iterator[tuple[int, Pixels, bool]]:
    """Yield each sample's place, its pictures, and whether they pass the check; say how far it is."""
    empty = 0
    for index, sample in enumerate(samples):
        if index and index % 1000 == 0:
            print(f"{sample.source}: {index} of {len(samples)} read, no cell in {empty}", file=sys.stderr, flush=True)
        pictures = _field(sample, contract) if view == "field" else _cells(sample, contract, quality)
        empty += not pictures
        for picture, fit in pictures:
            yield index, picture, fit
    print(f"{samples[0].source}: {len(samples)} read, no cell in {empty}", file=sys.stderr, flush=True)


def _field(sample: Sample, contract: Preprocessing) -> list[tuple[Pixels, bool]]:
    """Return the whole picture, scaled."""
    size = (contract.input_px, contract.input_px)
    return [(np.asarray(Image.fromarray(read_rgb(sample.image)).resize(size, Image.Resampling.BILINEAR)), True)]


def _cells(sample: Sample, contract: Preprocessing, quality: Quality | None) -> list[tuple[Pixels, bool]]:
    """Return the sample's cells, each cut out on black, and whether each passes the check."""
    rgb, cells, scale = _found(sample.image, sample.spacing_um)
    if sample.shows == "cells":
        chosen = [cell for cell in cells if not cell.touches_border]
    elif isinstance(sample.shows, str):
        middle = central_cell(Frame(1, rgb), cells)
        chosen = [] if middle is None else [middle]
    elif len(sample.shows) == 2:
        chosen = [cell for cell in cells if _holds(cell, *sample.shows)]
    else:
        chosen = _ellipse(rgb, sample.shows)
    if contract.needs_scale and scale is None:
        return []
    spacing_um = None if scale is None else scale.spacing_um
    return [
        (prepare(rgb, cell, contract, spacing_um), quality is None or judge(rgb, cell, quality) is None)
        for cell in chosen
    ]


@lru_cache(maxsize=1)
def _found(path: Path, spacing_um: float | None) -> tuple[Pixels, tuple[Cell, ...], Scale | None]:
    """Return an image, its cells and its scale. Several samples may share a field.

    Parameters
    ----------
    spacing_um:
        Pixel size of the data set's images: red cells that give another one by a factor of `CONFLICT` are not believed.
    """
    rgb = read_rgb(path)
    frame = Frame(1, rgb)
    finder = finder_for(frame)
    cells, measured = finder.find_and_measure(frame)
    known = None if spacing_um is None else Scale(spacing_um, ScaleOrigin.CONFIGURED)
    if known and measured and not 1 / CONFLICT <= measured.spacing_um / known.spacing_um <= CONFLICT:
        measured = None
    scale, _ = choose_scale(None, measured, known, segmented=finder.name == WholeFrame.name)
    return rgb, tuple(cells), scale


def _holds(cell: Cell, x: float, y: float) -> bool:
    """Whether the point lies on the cell's mask."""
    column, row = int(x) - cell.box.x, int(y) - cell.box.y
    return 0 <= row < cell.box.height and 0 <= column < cell.box.width and bool(cell.mask[row, column])


def _ellipse(rgb: Pixels, shows: tuple[float, ...]) -> list[Cell]:
    """Return the ellipse in a box as if it were a cell; nothing where the box is not within the image."""
    x, y, width, height = (int(v) for v in shows)
    if min(x, y) < 0 or min(width, height) < 8 or x + width > rgb.shape[1] or y + height > rgb.shape[0]:
        return []
    rows, columns = np.ogrid[:height, :width]
    mask = ((rows + 0.5) / height - 0.5) ** 2 + ((columns + 0.5) / width - 0.5) ** 2 <= 0.25
    box = BoxPx(x, y, width, height)
    return [Cell(box=box, outline=box.corners(), mask=mask)]
