"""What people decide about a study's cells, until one of them signs; signing makes a revision of its own.

Several people may review a study at once. Each decision names the version of the cell's decision that the person saw,
and who signs names the version of the whole review: a change made meanwhile by another is never overwritten unseen
(optimistic locking), it raises `Outdated`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from allpacs.domain.errors import Outdated
from allpacs.domain.findings import CellLabel
from allpacs.domain.review import CellReview, Decision, Review, Reviewer
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import RECEIVING, RevisionState

_REVIEW = schema.reviews.c
_CELL = schema.cell_decisions.c
_STUDY = schema.studies.c
_REVISION = schema.revisions.c

#: States of a revision whose report exists, so that a person can review it.
REVIEWABLE = (RevisionState.REPORTED, RevisionState.DELIVERED, RevisionState.ATTENTION)


@dataclass(frozen=True, slots=True)
class CellDecision:
    """What was decided about one cell, last.

    Attributes
    ----------
    version:
        1 for the first decision, and one more for each change.
    decision:
        None where it was taken back.
    label:
        The class a person gave, with `Decision.RELABELLED` only.
    """

    tracking_uid: str
    version: int
    decision: Decision | None
    label: CellLabel | None
    decided_by: str
    decided_at: float


@dataclass(frozen=True, slots=True)
class NewDecision:
    """A decision that is to be kept.

    Attributes
    ----------
    seen_version:
        Version of the cell's decision that the person saw; 0 where there was none.
    """

    tracking_uid: str
    decision: Decision | None
    label: CellLabel | None
    seen_version: int


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """The review of one revision.

    Attributes
    ----------
    version:
        Counts every change of decisions and comment; 0 where there was none yet.
    comment:
        What was written about the study; stays from one revision to the next until somebody changes it.
    signed_revision:
        The revision that was made by signing, or None.
    """

    study_uid: str
    revision: int
    version: int
    comment: str
    changed_by: str
    changed_at: float
    signed_at: float | None = None
    signed_by: str | None = None
    reviewer_name: str | None = None
    organisation: str | None = None
    signed_revision: int | None = None


class Reviews:
    """Decisions, comments and signatures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, study_uid: str, revision: int) -> ReviewRow:
        """Return the review of a revision; one of version 0 where nobody has begun it."""
        with self._database.reading() as connection:
            return _review(connection, study_uid, revision)

    def decisions(self, study_uid: str) -> dict[str, CellDecision]:
        """Return what was decided about the cells of a study, by tracking UID."""
        query = sa.select(schema.cell_decisions).where(_CELL.study_uid == study_uid)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.tracking_uid: _decision(row) for row in rows}

    def decide(
        self, study_uid: str, revision: int, decisions: Sequence[NewDecision], *, by: str, now: float
    ) -> tuple[ReviewRow, list[CellDecision], list[CellDecision]]:
        """Keep decisions, but those about cells that another person has decided on meanwhile.

        Returns
        -------
        review, kept, conflicts
            The review after it; the decisions kept; the other people's decisions that stand instead.

        Raises
        ------
        Outdated
            The revision is signed already, or is no longer the study's latest.
        """
        kept: list[CellDecision] = []
        conflicts: list[CellDecision] = []
        with self._database.writing() as connection:
            self._open(connection, study_uid, revision)
            for new in decisions:
                where = (_CELL.study_uid == study_uid, _CELL.tracking_uid == new.tracking_uid)
                before = connection.execute(sa.select(schema.cell_decisions).where(*where)).one_or_none()
                version = 0 if before is None else before.version
                # A decision that is sent again because its answer was lost is no conflict.
                same = before is not None and (before.decision, before.label) == (new.decision, new.label)
                if before is not None and (same or version != new.seen_version):
                    (kept if same else conflicts).append(_decision(before))
                    continue
                values = {
                    "version": version + 1,
                    "decision": new.decision,
                    "label": new.label,
                    "decided_by": by,
                    "decided_at": now,
                }
                if before is None:
                    connection.execute(
                        sa.insert(schema.cell_decisions).values(
                            study_uid=study_uid, tracking_uid=new.tracking_uid, **values
                        )
                    )
                else:
                    connection.execute(sa.update(schema.cell_decisions).where(*where).values(values))
                kept.append(CellDecision(new.tracking_uid, version + 1, new.decision, new.label, by, now))
            review = self._changed(connection, study_uid, revision, by, now)
            if kept:
                _record(connection, "cells_decided", study_uid, now, f"{len(kept)} cells by {by}")
        return review, kept, conflicts

    def write_comment(
        self, study_uid: str, revision: int, comment: str, *, seen: str, by: str, now: float
    ) -> ReviewRow:
        """Keep the comment on the study.

        Parameters
        ----------
        seen:
            The comment as the person saw it before they changed it.

        Raises
        ------
        Outdated
            Another person has written another one meanwhile; or as `decide`.
        """
        with self._database.writing() as connection:
            self._open(connection, study_uid, revision)
            before = _review(connection, study_uid, revision)
            if before.comment not in (seen, comment):
                raise Outdated(f"{before.changed_by} has changed the comment meanwhile")
            _record(connection, "comment_written", study_uid, now, f"by {by}")
            return self._changed(connection, study_uid, revision, by, now, comment=comment)

    def sign(self, study_uid: str, revision: int, *, seen_version: int, reviewer: Reviewer, by: str, now: float) -> int:
        """Sign a review: queue a new revision of the study whose report is written from it; return its number.

        Everything happens in one transaction: there is a signature, and with it the revision and its record in the
        audit trail, or there is nothing.

        Raises
        ------
        Outdated
            Another person has changed or signed the review meanwhile, or new images have come or are coming.
        """
        with self._database.writing() as connection:
            self._open(connection, study_uid, revision)
            review = _review(connection, study_uid, revision)
            if review.version != seen_version:
                raise Outdated(f"{review.changed_by} has changed this review since you loaded it: look at it again")
            if review.version == 0:
                review = self._changed(connection, study_uid, revision, by, now)
            signed = revision + 1
            decided = connection.execute(
                sa.select(_CELL.tracking_uid, _CELL.decision, _CELL.label)
                .where(_CELL.study_uid == study_uid, _CELL.decision.is_not(None))
                .order_by(_CELL.tracking_uid)
            ).all()
            counts = Counter(one.decision for one in decided)
            connection.execute(
                sa.update(schema.reviews)
                .where(_REVIEW.study_uid == study_uid, _REVIEW.revision == revision)
                .values(
                    signed_at=now,
                    signed_by=by,
                    reviewer_name=reviewer.name,
                    organisation=reviewer.organisation,
                    signed_revision=signed,
                    decisions=json.dumps([tuple(one) for one in decided]),
                    accepted=counts[Decision.ACCEPTED],
                    relabelled=counts[Decision.RELABELLED],
                    excluded=counts[Decision.EXCLUDED],
                )
            )
            connection.execute(
                sa.update(schema.studies)
                .where(_STUDY.study_uid == study_uid)
                .values(revision=signed, state=RevisionState.QUEUED)
            )
            digest = connection.scalar(
                sa.select(_REVISION.bundle_digest).where(
                    _REVISION.study_uid == study_uid, _REVISION.revision == revision
                )
            )
            connection.execute(
                sa.insert(schema.revisions).values(
                    study_uid=study_uid,
                    revision=signed,
                    state=RevisionState.QUEUED,
                    created_at=now,
                    attempts=1,
                    bundle_digest=digest,
                )
            )
            _carry_over(connection, study_uid, revision, signed)
            _record(connection, "review_signed", study_uid, now, f"revision {signed} by {by}")
        return signed

    def signed(self, study_uid: str, revision: int) -> Review | None:
        """Return the review that a revision was made from, or None where it was made by a reading."""
        query = sa.select(schema.reviews).where(_REVIEW.study_uid == study_uid, _REVIEW.signed_revision == revision)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Review(
            reviewer=Reviewer(row.reviewer_name, row.organisation, row.signed_by),
            signed_at=datetime.fromtimestamp(row.signed_at, UTC).astimezone(),
            cells=tuple(
                CellReview(tracking_uid, Decision(decision), None if label is None else CellLabel(label))
                for tracking_uid, decision, label in json.loads(row.decisions)
            ),
            comment=row.comment,
        )

    def made(self, study_uid: str, revision: int) -> ReviewRow | None:
        """Return the signed review that a revision was made from, or None where it was made by a reading."""
        query = sa.select(_REVIEW.revision).where(_REVIEW.study_uid == study_uid, _REVIEW.signed_revision == revision)
        with self._database.reading() as connection:
            reviewed = connection.scalar(query)
            return None if reviewed is None else _review(connection, study_uid, reviewed)

    def signed_before(self, study_uid: str, revision: int) -> ReviewRow | None:
        """Return the last signed review whose revision is an earlier one, or None where there is none."""
        earlier = (_REVIEW.study_uid == study_uid, _REVIEW.signed_revision < revision)
        query = sa.select(schema.reviews).where(*earlier).order_by(_REVIEW.signed_revision.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _row(row)

    def last_reviewer(self, by: str) -> Reviewer | None:
        """Return the name and organisation that a person signed with last, or None."""
        mine = schema.reviews.c
        query = sa.select(schema.reviews).where(mine.signed_by == by).order_by(mine.signed_at.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None or not row.reviewer_name or not row.organisation:
            return None
        return Reviewer(row.reviewer_name, row.organisation, by)

    def all_signed(self) -> list[ReviewRow]:
        """Return the signed reviews that no later one of the same study replaces, first signed first."""
        later = schema.reviews.alias("later").c
        replaced = sa.exists().where(
            later.study_uid == _REVIEW.study_uid, later.revision > _REVIEW.revision, later.signed_at.is_not(None)
        )
        query = sa.select(schema.reviews).where(_REVIEW.signed_at.is_not(None), ~replaced)
        with self._database.reading() as connection:
            return [_row(row) for row in connection.execute(query.order_by(_REVIEW.signed_at))]

    def count_signed(self) -> int:
        """Return how many signed reviews there are, replaced ones included."""
        query = sa.select(sa.func.count()).select_from(schema.reviews).where(_REVIEW.signed_at.is_not(None))
        with self._database.reading() as connection:
            return connection.scalar(query) or 0

    def signed_decisions(self, study_uid: str, revision: int) -> dict[str, CellDecision]:
        """Return what was decided about the cells of a signed review when it was signed, by tracking UID."""
        query = sa.select(schema.reviews).where(_REVIEW.study_uid == study_uid, _REVIEW.revision == revision)
        with self._database.reading() as connection:
            row = connection.execute(query).one()
        return {
            uid: CellDecision(uid, 0, Decision(decision), label and CellLabel(label), row.signed_by, row.signed_at)
            for uid, decision, label in json.loads(row.decisions or "[]")
        }

    def _open(self, connection: sa.Connection, study_uid: str, revision: int) -> None:
        """Hold the study's row, and make sure that its revision can be reviewed."""
        row = connection.execute(
            sa.select(_STUDY.revision, _STUDY.state).where(_STUDY.study_uid == study_uid).with_for_update()
        ).one_or_none()
        if row is None:
            raise Outdated("there is no such study any more")
        if row.state == RECEIVING:
            raise Outdated("more images of this study are arriving: it is read again, and then reviewed")
        review = _review(connection, study_uid, revision)
        if review.signed_at is not None:
            raise Outdated(f"{review.signed_by} has signed this review meanwhile")
        if row.revision != revision:
            raise Outdated("there is a newer report of this study: look at that one")
        if row.state not in REVIEWABLE:
            raise Outdated("the report of this study is not written yet")

    def _changed(
        self, connection: sa.Connection, study_uid: str, revision: int, by: str, now: float, comment: str | None = None
    ) -> ReviewRow:
        values = {"changed_by": by, "changed_at": now}
        if comment is not None:
            values["comment"] = comment
        before = {"comment": _review(connection, study_uid, revision).comment}
        insert = self._database.insert(schema.reviews)
        connection.execute(
            insert.values(study_uid=study_uid, revision=revision, version=1, **(before | values)).on_conflict_do_update(
                index_elements=[_REVIEW.study_uid, _REVIEW.revision],
                set_={"version": _REVIEW.version + 1, **values},
            )
        )
        return _review(connection, study_uid, revision)


def _record(connection: sa.Connection, event: str, study_uid: str, at: float, reason: str) -> None:
    """Write into the audit trail, in the transaction of what is recorded."""
    connection.execute(sa.insert(schema.audit).values(at=at, event=event, study_uid=study_uid, reason=reason))


def _carry_over(connection: sa.Connection, study_uid: str, revision: int, signed: int) -> None:
    """Give the signed revision the model's findings of the one that was reviewed."""
    table = schema.findings
    others = [column for column in table.columns if column.name != "revision"]
    connection.execute(
        sa.insert(table).from_select(
            [*(column.name for column in others), "revision"],
            sa.select(*others, sa.literal(signed)).where(table.c.study_uid == study_uid, table.c.revision == revision),
        )
    )


def _review(connection: sa.Connection, study_uid: str, revision: int) -> ReviewRow:
    """Return the review of a revision; where nobody has begun it, one of version 0 with the comment of the last one.

    The decisions are of the study's cells and stay with them; so does what was written about the study.
    """
    row = connection.execute(
        sa.select(schema.reviews)
        .where(_REVIEW.study_uid == study_uid, _REVIEW.revision <= revision)
        .order_by(_REVIEW.revision.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return ReviewRow(study_uid, revision, version=0, comment="", changed_by="", changed_at=0.0)
    if row.revision < revision:
        last = _row(row)
        return ReviewRow(study_uid, revision, 0, last.comment, last.changed_by, last.changed_at)
    return _row(row)


def _row(row: Any) -> ReviewRow:
    return ReviewRow(
        study_uid=row.study_uid,
        revision=row.revision,
        version=row.version,
        comment=row.comment,
        changed_by=row.changed_by,
        changed_at=row.changed_at,
        signed_at=row.signed_at,
        signed_by=row.signed_by,
        reviewer_name=row.reviewer_name,
        organisation=row.organisation,
        signed_revision=row.signed_revision,
    )


def _decision(row: sa.Row[Any]) -> CellDecision:
    return CellDecision(
        tracking_uid=row.tracking_uid,
        version=row.version,
        decision=None if row.decision is None else Decision(row.decision),
        label=None if row.label is None else CellLabel(row.label),
        decided_by=row.decided_by,
        decided_at=row.decided_at,
    )
