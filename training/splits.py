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

#: C-NMC subject ids that share cells: byte-identical files under different names, near-identical pixels, or the same
#: cell at another focus or stain, found by its outline and looked at. Each group is one person.
LINKED_SUBJECTS = (
    ("1", "15", "16", "17", "18", "20", "21"),
    ("51", "55", "75", "78"),
    ("43", "44"),
    ("H2", "H4", "H5", "H6", "H7"),
    ("H10", "H3"),
    ("H14", "H24"),
)
_JOINED = {subject: "+".join(group) for group in LINKED_SUBJECTS for subject in group}

#: ``paper``: 90/5/5 of single images, which leaks patients; ``images``: k folds of single images; ``subject``: k folds
#: of subjects; ``official``: the data set's own training and test parts; ``source``: one fold a laboratory;
#: ``persons``: k folds of subjects without a validation part, and a last one that trains on everybody: it ships.
Kind = Literal["paper", "images", "subject", "persons", "official", "source"]
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
    samples: Sequence[Sample],
    kind: Kind,
    *,
    folds: int,
    seed: int,
    test_sources: Sequence[str] = (),
    dealt_by: Sequence[str] | None = None,
) -> Split:
    """Return the split of these samples.

    Parameters
    ----------
    dealt_by:
        What each sample is dealt to the folds by, where not by its label: see `subject_folds`.

    Raises
    ------
    InputFault
        It cannot be made of them: a class with too few subjects or images, or a subject on both sides.
    """
    if not samples:
        raise InputFault("a split of no images")
    dealt_by = [s.label for s in samples] if dealt_by is None else dealt_by
    try:
        if kind == "source":
            parts = _source(samples, dealt_by, test_sources)
        elif kind == "subject":
            parts = _turned(subject_folds(samples, folds, dealt_by), folds)
        elif kind == "persons":
            parts = _all_but_one(subject_folds(samples, folds, dealt_by), folds)
        elif kind == "official":
            parts = _official(samples, dealt_by, folds)
        else:
            parts = (_paper if kind == "paper" else _images)(samples, folds, seed)
    except ValueError as fault:
        raise InputFault(f"{kind} split: {fault}") from fault
    split = Split(kind, seed, tuple(_name(s) for s in samples), tuple(tuple(fold) for fold in parts))
    if kind in {"subject", "persons", "source", "official"}:
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
    """Return what a bootstrap draws: the joined subject, or the image where there is none, be it of many cells."""
    if isinstance(sample.shows, str):
        return group_of(sample) or _name(sample)
    return group_of(sample) or f"{sample.source}/{sample.image.name}"


