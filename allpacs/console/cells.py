"""Cells of one revision as the study page shows them: with what people decided, sorted and filtered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from allpacs.domain import counting
from allpacs.domain.findings import CellFinding, CellLabel, Counts, Fraction, InstanceFindings
from allpacs.domain.review import Decision
from allpacs.store.reviews import CellDecision
from allpacs.store.store import Store

#: Revisions whose findings stay in memory: what one person leafs through, and a few others.
_REMEMBERED = 16


class CellOrder(StrEnum):
    """What the gallery is sorted by."""

    PROBABILITY = "probability"
    UNCERTAINTY = "uncertainty"
    PLACE = "place"


class CellFilter(StrEnum):
    """Which cells the gallery shows."""

    ALL = "all"
    LYMPHOBLAST = "lymphoblast"
    HEMATOGONE = "hematogone"
    NOT_ASSESSABLE = "not-assessable"
    UNDECIDED = "undecided"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a study.

    Attributes
    ----------
    image:
        Number of its SOP Instance within the study, from 1.
    """

    tracking_uid: str
    image: int
    frames: int
    finding: CellFinding


@dataclass(frozen=True, slots=True)
class StudyCells:
    """All cells of one revision, in order of image, frame and cell."""

    study_uid: str
    revision: int
    instances: tuple[InstanceFindings, ...]
    cells: tuple[Cell, ...]
    by_uid: Mapping[str, Cell]

    def chosen(
        self,
        order: CellOrder,
        only: CellFilter,
        decisions: Mapping[str, CellDecision],
    ) -> list[Cell]:
        """Return the cells to show, in order; cells without a probability come last."""
        cells = [cell for cell in self.cells if _passes(cell, only, decisions.get(cell.tracking_uid))]
        match order:
            case CellOrder.PROBABILITY:
                cells.sort(
                    key=lambda cell: -1.0 if cell.finding.probability_all is None else cell.finding.probability_all
                )
                cells.reverse()
            case CellOrder.UNCERTAINTY:
                cells.sort(
                    key=lambda cell: (
                        2.0 if cell.finding.probability_all is None else abs(cell.finding.probability_all - 0.5)
                    )
                )
            case CellOrder.PLACE:
                pass
        return cells


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a review has come, and what the report would say if it were signed now."""

    decided: int
    changed: int
    excluded: int
    total: int
    counts: Counts
    fraction: Fraction | None


class CellsOfStudies:
    """Findings as cells, remembered for the studies that are being looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered: OrderedDict[tuple[str, int], StudyCells] = OrderedDict()
        self._lock = Lock()

    def of(self, study_uid: str, revision: int) -> StudyCells:
        """Return the cells of a revision whose report is written: they change no more."""
        key = (study_uid, revision)
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return self._remembered[key]
        made = _cells(study_uid, revision, self._store.findings.get(study_uid, revision))
        with self._lock:
            self._remembered[key] = made
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return made


def progress(cells: StudyCells, decisions: Mapping[str, CellDecision]) -> Progress:
    """Return what the decisions make of the cells."""
    labels: list[CellLabel | None] = []
    decided = changed = excluded = 0
    for cell in cells.cells:
        decision = decisions.get(cell.tracking_uid)
        if decision is not None and decision.decision is not None:
            decided += 1
            changed += is_change(cell.finding, decision)
            excluded += decision.decision is Decision.EXCLUDED
        labels.append(label_after(cell.finding, decision))
    counts = Counts(all=labels.count(CellLabel.ALL), hem=labels.count(CellLabel.HEM), not_assessable=labels.count(None))
    return Progress(decided, changed, excluded, len(labels), counts, counting.fraction(counts))


def label_after(finding: CellFinding, decision: CellDecision | None) -> CellLabel | None:
    """Return the class of a cell after a person has decided."""
    match decision.decision if decision is not None else None:
        case Decision.RELABELLED:
            return decision.label if decision is not None else None
        case Decision.EXCLUDED:
            return None
        case _:
            return finding.label


def is_change(finding: CellFinding, decision: CellDecision | None) -> bool:
    """Whether a decision makes another outcome of the cell than the model's."""
    if decision is None or decision.decision is None:
        return False
    return decision.decision is Decision.EXCLUDED or label_after(finding, decision) != finding.label


def _passes(cell: Cell, only: CellFilter, decision: CellDecision | None) -> bool:
    finding = cell.finding
    match only:
        case CellFilter.LYMPHOBLAST:
            return finding.label is CellLabel.ALL
        case CellFilter.HEMATOGONE:
            return finding.label is CellLabel.HEM
        case CellFilter.NOT_ASSESSABLE:
            return finding.label is None
        case CellFilter.UNDECIDED:
            return decision is None or decision.decision is None
        case CellFilter.CHANGED:
            return is_change(finding, decision)
        case _:
            return True


def _cells(study_uid: str, revision: int, instances: Sequence[InstanceFindings]) -> StudyCells:
    cells = tuple(
        Cell(finding.tracking_uid, image, instance.frames, finding)
        for image, instance in enumerate(instances, start=1)
        for finding in instance.cells
    )
    return StudyCells(study_uid, revision, tuple(instances), cells, {cell.tracking_uid: cell for cell in cells})
