"""Cells to counts and a fraction with its interval; of a study, or of a part of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from statistics import NormalDist

from allpacs.domain.findings import CellFinding, CellLabel, Counts, Fraction, StudyFindings

_CONFIDENCE = 0.95


def counts(cells: Iterable[CellFinding]) -> Counts:
    """Return how many cells there are of each outcome."""
    labels = [cell.label for cell in cells]
    return Counts(all=labels.count(CellLabel.ALL), hem=labels.count(CellLabel.HEM), not_assessable=labels.count(None))


def fraction(counted: Counts) -> Fraction | None:
    """Return the share of lymphoblasts among assessable cells with its 95 % interval; None if no cell is assessable.

    Source: Wilson score interval without continuity correction (E. B. Wilson 1927). It treats cells as independent,
    so it describes only the sampling of these cells, not differences between patients or slides.
    """
    number = counted.assessable
    if number == 0:
        return None
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    value = counted.all / number
    middle = (value + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(value * (1 - value) / number + z * z / (4 * number * number))
    # Rounding may put an end of the interval a hair inside the value if every cell has the same label.
    return Fraction(value=value, low=max(0.0, min(middle - half, value)), high=min(1.0, max(middle + half, value)))


def part_of(findings: StudyFindings, images: Collection[str]) -> StudyFindings:
    """Return the findings of some of a study's images, with their own counts and fraction.

    Parameters
    ----------
    images:
        SOP Instance UIDs.
    """
    kept = tuple(instance for instance in findings.instances if instance.sop_instance_uid in images)
    counted = counts(cell for instance in kept for cell in instance.cells)
    return replace(findings, instances=kept, counts=counted, fraction=fraction(counted))
