"""What each report says, in numbers: lists of studies and trends over them need not read every cell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
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
class WatchedOutcome:
    """The outcome of one reading with what else a trend is drawn by; decisions are None until it is signed."""

    read_at: float
    source_ae: str
    outcome: Outcome
    relabelled: int | None
    excluded: int | None


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

    def since(self, at: float) -> Iterator[WatchedOutcome]:
        """Yield the outcomes of all readings from that time on, oldest first; not those that a person made of them."""
        revision = schema.revisions.c
        other = schema.reviews.alias("other").c
        made_by_review = sa.exists().where(other.study_uid == _T.study_uid, other.signed_revision == _T.revision)
        query = (
            sa.select(
                schema.outcomes,
                revision.created_at,
                schema.studies.c.source_ae,
                _REVIEW.relabelled,
                _REVIEW.excluded,
            )
            .join(schema.revisions, sa.and_(revision.study_uid == _T.study_uid, revision.revision == _T.revision))
            .join(schema.studies, schema.studies.c.study_uid == _T.study_uid)
            .outerjoin(
                schema.reviews,
                sa.and_(_REVIEW.study_uid == _T.study_uid, _REVIEW.revision == _T.revision),
            )
            .where(revision.created_at >= at, ~made_by_review)
            .order_by(revision.created_at)
        )
        with self._database.reading() as connection:
            for row in connection.execute(query):
                yield WatchedOutcome(row.created_at, row.source_ae, _outcome(row), row.relabelled, row.excluded)


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