def subject_folds(samples: Sequence[Sample], folds: int, dealt_by: Sequence[str] | None = None) -> list[int]:
    """Return each sample's fold, 0 to folds - 1; joined subjects stay whole and every fold holds every class.

    Subjects of a class are dealt to the folds from the largest to the smallest, to and fro, so that each fold has
    nearly as many subjects. A subject with cells of several classes is dealt once, before the others, and the folds
    that have fewer cells of a class by then come first. Samples without a subject are cut in the order of their file
    names into blocks: crops with neighbouring numbers often come from one smear. All cells of one image stay together.

    Parameters
    ----------
    dealt_by:
        Names to deal by instead of the labels: what goes by one label may be of several kinds, each of which is to be
        in every fold.

    Raises
    ------
    ValueError
        A class of a source has fewer groups than there are folds.
    """
    kinds = [s.label for s in samples] if dealt_by is None else dealt_by
    subjects = [group_of(s) for s in samples]
    classes: dict[str | None, set[str]] = {}
    for subject, kind in zip(subjects, kinds, strict=True):
        classes.setdefault(subject, set()).add(kind)
    dealt: dict[str, int] = {}
    placed: dict[str, int] = {}
    for source, kind in sorted({(s.source, k) for s, k in zip(samples, kinds, strict=True)}):
        members = [i for i, s in enumerate(samples) if (s.source, kinds[i]) == (source, kind)]
        names = sorted({samples[i].image.name for i in members if subjects[i] is None})
        block = {name: number * folds // len(names) for number, name in enumerate(names)}
        for i in members:
            if subjects[i] is None:
                placed.setdefault(samples[i].image.as_posix(), block[samples[i].image.name])
        groups = Counter(subject for i in members if (subject := subjects[i]) is not None)
        if not groups:
            continue
        there = Counter(dict.fromkeys(range(folds), 0))
        for group in groups.keys() & dealt.keys():
            there[dealt[group]] += groups[group]
        order = sorted(range(folds), key=lambda fold: there[fold])
        left = sorted(groups.keys() - dealt.keys(), key=lambda name: (-len(classes[name]), -groups[name], name))
        for number, group in enumerate(left):
            lap, step = divmod(number, folds)
            dealt[group] = order[step if lap % 2 == 0 else folds - 1 - step]
        if len({dealt[group] for group in groups}) < folds:
            raise ValueError(f"{source} {kind}: {len(groups)} subjects cannot fill {folds} folds")
    return [
        placed[s.image.as_posix()] if subject is None else dealt[subject]
        for s, subject in zip(samples, subjects, strict=True)
    ]


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


def _official(samples: Sequence[Sample], dealt_by: Sequence[str], folds: int) -> list[list[str]]:
    if not any(s.part == TEST for s in samples):
        raise ValueError("the data set names no test images, or they are not there")
    trained = [i for i, s in enumerate(samples) if s.part != TEST]
    return [_first_fold_validates(samples, dealt_by, trained, folds)]


def _source(samples: Sequence[Sample], dealt_by: Sequence[str], test_sources: Sequence[str]) -> list[list[str]]:
    folded = []
    for source in test_sources or sorted({s.source for s in samples}):
        trained = [i for i, s in enumerate(samples) if s.source != source]
        if len(trained) in {0, len(samples)}:
            raise ValueError(f"{source!r} must be one of several sources that are there")
        folded.append(_first_fold_validates(samples, dealt_by, trained, 5))
    return folded


def _first_fold_validates(
    samples: Sequence[Sample], dealt_by: Sequence[str], trained: Sequence[int], folds: int
) -> list[str]:
    """Return the parts where a fifth, say, of these samples is for validation, and all others are for the test."""
    parts = [TEST] * len(samples)
    numbers = subject_folds([samples[i] for i in trained], folds, [dealt_by[i] for i in trained])
    for place, fold in zip(trained, numbers, strict=True):
        parts[place] = VALID if fold == 0 else TRAIN
    return parts


def _turned(number: Sequence[int], folds: int) -> list[list[str]]:
    """Return k folds: one for the test, the next for validation, the others for training."""
    if folds < 3:
        raise ValueError("at least 3 folds: one for the test, one for validation, the others for training")
    return [
        [TEST if n == fold else VALID if n == (fold + 1) % folds else TRAIN for n in number] for fold in range(folds)
    ]


def _all_but_one(number: Sequence[int], folds: int) -> list[list[str]]:
    """Return k folds, one of them for the test and all others for training, and one that trains on all."""
    if folds < 2:
        raise ValueError("at least 2 folds: one for the test, the others for training")
    return [[TEST if n == fold else TRAIN for n in number] for fold in range(folds)] + [[TRAIN] * len(number)]


def image_of(name: str) -> tuple[str, str, str]:
    """Return source, label and file name of the image that a sample of `Split.names` is of, or is a cell of."""
    source, label, image = name.split("@")[0].split("/", 2)
    return source, label, image


def _name(sample: Sample) -> str:
    at = "" if isinstance(sample.shows, str) else f"@{','.join(f'{v:g}' for v in sample.shows)}"
    return f"{sample.source}/{sample.label}/{sample.image.name}{at}"
