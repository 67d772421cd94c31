"""Logits to labels, labels to a study's counts and fraction. Pure: no model, no clock, no disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from allpacs.domain.counting import counts, fraction
from allpacs.domain.findings import (
    OTHER_TYPES,
    CellFinding,
    CellLabel,
    InstanceFindings,
    ModelIdentity,
    NotAssessable,
    StudyFindings,
)

#: Order of the network's outputs; a bundle that says otherwise is refused.
LABELS = (CellLabel.ALL.value, CellLabel.HEM.value)

#: An output for what is neither class and has no name.
OTHER = "OTHER"

#: The outputs that a bundle may have beside `LABELS`: what a cell is called that the model takes for one of them.
OTHER_OUTPUTS: Mapping[str, NotAssessable] = MappingProxyType(
    {OTHER: NotAssessable.OUT_OF_DISTRIBUTION} | {reason.value: reason for reason in OTHER_TYPES}
)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The operating point of a bundle, on the calibrated probability that a cell is a lymphoblast.

    Attributes
    ----------
    all_at_least:
        A cell with this probability or more is a lymphoblast.
    hem_at_most:
        A cell with this probability or less is a hematogone; between the two it is indeterminate.
    """

    all_at_least: float
    hem_at_most: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.hem_at_most <= self.all_at_least <= 1.0:
            raise ValueError(
                f"thresholds must satisfy 0 <= hem_at_most <= all_at_least <= 1, "
                f"not hem_at_most {self.hem_at_most}, all_at_least {self.all_at_least}"
            )


def probability_all(logits: NDArray[np.float32], temperature: float) -> float:
    """Return the calibrated probability, 0 to 1, that one cell is a lymphoblast.

    Softmax of the logits divided by the temperature (Guo et al. 2017, On Calibration of Modern Neural Networks).

    Parameters
    ----------
    logits:
        Shape (2,) or more: one row of the engine's answer, in the order of `LABELS`; what comes after is left aside.
    temperature:
        Above 0; 1 leaves the network's own probabilities.

    Returns
    -------
    float
        NaN where a logit is not finite.
    """
    score_all, score_hem = float(logits[0]), float(logits[1])
    margin = (score_hem - score_all) / temperature
    if not (math.isfinite(score_all) and math.isfinite(score_hem) and math.isfinite(margin)):
        return math.nan
    if margin > 0:  # keeps exp() from overflowing
        odds = math.exp(-margin)
        return odds / (1.0 + odds)
    return 1.0 / (1.0 + math.exp(margin))


def label(probability: float, thresholds: Thresholds) -> tuple[CellLabel | None, NotAssessable | None]:
    """Return the label of a cell, or why it carries none; exactly one of the two is None."""
    if not math.isfinite(probability):
        return None, NotAssessable.MODEL_FAILED
    if probability >= thresholds.all_at_least:
        return CellLabel.ALL, None
    if probability <= thresholds.hem_at_most:
        return CellLabel.HEM, None
    return None, NotAssessable.INDETERMINATE


def probability_other(logits: NDArray[np.float32]) -> float:
    """Return the probability, 0 to 1, that one cell is neither class; 0 for a network with two outputs.

    Parameters
    ----------
    logits:
        Shape (n,), n at least 2: one row of the engine's answer. `LABELS` come first, then `OTHER_OUTPUTS`.
    """
    if len(logits) <= len(LABELS):
        return 0.0
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    return float(shifted[len(LABELS) :].sum() / shifted.sum())


def other_kind(logits: NDArray[np.float32], outputs: Sequence[str]) -> NotAssessable:
    """Return which of a bundle's other outputs has the highest score.

    Parameters
    ----------
    logits:
        Shape (n,), n at least 3, in the order of `outputs`.
    """
    return OTHER_OUTPUTS[outputs[len(LABELS) + int(np.argmax(logits[len(LABELS) :]))]]


def judged(
    cell: CellFinding,
    logits: NDArray[np.float32],
    temperature: float,
    thresholds: Thresholds,
    other_at_most: float = 1.0,
    outputs: Sequence[str] = (*LABELS, OTHER),
) -> CellFinding:
    """Return the cell with what the model says of it.

    A cell that is neither class (its `probability_other` above `other_at_most`) is not assessable: its reason names
    the type that the model takes it for. It carries no probability, nor does a cell whose probability is not finite.
    """
    probability = probability_all(logits, temperature) if np.isfinite(logits).all() else math.nan
    if math.isfinite(probability) and probability_other(logits) > other_at_most:
        return replace(cell, label=None, reason=other_kind(logits, outputs), probability_all=None)
    found, reason = label(probability, thresholds)
    return replace(
        cell, label=found, reason=reason, probability_all=probability if math.isfinite(probability) else None
    )


def study_findings(
    study_uid: str,
    revision: int,
    model: ModelIdentity,
    decision_digest: str,
    instances: Sequence[InstanceFindings],
) -> StudyFindings:
    """Return the findings of a study; the order in which instances and cells were read makes no difference.

    Instances are ordered by series and SOP Instance UID, the cells of each by frame and cell number.
    """
    ordered = tuple(
        replace(instance, cells=tuple(sorted(instance.cells, key=lambda c: (c.frame_number, c.cell_number))))
        for instance in sorted(instances, key=lambda i: (i.series_uid, i.sop_instance_uid))
    )
    counted = counts(cell for instance in ordered for cell in instance.cells)
    return StudyFindings(
        study_uid=study_uid,
        revision=revision,
        model=model,
        decision_digest=decision_digest,
        instances=ordered,
        counts=counted,
        fraction=fraction(counted),
    )
