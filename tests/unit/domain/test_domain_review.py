"""A review: what it may hold, and what the findings are after it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from allpacs.domain.errors import InputFault
from allpacs.domain.findings import CellFinding, CellLabel, InstanceFindings, NotAssessable
from allpacs.domain.geometry import BoxPx
from allpacs.domain.review import CellReview, Decision, Review, Reviewer, Signed

WHO = Reviewer("Haddad^Layla", "Taleb Hospital", "lhaddad")
AT = datetime(2026, 3, 5, 9, 30, tzinfo=UTC)


def cell(number: int, label: CellLabel | None, reason: NotAssessable | None = None) -> CellFinding:
    return CellFinding("1.2.3", 1, number, BoxPx(number, 0, 5, 5), (), label, 0.8, reason)


CELLS = (
    cell(1, CellLabel.ALL),
    cell(2, CellLabel.HEM),
    cell(3, None, NotAssessable.INDETERMINATE),
    cell(4, CellLabel.ALL),
)
INSTANCES = (InstanceFindings("1.2.3", "1.2.840.10008.5.1.4.1.1.77.1.2", "1.2", 1, CELLS),)
ACCEPTED = CellReview(CELLS[0].tracking_uid, Decision.ACCEPTED)
RELABELLED = CellReview(CELLS[2].tracking_uid, Decision.RELABELLED, CellLabel.HEM, "smooth chromatin")
EXCLUDED = CellReview(CELLS[3].tracking_uid, Decision.EXCLUDED)
REVIEW = Review(WHO, AT, (ACCEPTED, RELABELLED, EXCLUDED), "Good smear.")


def test_findings_follow_the_decisions_and_keep_what_the_model_saw() -> None:
    (after,) = REVIEW.applied_to(INSTANCES)
    assert [(c.label, c.reason) for c in after.cells] == [
        (CellLabel.ALL, None),
        (CellLabel.HEM, None),
        (CellLabel.HEM, None),
        (None, NotAssessable.EXCLUDED),
    ]
    assert [c.probability_all for c in after.cells] == [0.8] * 4
    assert [c.tracking_uid for c in after.cells] == [c.tracking_uid for c in CELLS]


def test_what_was_changed_is_known_and_what_was_not_is_not() -> None:
    signed = Signed(REVIEW, {c.tracking_uid: c for c in CELLS})
    (after,) = REVIEW.applied_to(INSTANCES)
    assert [signed.changed(c) for c in after.cells] == [None, None, CELLS[2], CELLS[3]]
    assert [signed.decision(c) for c in after.cells] == [ACCEPTED, None, RELABELLED, EXCLUDED]
    same = Review(WHO, AT, (CellReview(CELLS[0].tracking_uid, Decision.RELABELLED, CellLabel.ALL),))
    (kept,) = same.applied_to(INSTANCES)
    assert signed.changed(kept.cells[0]) is None, "the class that it had already is no change"


@pytest.mark.parametrize(
    "other",
    [
        replace(REVIEW, comment=""),
        replace(REVIEW, cells=REVIEW.cells[:2]),
        replace(REVIEW, cells=(*REVIEW.cells[:2], replace(EXCLUDED, comment="smudge"))),
        replace(REVIEW, signed_at=AT.replace(minute=31)),
        replace(REVIEW, reviewer=replace(WHO, identifier="")),
    ],
)
def test_digest_changes_with_anything_that_was_signed(other: Review) -> None:
    assert other.digest != REVIEW.digest


def test_digest_does_not_depend_on_the_order_of_decisions() -> None:
    assert replace(REVIEW, cells=REVIEW.cells[::-1]).digest == REVIEW.digest


def test_review_of_another_revision_is_refused() -> None:
    with pytest.raises(InputFault, match="another revision"):
        REVIEW.applied_to([replace(INSTANCES[0], cells=CELLS[:3])])


def test_what_cannot_be_signed_is_refused() -> None:
    with pytest.raises(InputFault, match="two decisions"):
        Review(WHO, AT, (ACCEPTED, ACCEPTED))
    with pytest.raises(ValueError, match="time zone"):
        Review(WHO, AT.replace(tzinfo=None))
    with pytest.raises(InputFault, match="new label"):
        CellReview("1.2", Decision.RELABELLED)
    with pytest.raises(InputFault, match="new label"):
        CellReview("1.2", Decision.ACCEPTED, CellLabel.ALL)
    for wrong in ({"name": " "}, {"organisation": ""}, {"name": "a\nb"}, {"identifier": "x" * 65}):
        with pytest.raises(InputFault, match="reviewer"):
            replace(WHO, **wrong)
