"""Real cells to train on: each data set read into the same few facts about each image."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from allpacs.cells.choose import central_cell, finder_for
from allpacs.cells.whole_frame import WholeFrame
from allpacs.classify.preprocess import Preprocessing, prepare
from allpacs.domain.errors import InputFault
from allpacs.domain.image import Cell, Frame

PBC_TYPES = (
    "basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one cell.

    Attributes
    ----------
    label:
        ``ALL``, ``HEM``, or a cell type of PBC.
    subject:
        Whose cell it is, or None where the data set does not say.
    """

    image: Path
    label: str
    subject: str | None
    source: str
    licence: str


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Preprocessed cells: ``uint8`` array (cells, input_px, input_px, 3), and the sample of each."""

    pixels: NDArray[np.uint8]
    samples: tuple[Sample, ...]

    def pick(self, indices: Sequence[int] | NDArray[np.int64]) -> Crops:
        """Return the cells at these places."""
        return Crops(self.pixels[np.asarray(indices, int)], tuple(self.samples[int(i)] for i in indices))


def cnmc(root: Path) -> list[Sample]:
    """Return C-NMC 2019 (CC BY 3.0): segmented cells on black, labels and subjects from the official names."""
    with (_existing(root / "cnmc") / "images.csv").open(newline="") as table:
        return [
            Sample(root / "cnmc" / row["path"], row["label"].upper(), row["subject"].upper(), "C-NMC 2019", "CC BY 3.0")
            for row in csv.DictReader(table)
        ]


def allidb2(root: Path) -> list[Sample]:
    """Return ALL-IDB2 (research use): single cells, the file name ends in 1 for a lymphoblast; subjects not given."""
    folder = _existing(root / "allidb2")
    found = [(path, re.fullmatch(r"Im\d+_([01])", path.stem)) for path in sorted(folder.glob("*/*.png"))]
    return [
        Sample(path, "ALL" if name[1] == "1" else "HEM", None, "ALL-IDB2", "research use, not redistributable")
        for path, name in found
        if name
    ]


def pbc(root: Path) -> list[Sample]:
    """Return PBC (CC BY 4.0): normal peripheral blood cells of eight types; subjects not given."""
    folder = _existing(root / "pbc")
    return [
        Sample(path, kind, None, "PBC Barcelona", "CC BY 4.0")
        for kind in PBC_TYPES
        for path in sorted((folder / kind).glob("*.jpg"))
    ]


READERS: dict[str, Callable[[Path], list[Sample]]] = {"cnmc": cnmc, "allidb2": allidb2, "pbc": pbc}


def find_cell(rgb: NDArray[np.uint8]) -> Cell | None:
    """Return the cell that an image of one cell shows: the whole picture on black, else the cell in the middle."""
    frame = Frame(1, rgb)
    if finder_for(frame).name == WholeFrame.name:
        return next(iter(WholeFrame().find(frame)), None)
    return central_cell(frame)


def read_crops(samples: Sequence[Sample], contract: Preprocessing, cache: Path) -> Crops:
    """Return the preprocessed cells of all images in which one was found, from the cache where it holds them.

    The cache is named after the samples and the preprocessing. It belongs to one run, which so sees the same crops
    after it was resumed; a new run reads the images anew, for the way of finding cells may have changed.
    """
    facts = repr([(s.image.as_posix(), s.label) for s in samples]) + repr(contract.to_dict())
    path = cache / f"{samples[0].source.split()[0]}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        found = list(_prepared(samples, contract))
        scratch = path.with_suffix(".part.npz")
        np.savez(scratch, pixels=np.stack([p for _, p in found]), index=np.array([i for i, _ in found]))
        scratch.replace(path)
    with np.load(path) as stored:
        pixels, index = stored["pixels"], stored["index"]
    return Crops(pixels, tuple(samples[i] for i in index))


def _prepared(samples: Sequence[Sample], contract: Preprocessing) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield place and crop of each sample in which a cell was found; say how far it is."""
    missed = 0
    for index, sample in enumerate(samples):
        if index % 1000 == 0:
            print(f"{sample.source}: {index} of {len(samples)} images read, no cell in {missed}", flush=True)
        with Image.open(sample.image) as image:
            rgb = np.asarray(image.convert("RGB"))
        cell = find_cell(rgb)
        if cell is None:
            missed += 1
        else:
            yield index, prepare(rgb, cell, contract)
    print(f"{samples[0].source}: {len(samples)} images read, no cell in {missed}", flush=True)


def facts_of(sample: Sample) -> dict[str, Any]:
    """Return the sample as plain values, its image by name only."""
    return {**asdict(sample), "image": sample.image.name}


def _existing(folder: Path) -> Path:
    """Return the folder.

    Raises
    ------
    InputFault
        It is not there.
    """
    if not folder.is_dir():
        raise InputFault(f"data set missing: {folder} is not a folder (--data names the one that holds it)")
    return folder
