"""Who is trained on and who is held out. By subject, a person's cells never stand on both sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.errors import InputFault
from training.datasets import Sample

#: C-NMC subjects that share byte-identical images under different names: one person each, or cells of one smear.
LINKED_SUBJECTS = (("20", "21"), ("51", "75", "78"), ("H2", "H4", "H5", "H6"), ("H10", "H3"))
_JOINED = {subject: "+".join(group) for group in LINKED_SUBJECTS for subject in group}

#: ``paper``: 90/5/5 of single images, which leaks patients; ``images``: k folds of single images; ``subject``: k folds
#: of subjects; ``official``: the data set's own training and test parts; ``source``: one fold a laboratory.
Kind = Literal["paper", "images", "subject", "official", "source"]
TRAIN, VALID, TEST = "train", "valid", "test"

_TRAINED, _VALIDATED_OF_REST = 0.9, 0.5


@dataclass(frozen=True, slots=True)
class Split:
    """Folds; each gives every sample its part: ``train``, ``valid``, ``test``, or nothing where it is left out."""

    kind: str
    seed: int
    names: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Digest of which image stands in which part of which fold: equal digests are equal splits."""
        rows = sorted(zip(self.names, *self.folds, strict=True))
        return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def places(self, fold: int, part: str) -> NDArray[np.int64]:
        """Return the places of the samples that a fold gives this part."""
        return np.flatnonzero(np.array(self.folds[fold]) == part)

    def save(self, path: Path) -> None:
        """Write the split as JSON, its digest with it."""
        rows = {name: parts for name, *parts in zip(self.names, *self.folds, strict=True)}
        written = {"kind": self.kind, "seed": self.seed, "digest": self.digest, "parts": rows}
        path.write_text(json.dumps(written, indent=1))


def make_split(
    samples: Sequence[Sample], kind: Kind, *, folds: int, seed: int, test_sources: Sequence[str] = ()
) -> Split:
    """Return the split of these samples.

    Raises
    ------
    InputFault
        It cannot be made of them: a class with too few subjects or images, or a subject on both sides.
    """
    if not samples:
        raise InputFault("a split of no images")
    try:
        parts = _FUNCTIONS[kind](samples, folds, seed) if kind != "source" else _source(samples, test_sources, seed)
    except ValueError as fault:
        raise InputFault(f"{kind} split: {fault}") from fault
    split = Split(kind, seed, tuple(_name(s) for s in samples), tuple(tuple(fold) for fold in parts))
    if kind in {"subject", "source"}:
        for fold in split.folds:
            assert_disjoint(samples, fold)
    return split


def paper_parts(labels: Sequence[str], seed: int) -> list[str]:
    """Return the paper's parts: 90 % training, then 5 % validation and 5 % test, stratified by label.

    Of C-NMC's 10,661 training images these are 9,594, 533 and 534, as the paper has them.

    Source: paper section IV step 2 (frames), and figure 7 (support of the test: 364 ALL, 170 HEM).
    """
    from sklearn.model_selection import train_test_split

    parts = np.full(len(labels), TRAIN, object)
    named = np.asarray(labels)
    _, rest = train_test_split(np.arange(len(labels)), train_size=_TRAINED, stratify=named, random_state=seed)
    validated, tested = train_test_split(rest, train_size=_VALIDATED_OF_REST, stratify=named[rest], random_state=seed)
    parts[validated], parts[tested] = VALID, TEST
    return [str(part) for part in parts]


