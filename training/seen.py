"""What a run's start was trained on, so that none of it is reported as a test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.figures import FEW, Pictures
from training.splits import TRAIN, image_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run's start was trained on.

    Attributes
    ----------
    images, labels:
        Source and file name of each image that it was trained on, and of each that its run knew, to its label there.
    digest:
        Of the split that says so; empty for a start that has seen none of our data sets.
    """

    images: Mapping[tuple[str, str], str] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], str] = field(default_factory=dict)
    digest: str = ""

    def mask(self, pictures: Pictures) -> NDArray[np.bool_]:
        """Return which pictures are of images that it has seen."""
        return np.array([(p["source"], p["image"]) in self.images for p in pictures], bool)


def seen_by(start: str) -> Seen | None:
    """Return what a start was trained on, by the split of the run that made it; None where no record lies beside it.

    Parameters
    ----------
    start:
        As ``run.json`` has it: ``none``, ``imagenet``, ``lite2``, ``pbc``, or the file of a run's fold.
    """
    from training.weights import weights_file

    if start in {"none", "imagenet", "lite2"}:
        return Seen()
    fold = weights_file(start).parent
    try:
        split = json.loads((fold.parent / "split.json").read_text())
        before = json.loads((fold.parent / "run.json").read_text())["start"]
        number = int(fold.name.removeprefix("fold"))
    except (OSError, ValueError):
        return None
    earlier = seen_by(before)
    if earlier is None:
        return None
    images, labels = dict(earlier.images), dict(earlier.labels)
    for name, parts in split["parts"].items():
        source, label, image = image_of(name)
        labels[source, image] = label
        if parts[number] == TRAIN:
            images[source, image] = label
    return Seen(images, labels, split["digest"])


@dataclass(frozen=True, slots=True)
class Told:
    """What rows say of the start.

    Attributes
    ----------
    tested, seen:
        Number of test pictures of a source and label, and of those that the start has seen.
    kept:
        Whether these are judged all the same.
    kinds:
        What each picture shows.
    """

    tested: Mapping[tuple[str, str], int]
    seen: Mapping[tuple[str, str], int]
    kept: bool
    kinds: Sequence[str]

    def of(self, source: str, labels: Sequence[str]) -> str:
        """Return what is added to a row of this source and these labels; nothing where the start has seen none."""
        tested = sum(self.tested.get((source, label), 0) for label in labels)
        seen = sum(self.seen.get((source, label), 0) for label in labels)
        if not seen:
            return ""
        if self.kept:
            return f", {seen} of them seen by the pre-training"
        few = ", too few to judge by" if tested - seen < FEW else ""
        return f", not seen by the pre-training ({seen} more were){few}"


def per_label(pictures: Pictures, places: NDArray[np.int64]) -> Counter[tuple[str, str]]:
    """Return how many of these pictures there are of each source and label."""
    return Counter((pictures[i]["source"], pictures[i]["label"]) for i in places)


def kinds_of(pictures: Pictures, labels: Mapping[tuple[str, str], str]) -> list[str]:
    """Return what each picture shows: as the run recorded it, or as the start's run calls the same image."""
    return [p.get("kind") or labels.get((p["source"], p["image"]), p["label"]) for p in pictures]


def seen_said(pictures: Pictures, tested: NDArray[np.int64], mask: NDArray[np.bool_], kept: bool) -> str:
    """Return how many test pictures the start has seen, and what was done with them; nothing where there are none."""
    per, seen = per_label(pictures, tested), per_label(pictures, tested[mask[tested]])
    said = ", ".join(f"{number} of {per[key]} test pictures {' '.join(key)}" for key, number in sorted(seen.items()))
    return f"{said}; {'judged all the same' if kept else 'left out'}" if said else ""
