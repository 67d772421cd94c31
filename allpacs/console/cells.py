"""Cells of one revision as the study page shows them: with what people decided, sorted and filtered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from allpacs.domain import counting
from allpacs.domain.findings import CellFinding, CellLabel, Counts, Fraction, InstanceFindings, NotAssessable
from allpacs.domain.review import Decision
from allpacs.domain.size import CellSize, cell_size
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
    UNCERTAIN = "uncertain"
    NOT_ASSESSABLE = "not-assessable"
    EXCLUDED = "excluded"
    UNDECIDED = "undecided"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a study.

    Attributes
    ----------
    image:
        Number of its SOP Instance within the study, from 1.
    spacing_um:
        Distance of the pixels of its image, µm; None if it is not known.
    size:
        Its area and diameter; None if the scale is not known.
    """

    tracking_uid: str
    image: int
    frames: int
    finding: CellFinding
    spacing_um: float | None = None
    size: CellSize | None = None


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
    """How far a review has come, and what the report would say if it were signed now.

    Attributes
    ----------
    uncertain, not_assessable, excluded:
        The cells without a class, each counted once: the model was between its thresholds; the cell cannot be judged
        or is of another type; the reviewer took it out.
    uncertain_left:
        Uncertain cells without a decision.
    by_filter:
        How many cells each filter of the gallery shows.
    """

    decided: int
    changed: int
    excluded: int
    uncertain: int
    uncertain_left: int
    not_assessable: int
    total: int
    counts: Counts
    fraction: Fraction | None
    by_filter: Mapping[CellFilter, int]


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
    decided = changed = uncertain_left = 0
    by_filter = dict.fromkeys(CellFilter, 0)
    for cell in cells.cells:
        decision = decisions.get(cell.tracking_uid)
        if decision is not None and decision.decision is not None:
            decided += 1
            changed += is_change(cell.finding, decision)
        elif cell.finding.reason is NotAssessable.INDETERMINATE:
            uncertain_left += 1
        for only in CellFilter:
            by_filter[only] += _passes(cell, only, decision)
        labels.append(label_after(cell.finding, decision))
    counts = Counts(all=labels.count(CellLabel.ALL), hem=labels.count(CellLabel.HEM), not_assessable=labels.count(None))
    return Progress(
        decided=decided,
        changed=changed,
        excluded=by_filter[CellFilter.EXCLUDED],
        uncertain=by_filter[CellFilter.UNCERTAIN],
        uncertain_left=uncertain_left,
        not_assessable=by_filter[CellFilter.NOT_ASSESSABLE],
        total=len(labels),
        counts=counts,
        fraction=counting.fraction(counts),
        by_filter=by_filter,
    )


def distribution(cells: StudyCells, decisions: Mapping[str, CellDecision], bins: int) -> list[tuple[int, int, int]]:
    """Return how many cells of each class have a probability within each of ``bins`` equal ranges from 0 to 1.

    Returns
    -------
    list of tuple
        Lymphoblasts, hematogones and cells without a class, after review; excluded cells are left out.
    """
    counted = [[0, 0, 0] for _ in range(bins)]
    for cell in cells.cells:
        decision = decisions.get(cell.tracking_uid)
        probability = cell.finding.probability_all
        if probability is None or (decision is not None and decision.decision is Decision.EXCLUDED):
            continue
        label = label_after(cell.finding, decision)
        place = 2 if label is None else (0 if label is CellLabel.ALL else 1)
        counted[min(int(probability * bins), bins - 1)][place] += 1
    return [(one[0], one[1], one[2]) for one in counted]


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
    excluded = decision is not None and decision.decision is Decision.EXCLUDED
    match only:
        case CellFilter.LYMPHOBLAST:
            return label_after(finding, decision) is CellLabel.ALL
        case CellFilter.HEMATOGONE:
            return label_after(finding, decision) is CellLabel.HEM
        case CellFilter.UNCERTAIN:
            without = label_after(finding, decision) is None and not excluded
            return without and finding.reason is NotAssessable.INDETERMINATE
        case CellFilter.NOT_ASSESSABLE:
            without = label_after(finding, decision) is None and not excluded
            return without and finding.reason is not NotAssessable.INDETERMINATE
        case CellFilter.EXCLUDED:
            return excluded
        case CellFilter.UNDECIDED:
            return decision is None or decision.decision is None
        case CellFilter.CHANGED:
            return is_change(finding, decision)
        case _:
            return True


def _cells(study_uid: str, revision: int, instances: Sequence[InstanceFindings]) -> StudyCells:
    cells = tuple(
        Cell(
            finding.tracking_uid,
            image,
            instance.frames,
            finding,
            instance.scale.spacing_um if instance.scale else None,
            cell_size(instance, finding),
        )
        for image, instance in enumerate(instances, start=1)
        for finding in instance.cells
    )
    return StudyCells(study_uid, revision, tuple(instances), cells, {cell.tracking_uid: cell for cell in cells})