def balanced(labels: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the places that are left when the larger classes are cut, at random, to the size of the smallest.

    Source: paper section IV step 2, II (3,050 of each class are left).
    """
    random = np.random.default_rng(seed)
    named = np.asarray(labels)
    least = min(Counter(labels).values())
    kept = [random.choice(np.flatnonzero(named == label), least, replace=False) for label in sorted(set(labels))]
    return np.sort(np.concatenate(kept))


def group_of(sample: Sample) -> str | None:
    """Return the joined subject of a sample, or None where its data set names no subjects."""
    if sample.subject is None:
        return None
    return f"{sample.source}:{_JOINED.get(sample.subject, sample.subject)}"


def unit_of(sample: Sample) -> str:
    """Return what a bootstrap draws: the joined subject, or the image where there is none."""
    return group_of(sample) or _name(sample)


def subject_folds(samples: Sequence[Sample], folds: int) -> list[int]:
    """Return each sample's fold, 0 to folds - 1; joined subjects stay whole and every fold holds every class.

    Subjects of a class are dealt to the folds from the largest to the smallest, to and fro, so that each fold has
    nearly as many subjects. Samples without a subject are cut in the order of their file names into blocks: crops
    with neighbouring numbers often come from one smear. All cells of one image stay together.

    Raises
    ------
    ValueError
        A class of a source has fewer groups than there are folds.
    """
    fold_of: dict[int, int] = {}
    for source, label in sorted({(s.source, s.label) for s in samples}):
        members = [i for i, s in enumerate(samples) if (s.source, s.label) == (source, label)]
        groups = Counter(group for i in members if (group := group_of(samples[i])) is not None)
        if not groups:
            images = sorted({samples[i].image.name for i in members})
            place = {name: number * folds // len(images) for number, name in enumerate(images)}
            fold_of.update({i: place[samples[i].image.name] for i in members})
            continue
        if len(groups) < folds:
            raise ValueError(f"{source} {label}: {len(groups)} subjects cannot fill {folds} folds")
        dealt = {}
        for number, group in enumerate(sorted(groups, key=lambda name: (-groups[name], name))):
            lap, step = divmod(number, folds)
            dealt[group] = step if lap % 2 == 0 else folds - 1 - step
        fold_of.update({i: dealt[str(group_of(samples[i]))] for i in members})
    return [fold_of[i] for i in range(len(samples))]


def assert_disjoint(samples: Sequence[Sample], parts: Sequence[str]) -> None:
    """Check that no joined subject stands in two parts, and that no image does.

    Raises
    ------
    InputFault
        One does; it is named.
    """
    seen: dict[str, str] = {}
    for sample, part in zip(samples, parts, strict=True):
        for name in (group_of(sample), sample.image.as_posix()):
            if name is not None and seen.setdefault(name, part) != part:
                raise InputFault(f"{name} stands in {seen[name]} and in {part}")


def _paper(samples: Sequence[Sample], folds: int, seed: int) -> list[list[str]]:
    del folds
    trained = [i for i, s in enumerate(samples) if s.part != TEST]  # the paper leaves the official test aside
    parts = [""] * len(samples)
    for place, part in zip(trained, paper_parts([samples[i].label for i in trained], seed), strict=True):
        parts[place] = part
    return [parts]


def _images(samples: Sequence[Sample], folds: int, seed: int) -> list[list[str]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    labels, images = [s.label for s in samples], [s.image.as_posix() for s in samples]
    number = np.zeros(len(samples), int)
    for fold, (_, tested) in enumerate(folder.split(labels, labels, images)):
        number[tested] = fold
    return _turned([int(n) for n in number], folds)


def _subject(samples: Sequence[Sample], folds: int, seed: int) -> list[list[str]]:
    del seed
    return _turned(subject_folds(samples, folds), folds)


def _official(samples: Sequence[Sample], folds: int, seed: int) -> list[list[str]]:
    del seed
    if not any(s.part == TEST for s in samples):
        raise ValueError("the data set names no test images, or they are not there")
    trained = [i for i, s in enumerate(samples) if s.part != TEST]
    parts = [TEST] * len(samples)
    for place, fold in zip(trained, subject_folds([samples[i] for i in trained], folds), strict=True):
        parts[place] = VALID if fold == 0 else TRAIN
    return [parts]


def _source(samples: Sequence[Sample], test_sources: Sequence[str], seed: int) -> list[list[str]]:
    del seed
    folded = []
    for source in test_sources or sorted({s.source for s in samples}):
        trained = [i for i, s in enumerate(samples) if s.source != source]
        if len(trained) in {0, len(samples)}:
            raise ValueError(f"{source!r} must be one of several sources that are there")
        parts = [TEST] * len(samples)
        for place, fold in zip(trained, subject_folds([samples[i] for i in trained], 5), strict=True):
            parts[place] = VALID if fold == 0 else TRAIN
        folded.append(parts)
    return folded


def _turned(number: Sequence[int], folds: int) -> list[list[str]]:
    """Return k folds: one for the test, the next for validation, the others for training."""
    if folds < 3:
        raise ValueError("at least 3 folds: one for the test, one for validation, the others for training")
    return [
        [TEST if n == fold else VALID if n == (fold + 1) % folds else TRAIN for n in number] for fold in range(folds)
    ]


def _name(sample: Sample) -> str:
    at = "" if isinstance(sample.shows, str) else f"@{','.join(f'{v:g}' for v in sample.shows)}"
    return f"{sample.source}/{sample.label}/{sample.image.name}{at}"


_FUNCTIONS = {"paper": _paper, "images": _images, "subject": _subject, "official": _official}
