"""What each report says, in numbers: lists of studies and trends over them need not read every cell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from allpacs.domain.findings import Fraction, ModelIdentity, StudyFindings
from allpacs.store import schema
from allpacs.store.database import Database

#: Bins of a score distribution: each five hundredths of probability wide.
SCORE_BINS = 20

_T = schema.outcomes.c
_REVIEW = schema.reviews.c


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the report of one revision says.

    Attributes
    ----------
    unreadable:
        Instances whose pixels could not be read.
    scores:
        Cells by probability of being a lymphoblast, in `SCORE_BINS` bins of equal width from 0 to 1.
    reasons:
        Cells that are not assessable, by `NotAssessable` value.
    """

    revision: int
    model: ModelIdentity
    decision_digest: str
    cells: int
    all: int
    hem: int
    unreadable: int
    fraction: Fraction | None
    scores: tuple[int, ...]
    reasons: dict[str, int]

    @property
    def not_assessable(self) -> int:
        """Cells without a label."""
        return self.cells - self.all - self.hem


@dataclass(frozen=True, slots=True)
class SummedOutcomes:
    """What one bundle said of one source's studies in one period, summed up.

    Attributes
    ----------
    period:
        Its place among the periods that were asked for.
    scores:
        As `Outcome.scores`.
    signed, signed_cells, changed:
        Studies among them that a person has signed, their cells, and how many of these were relabelled or excluded.
    """

    period: int
    source_ae: str
    model: ModelIdentity
    studies: int
    cells: int
    all: int
    hem: int
    scores: tuple[int, ...]
    signed: int
    signed_cells: int
    changed: int


class Outcomes:
    """Outcomes by revision; putting the same one again changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, findings: StudyFindings) -> None:
        """Keep what a report says."""
        fraction = findings.fraction
        values = {
            "model": json.dumps(asdict(findings.model)),
            "bundle_digest": findings.model.digest,
            "decision_digest": findings.decision_digest,
            "cells": findings.counts.total,
            "cells_all": findings.counts.all,
            "cells_hem": findings.counts.hem,
            "unreadable": sum(instance.fault is not None for instance in findings.instances),
            "fraction": None if fraction is None else fraction.value,
            "fraction_low": None if fraction is None else fraction.low,
            "fraction_high": None if fraction is None else fraction.high,
            "scores": json.dumps(_scores(findings)),
            "reasons": json.dumps(Counter(str(cell.reason) for cell in findings.cells if cell.reason is not None)),
        }
        insert = self._database.insert(schema.outcomes).values(
            study_uid=findings.study_uid, revision=findings.revision, **values
        )
        with self._database.writing() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=[_T.study_uid, _T.revision], set_=values))

    def get(self, study_uid: str, revision: int) -> Outcome | None:
        """Return the outcome of a revision, or None where it was not reported (or before outcomes were kept)."""
        query = sa.select(schema.outcomes).where(_T.study_uid == study_uid, _T.revision == revision)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _outcome(row)

    def summed(self, starts: Sequence[float]) -> list[SummedOutcomes]:
        """Return the outcomes of readings by period, source and bundle; not of those that a person made of them.

        Summed up by the database: thousands of studies cost a page no more than its own lines.

        Parameters
        ----------
        starts:
            When each period begins, ascending; it ends where the next begins, and the last one has no end.
        """
        revision = schema.revisions.c
        other = schema.reviews.alias("other").c
        made_by_review = sa.exists().where(other.study_uid == _T.study_uid, other.signed_revision == _T.revision)
        latest_first = reversed(list(enumerate(starts)))
        readings = (
            sa.select(
                sa.case(*((revision.created_at >= start, number) for number, start in latest_first)).label("period"),
                schema.studies.c.source_ae,
                schema.outcomes,
                (_REVIEW.relabelled + _REVIEW.excluded).label("changed"),  # none where nobody has signed
            )
            .join(schema.revisions, sa.and_(revision.study_uid == _T.study_uid, revision.revision == _T.revision))
            .join(schema.studies, schema.studies.c.study_uid == _T.study_uid)
            .outerjoin(
                schema.reviews,
                sa.and_(_REVIEW.study_uid == _T.study_uid, _REVIEW.revision == _T.revision),
            )
            .where(revision.created_at >= starts[0], ~made_by_review)
            .subquery()
        ).c
        by = (readings.period, readings.source_ae, readings.bundle_digest)
        query = (
            sa.select(
                *by,
                sa.func.min(readings.model).label("model"),
                sa.func.count().label("studies"),
                sa.func.sum(readings.cells).label("cells"),
                sa.func.sum(readings.cells_all).label("cells_all"),
                sa.func.sum(readings.cells_hem).label("cells_hem"),
                sa.func.aggregate_strings(readings.scores, ",").label("scores"),
                sa.func.count(readings.changed).label("signed"),
                sa.func.sum(sa.case((readings.changed.is_not(None), readings.cells), else_=0)).label("signed_cells"),
                sa.func.coalesce(sa.func.sum(readings.changed), 0).label("changed"),
            )
            .group_by(*by)
            .order_by(*by)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            SummedOutcomes(
                period=row.period,
                source_ae=row.source_ae,
                model=_model(row.model),
                studies=row.studies,
                cells=row.cells,
                all=row.cells_all,
                hem=row.cells_hem,
                scores=tuple(map(sum, zip(*json.loads(f"[{row.scores}]"), strict=True))),
                signed=row.signed,
                signed_cells=row.signed_cells,
                changed=row.changed,
            )
            for row in rows
        ]


def _scores(findings: StudyFindings) -> list[int]:
    bins = [0] * SCORE_BINS
    for cell in findings.cells:
        if cell.probability_all is not None:
            bins[min(SCORE_BINS - 1, int(cell.probability_all * SCORE_BINS))] += 1
    return bins


@lru_cache(maxsize=64)
def _model(written: str) -> ModelIdentity:
    return ModelIdentity(**json.loads(written))


def _outcome(row: sa.Row[Any]) -> Outcome:
    return Outcome(
        revision=row.revision,
        model=_model(row.model),
        decision_digest=row.decision_digest,
        cells=row.cells,
        all=row.cells_all,
        hem=row.cells_hem,
        unreadable=row.unreadable,
        fraction=None if row.fraction is None else Fraction(row.fraction, row.fraction_low, row.fraction_high),
        scores=tuple(json.loads(row.scores)),
        reasons=json.loads(row.reasons),
    )
