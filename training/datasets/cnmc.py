"""C-NMC 2019 (ISBI challenge, TCIA): one segmented cell on black an image, in the official tree.

The full set's facts (path, label, size and the first 16 hexadecimal digits of the SHA-256 of each of 15,114 files)
stand in ``facts/cnmc.csv.xz``, so that a download can be checked without anything else. They tell alterations by
accident, not by an adversary.
"""

from __future__ import annotations

import csv
import hashlib
import lzma
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from allpacs.domain.errors import InputFault
from training.datasets.dataset import DataSet, Sample, images_in

_FACTS = Path(__file__).parent.parent / "facts" / "cnmc.csv.xz"
_NAME = re.compile(r"UID_([Hh]?\d+)_\d+_\d+_(all|hem)")
_IMAGES = {".bmp", ".jpg", ".png"}


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one file of the full set; labels of the final test are not public."""

    path: str
    subset: str
    subject: str | None
    label: str | None
    size: int
    sha256_16: str


@dataclass(frozen=True, slots=True)
class Verification:
    """How a folder compares with the full set: paths, relative to it, each list ordered.

    Attributes
    ----------
    recoded:
        Files named as an official one is, in another format: the same picture perhaps, but not the same bytes.
    """

    intact: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    altered: tuple[str, ...]
    recoded: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every training and preliminary test file is there, as it was released."""
        return not (self.missing or self.altered)

    def summary(self) -> str:
        """Return one line for a person."""
        return (
            f"{len(self.intact):,} files intact, {len(self.missing):,} missing, {len(self.altered):,} altered, "
            f"{len(self.recoded):,} in another format, {len(self.extra):,} extra"
        )


@cache
def facts() -> tuple[Fact, ...]:
    """Return the facts of every file of the full set, ordered by path."""
    with lzma.open(_FACTS, "rt", encoding="ascii", newline="") as stream:
        return tuple(
            Fact(r["path"], r["subset"], r["subject"] or None, r["label"] or None, int(r["size"]), r["sha256_16"])
            for r in csv.DictReader(stream)
        )


def verify(folder: Path, *, final_test: bool = False) -> Verification:
    """Compare every file of a folder with the full set's facts.

    Parameters
    ----------
    final_test:
        Whether the final test files, whose labels are not public, must be there too.

    Raises
    ------
    InputFault
        The folder is missing.
    """
    if not folder.is_dir():
        raise InputFault(f"data set missing: {folder} is not a folder (--data names the one that holds it)")
    known = {fact.path: fact for fact in facts()}
    stems = {str(Path(path).with_suffix("")) for path in known}
    intact: list[str] = []
    altered: list[str] = []
    recoded, extra = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in _IMAGES):
        name = path.relative_to(folder).as_posix()
        if name in known:
            same = path.stat().st_size == known[name].size and _sha256_16(path) == known[name].sha256_16
            (intact if same else altered).append(name)
        elif str(Path(name).with_suffix("")) in stems:
            recoded.append(name)
        else:
            extra.append(name)
    there = {*intact, *altered}
    missing = [f.path for f in facts() if f.path not in there and (final_test or f.subset != "final_test")]
    return Verification(tuple(intact), tuple(missing), tuple(extra), tuple(altered), tuple(recoded))


def _read(folder: Path) -> list[Sample]:
    """Return the labelled images that are there: official names, also with another suffix."""
    prelim = {Path(f.path).stem: f for f in facts() if f.subset == "prelim_test"}
    samples = []
    for path in images_in(folder, "*_data/**/*.*"):
        if path.suffix.lower() not in _IMAGES:
            continue
        if name := _NAME.fullmatch(path.stem):
            subject, label, part = name[1].upper(), name[2].upper(), "train"
        elif "prelim" in path.parent.name and path.stem in prelim:
            fact = prelim[path.stem]
            subject, label, part = str(fact.subject).upper(), str(fact.label).upper(), "test"
        else:
            continue  # the final test: no labels
        samples.append(Sample(path, label, subject, SET.title, SET.licence, part=part))
    if not samples:
        raise InputFault(f"no file in {folder} is named as C-NMC's are (UID_<subject>_<image>_<cell>_<all or hem>)")
    return samples


def _sha256_16(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


SET = DataSet("cnmc", "C-NMC 2019", "TCIA doi 10.7937/tcia.2019.dc64i46r", "CC BY 3.0", _read)
