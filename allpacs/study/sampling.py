"""Which cells of a study are judged where there are more than can be: a simple random sample, the same every time.

Every cell has a *priority*: a number that looks random and follows from its tracking UID alone, which follows from its
SOP Instance, frame and place. The sample is the cells of the smallest priorities. So it can be drawn while cells are
still being found, in any order and twice over: each cell whose priority is among the smallest so far is kept, and what
others push out later is dropped in the end (bottom-k sampling; E. Cohen and H. Kaplan 2007).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.findings import CellFinding, InstanceFindings, Remark, RemarkKind

#: Part of what priorities are derived from. Another one draws other samples.
SEED = "allpacs-sample-1"


def priority(cell: CellFinding) -> int:
    """Return the cell's priority, 0 to 2^63 - 1."""
    digest = hashlib.sha256(f"{SEED} {cell.tracking_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def smallest(priorities: Iterable[int], size: int) -> NDArray[np.int64]:
    """Return the smallest priorities, each once, at most `size`, in order."""
    return np.unique(np.fromiter(priorities, np.int64))[:size]


def sampled(
    instances: Sequence[InstanceFindings], kept: NDArray[np.int64], size: int
) -> tuple[list[InstanceFindings], list[NDArray[np.bool_]]]:
    """Return the findings with the cells of the sample only, and for each instance which of its cells those are.

    Parameters
    ----------
    kept:
        The smallest priorities, in order, of all cells that are known, these included; a full sample if there are
        `size` of them.
    """
    highest = int(kept[-1]) if kept.size >= size else None
    chosen, masks = [], []
    for instance in instances:
        mask = np.array([highest is None or priority(cell) <= highest for cell in instance.cells], np.bool_)
        cells = tuple(cell for cell, is_in in zip(instance.cells, mask, strict=True) if is_in)
        left = instance if mask.all() else replace(instance, cells=cells, cells_found=instance.found)
        chosen.append(left)
        masks.append(mask)
    return chosen, masks


def final_sample(instances: Sequence[InstanceFindings], size: int) -> list[InstanceFindings]:
    """Return the findings of a study with at most `size` cells, those of smallest priority; a remark says so."""
    kept = smallest((priority(cell) for instance in instances for cell in instance.cells), size)
    chosen, _ = sampled(instances, kept, size)
    found = sum(instance.found for instance in chosen)
    remark = Remark(
        RemarkKind.SAMPLED,
        f"The study has {found} cells; a random sample of {size} was judged, drawn by the seed {SEED} and each cell's "
        "tracking UID. Counts and fraction are of the sample.",
    )
    return [
        one if one.cells_found is None else replace(one, remarks=tuple(dict.fromkeys((*one.remarks, remark))))
        for one in chosen
    ]
