"""Who is trained on and who is held out, by subject: a person's cells never stand on both sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.datasets import Sample, facts_of

#: C-NMC subjects that share byte-identical images under different names: one person each, or cells of one smear.
LINKED_SUBJECTS = (("20", "21"), ("51", "75", "78"), ("H2", "H4", "H5", "H6"), ("H10", "H3"))
_JOINED = {subject: "+".join(group) for group in LINKED_SUBJECTS for subject in group}


def group_of(sample: Sample) -> str | None:
    """Return the joined subject of a sample, or None where its data set names no subjects."""
    if sample.subject is None:
        return None
    return f"{sample.source}:{_JOINED.get(sample.subject, sample.subject)}"


def subject_folds(samples: Sequence[Sample], folds: int) -> list[int]:
    """Return each sample's fold, 0 to folds - 1; joined subjects stay whole and every fold holds every class.

    Subjects of a class are dealt to the folds from the largest to the smallest, to and fro, so that each fold has
    nearly as many subjects. Samples without a subject are cut in the order of their file names into blocks: crops
    with neighbouring numbers often come from one smear.

    Raises
    ------
    ValueError
        A class of a source has fewer groups than there are folds, or a subject would stand in two folds.
    """
    fold_of: dict[int, int] = {}
    for source, label in sorted({(s.source, s.label) for s in samples}):
        members = [i for i, s in enumerate(samples) if (s.source, s.label) == (source, label)]
        groups = Counter(group for i in members if (group := group_of(samples[i])) is not None)
        if not groups:
            ordered = sorted(members, key=lambda i: samples[i].image.name)
            fold_of.update({i: place * folds // len(ordered) for place, i in enumerate(ordered)})
            continue
        if len(groups) < folds:
            raise ValueError(f"{source} {label}: {len(groups)} subjects cannot fill {folds} folds")
        dealt = {}
        for place, group in enumerate(sorted(groups, key=lambda name: (-groups[name], name))):
            lap, step = divmod(place, folds)
            dealt[group] = step if lap % 2 == 0 else folds - 1 - step
        fold_of.update({i: dealt[str(group_of(samples[i]))] for i in members})
    chosen = [fold_of[i] for i in range(len(samples))]
    assert_disjoint(samples, chosen)
    return chosen


def assert_disjoint(samples: Sequence[Sample], folds: Sequence[int]) -> None:
    """Check that no joined subject stands in two folds, and that no image does.

    Raises
    ------
    ValueError
        One does; it is named.
    """
    seen: dict[str, int] = {}
    for sample, fold in zip(samples, folds, strict=True):
        for name in (group_of(sample), sample.image.as_posix()):
            if name is not None and seen.setdefault(name, fold) != fold:
                raise ValueError(f"{name} stands in folds {seen[name]} and {fold}")


def digest_of(samples: Sequence[Sample], folds: Sequence[int]) -> str:
    """Return a digest of which image stands in which fold: equal digests are equal splits."""
    rows: list[dict[str, Any]] = [
        {**facts_of(sample), "fold": fold} for sample, fold in zip(samples, folds, strict=True)
    ]
    rows.sort(key=lambda row: (row["source"], row["image"]))
    return "sha256:" + hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
