"""What an evaluation holds: pictures that were judged, and the figures of them, each with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pictures = list[dict[str, Any]]

#: Fewer pictures than this are said to be too few.
FEW = 20


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Pictures of the two classes that a model has not seen, one entry a picture.

    Attributes
    ----------
    raw, probability:
        Probability of ALL before and after temperature scaling.
    passed:
        Which of them the gate lets pass, and the quality check where it was asked: the others get no answer.
    """

    source: NDArray[np.str_]
    unit: NDArray[np.str_]
    truth: NDArray[np.bool_]
    raw: Floats
    probability: Floats
    all_at_least: Floats
    hem_at_most: Floats
    by_subject: NDArray[np.bool_]
    passed: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> Judged:
        """Return these pictures alone."""
        return Judged(*(getattr(self, name)[mask] for name in Judged.__slots__))


@dataclass(slots=True)
class Figures:
    """Everything that was measured; `rows` are of one figure each, with where it was measured and its interval."""

    what: str
    classes: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    classification_report: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    judged: Judged | None = None
    multi: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    run: Path | None = None
    types: Counter[tuple[str, str]] = field(default_factory=Counter)
    persons: list[dict[str, Any]] = field(default_factory=list)

    def add(self, on: str, figure: str, value: float, low: float | None = None, high: float | None = None) -> None:
        """Add one figure."""
        self.rows.append({"on": on, "figure": figure, "value": value, "low": low, "high": high})

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; figures that are not defined are null."""
        rows = [{k: _number(v) for k, v in row.items()} for row in self.rows]
        return {
            "what": self.what, "classes": self.classes, "figures": rows, "confusion": self.confusion,
            "classification_report": self.classification_report, "facts": self.facts,
            "types": [{"kind": kind, "called": name, "cells": n} for (kind, name), n in sorted(self.types.items())],
            "persons": self.persons,
        }  # fmt: skip

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        lines = ["| pictures | figure | value | 95 % interval |", "|---|---|---|---|"]
        return "\n".join([*lines, *(f"| {line_of(row)} |" for row in self.rows)])


def line_of(row: Mapping[str, Any]) -> str:
    """Return a figure's cells in a Markdown table: pictures, figure, value, interval; a dash for what is undefined."""
    low, high, value = row.get("low"), row.get("high"), row["value"]
    span = "–" if low is None or not np.isfinite(low) else f"{low:.3f} to {high:.3f}"
    return f"{row['on']} | {row['figure']} | {'–' if value is None else f'{value:.3f}'} | {span}"


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value
