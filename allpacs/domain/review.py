"""What a person decided about a study's findings, and what the findings are after that.

    findings of the model ──► Review, signed by a person ──► findings as signed ──► verified SR, final FHIR report

The model's own answer is never lost: a reviewed cell keeps its probability, and the review keeps what the model had
called it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

from allpacs.domain.errors import InputFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, NotAssessable


class Decision(StrEnum):
    """What a person decided about one cell."""

    ACCEPTED = "accepted"  # looked at, and the model's answer stands
    RELABELLED = "relabelled"  # it is of the other class, or of a class where the model gave none
    EXCLUDED = "excluded"  # it shall not count: no white cell, damaged, not judgeable


@dataclass(frozen=True, slots=True)
class CellReview:
    """A decision about one cell. A cell without one was signed with the report and not looked at by itself.

    Attributes
    ----------
    label:
        The class that the person gave: with `Decision.RELABELLED` only, and then always.
    comment:
        What the person wrote about the cell, one line; may be empty.

    Raises
    ------
    InputFault
        A label is missing or too many.
    """

    tracking_uid: str
    decision: Decision
    label: CellLabel | None = None
    comment: str = ""

    def __post_init__(self) -> None:
        if (self.decision is Decision.RELABELLED) != (self.label is not None):
            raise InputFault("a cell that is relabelled has a new label, and no other cell has one")


@dataclass(frozen=True, slots=True)
class Reviewer:
    """The person who signs.

    Attributes
    ----------
    name:
        DICOM person name: family name, ``^``, given name; any script.
    organisation:
        Who the person signs for; a verified DICOM report must say it (PS3.3 C.17.2, Verifying Organization).
    identifier:
        What the organisation knows the person by (staff number, user name); may be empty.

    Raises
    ------
    InputFault
        A part is empty, longer than DICOM allows, or holds a control character; the message names it, not its content.
    """

    name: str
    organisation: str
    identifier: str = ""

    def __post_init__(self) -> None:
        for part in ("name", "organisation", "identifier"):
            text: str = getattr(self, part)
            if not text.strip() and part != "identifier":
                raise InputFault(f"the reviewer's {part} is missing")
            if len(text) > 64 or "\\" in text or not text.isprintable():
                raise InputFault(f"the reviewer's {part} is longer than 64 characters, or has a character that is none")


@dataclass(frozen=True, slots=True)
class Review:
    """A signed review of one revision's findings.

    Attributes
    ----------
    signed_at:
        With time zone.
    cells:
        The decisions, one a cell at most.
    comment:
        What the person wrote about the study; may be empty.
    by_cell:
        The decisions by tracking UID.

    Raises
    ------
    InputFault
        Two decisions about the same cell.
    """

    reviewer: Reviewer
    signed_at: datetime
    cells: tuple[CellReview, ...] = ()
    comment: str = ""
    by_cell: Mapping[str, CellReview] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.signed_at.utcoffset() is None:
            raise ValueError("signed_at needs a time zone")
        by_cell = MappingProxyType({one.tracking_uid: one for one in self.cells})
        if len(by_cell) != len(self.cells):
            raise InputFault("two decisions about the same cell")
        object.__setattr__(self, "by_cell", by_cell)

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits over everything that was signed: part of the signed results' UIDs."""
        person = self.reviewer
        decided = sorted((c.tracking_uid, c.decision, c.label or "", c.comment) for c in self.cells)
        signed = [person.name, person.organisation, person.identifier, self.comment, decided]
        signed.append(self.signed_at.astimezone(UTC).isoformat())
        return "sha256:" + hashlib.sha256(json.dumps(signed).encode()).hexdigest()

    def count(self, decision: Decision) -> int:
        """Return how many cells were so decided."""
        return sum(one.decision is decision for one in self.cells)

    def of(self, cells: Iterable[CellFinding]) -> Review:
        """Return the review with the decisions about these cells only: others are of cells that are no longer found."""
        known = {cell.tracking_uid for cell in cells}
        return replace(self, cells=tuple(one for one in self.cells if one.tracking_uid in known))

    def applied_to(self, instances: Sequence[InstanceFindings]) -> tuple[InstanceFindings, ...]:
        """Return the findings as signed: relabelled cells with their new class, excluded ones with none.

        Raises
        ------
        InputFault
            A decision is about a cell that is not there: the review is of another revision.
        """
        by_cell = self.by_cell
        known = {cell.tracking_uid for instance in instances for cell in instance.cells}
        if not known.issuperset(by_cell):
            raise InputFault("the review names a cell that the study does not have: it is of another revision")
        return tuple(
            replace(instance, cells=tuple(_decided(cell, by_cell.get(cell.tracking_uid)) for cell in instance.cells))
            for instance in instances
        )


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed review beside what the model had said, so that reports can mark what was changed.

    Attributes
    ----------
    by_model:
        Every cell as the model had it, by tracking UID.
    """

    review: Review
    by_model: Mapping[str, CellFinding]

    def decision(self, cell: CellFinding) -> CellReview | None:
        """Return what was decided about a cell, or None where it was not looked at by itself."""
        return self.review.by_cell.get(cell.tracking_uid)

    def changed(self, cell: CellFinding) -> CellFinding | None:
        """Return the cell as the model had it where the person changed its outcome, otherwise None."""
        before = self.by_model.get(cell.tracking_uid)
        differs = before is not None and (before.label, before.reason) != (cell.label, cell.reason)
        return before if differs else None


def _decided(cell: CellFinding, review: CellReview | None) -> CellFinding:
    match review:
        case CellReview(decision=Decision.RELABELLED, label=label):
            return replace(cell, label=label, reason=None)
        case CellReview(decision=Decision.EXCLUDED):
            return replace(cell, label=None, reason=NotAssessable.EXCLUDED)
        case _:
            return cell
