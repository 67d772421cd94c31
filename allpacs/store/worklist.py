"""The worklist: a page of studies with what their reports say, filtered, sorted and counted by the database."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from allpacs.domain.findings import Fraction
from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import RevisionState
from allpacs.store.spool import Spool

_STUDY = schema.studies.c
_OUTCOME = schema.outcomes.c
_OPEN = schema.reviews.alias("open_review")
_SIGNED = schema.reviews.alias("signed_review")


class Order(StrEnum):
    """What the worklist is sorted by."""

    RECEIVED = "received"
    FRACTION = "fraction"
    CELLS = "cells"
    STATE = "state"
    SOURCE = "source"


class ReviewFilter(StrEnum):
    """Which studies, by how far their review has come."""

    TO_REVIEW = "to-review"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class WorklistQuery:
    """What to show.

    Attributes
    ----------
    study_uids:
        Only these studies, or None.
    uid_part:
        … or those whose UID has this in it.
    to_review_first:
        Put studies that wait for a review before the others; each part is sorted by `order`.
    """

    states: frozenset[str] = frozenset()
    review: ReviewFilter | None = None
    source_ae: str | None = None
    study_uids: Collection[str] | None = None
    uid_part: str | None = None
    order: Order = Order.RECEIVED
    ascending: bool = False
    to_review_first: bool = False
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One study of the list.

    Attributes
    ----------
    cells, not_assessable, unreadable:
        None until its latest revision is reported.
    in_review_by:
        Who has begun to review it, or None.
    signed_by:
        Who has signed its latest report, or None.
    kept_here:
        Whether the report is written and no destination takes it: nothing is left to do but review.
    """

    study_uid: str
    source_ae: str
    state: str
    revision: int
    opened_at: float
    last_received_at: float
    cells: int | None
    not_assessable: int | None
    unreadable: int | None
    fraction: Fraction | None
    in_review_by: str | None
    signed_by: str | None
    kept_here: bool


@dataclass(frozen=True, slots=True)
class WorklistPage:
    """Part of the list.

    Attributes
    ----------
    total:
        Studies that match, on all pages.
    by_state:
        All studies by state, whatever is asked for.
    """

    rows: tuple[WorklistRow, ...]
    total: int
    by_state: dict[str, int]
    to_review: int
    sources: tuple[str, ...]


class Worklist:
    """Studies as a reviewer asks for them."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database = database
        self._spool = spool

    def page(self, query: WorklistQuery) -> WorklistPage:
        """Return one page."""
        joined = (
            sa.select(
                _STUDY.study_uid,
                _STUDY.source_ae,
                _STUDY.state,
                _STUDY.revision,
                _STUDY.opened_at,
                _STUDY.last_received_at,
                _OUTCOME.cells,
                (_OUTCOME.cells - _OUTCOME.cells_all - _OUTCOME.cells_hem).label("not_assessable"),
                _OUTCOME.unreadable,
                _OUTCOME.fraction,
                _OUTCOME.fraction_low,
                _OUTCOME.fraction_high,
                _OPEN.c.changed_by.label("in_review_by"),
                _SIGNED.c.signed_by,
                _has_deliveries().label("has_deliveries"),
            )
            .select_from(schema.studies)
            .outerjoin(
                schema.outcomes,
                sa.and_(_OUTCOME.study_uid == _STUDY.study_uid, _OUTCOME.revision == _STUDY.revision),
            )
            .outerjoin(
                _OPEN,
                sa.and_(
                    _OPEN.c.study_uid == _STUDY.study_uid,
                    _OPEN.c.revision == _STUDY.revision,
                    _OPEN.c.signed_at.is_(None),
                ),
            )
            .outerjoin(
                _SIGNED,
                sa.and_(_SIGNED.c.study_uid == _STUDY.study_uid, _SIGNED.c.signed_revision == _STUDY.revision),
            )
            .where(*_conditions(query))
        )
        order = _ORDERS[query.order]
        direction = order.asc() if query.ascending else order.desc()
        first = [sa.case((_to_review(), 0), else_=1)] if query.to_review_first else []
        listed = (
            joined.order_by(*first, direction.nulls_last(), _STUDY.last_received_at.desc(), _STUDY.study_uid)
            .limit(query.limit)
            .offset(query.offset)
        )
        with self._database.reading() as connection:
            rows = connection.execute(listed).all()
            total = connection.scalar(sa.select(sa.func.count()).select_from(joined.subquery()))
            states = connection.execute(sa.select(_STUDY.state, sa.func.count()).group_by(_STUDY.state)).all()
            to_review = connection.scalar(sa.select(sa.func.count()).select_from(schema.studies).where(_to_review()))
            sources = connection.scalars(sa.select(_STUDY.source_ae).distinct().order_by(_STUDY.source_ae)).all()
        return WorklistPage(
            rows=tuple(_row(row) for row in rows),
            total=total or 0,
            by_state=dict(states),
            to_review=to_review or 0,
            sources=tuple(sources),
        )

    def by_state(self) -> dict[str, int]:
        """Return how many studies are in which state."""
        query = sa.select(_STUDY.state, sa.func.count()).group_by(_STUDY.state)
        with self._database.reading() as connection:
            return dict(connection.execute(query).all())

    def study_uids(self) -> list[str]:
        """Return all studies, the latest first."""
        with self._database.reading() as connection:
            return list(connection.scalars(sa.select(_STUDY.study_uid).order_by(_STUDY.last_received_at.desc())))

    def one_instance_each(self, study_uids: Collection[str]) -> dict[str, Path]:
        """Return the stored file of each study's first instance by series and SOP Instance UID.

        It is the one that reports take the patient from: what a person sees when they sign is what is sent.
        """
        instance = schema.instances.c
        # By characters, as Python compares: the collation of a PostgreSQL database may pass over the dots.
        by_characters = "C" if self._database.engine.dialect.name == "postgresql" else "BINARY"
        order = (sa.collate(uid, by_characters) for uid in (instance.series_uid, instance.sop_instance_uid))
        placed = (
            sa.select(
                instance.study_uid,
                instance.path,
                sa.func.row_number().over(partition_by=instance.study_uid, order_by=[*order]).label("place"),
            )
            .where(instance.study_uid.in_(study_uids))
            .subquery()
        )
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(placed.c.study_uid, placed.c.path).where(placed.c.place == 1)).all()
        return {row.study_uid: self._spool.folder / row.path for row in rows}

    def path_of(self, sop_instance_uid: str) -> Path | None:
        """Return the stored file of an instance, or None where there is none of this UID."""
        instance = schema.instances.c
        with self._database.reading() as connection:
            path = connection.scalar(sa.select(instance.path).where(instance.sop_instance_uid == sop_instance_uid))
        return None if path is None else self._spool.folder / path

    def stamp(self) -> tuple[object, ...]:
        """Return a value that changes when what the list shows changes; cheap enough to be asked for every second."""
        with self._database.reading() as connection:
            states = connection.execute(
                sa.select(
                    _STUDY.state, sa.func.count(), sa.func.max(_STUDY.last_received_at), sa.func.sum(_STUDY.revision)
                )
                .group_by(_STUDY.state)
                .order_by(_STUDY.state)
            ).all()
            reviews = connection.execute(sa.select(sa.func.count(), sa.func.max(schema.reviews.c.changed_at))).one()
        return (*map(tuple, states), tuple(reviews))

    def study_stamp(self, study_uid: str) -> tuple[object, ...]:
        """Return a value that changes when what the page of one study shows changes."""
        delivery, review = schema.deliveries.c, schema.reviews.c
        with self._database.reading() as connection:
            study = connection.execute(
                sa.select(_STUDY.state, _STUDY.revision, _STUDY.last_received_at).where(_STUDY.study_uid == study_uid)
            ).one_or_none()
            sent = connection.execute(
                sa.select(sa.func.max(delivery.updated_at), sa.func.sum(delivery.attempts)).where(
                    delivery.study_uid == study_uid
                )
            ).one()
            reviewed = connection.execute(
                sa.select(sa.func.sum(review.version), sa.func.max(review.signed_at)).where(
                    review.study_uid == study_uid
                )
            ).one()
        return (study and tuple(study), tuple(sent), tuple(reviewed))


_ORDERS: dict[Order, sa.ColumnElement[object]] = {
    Order.RECEIVED: _STUDY.last_received_at,
    Order.FRACTION: _OUTCOME.fraction,
    Order.CELLS: _OUTCOME.cells,
    Order.STATE: _STUDY.state,
    Order.SOURCE: _STUDY.source_ae,
}


def _conditions(query: WorklistQuery) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query.states:
        conditions.append(_STUDY.state.in_(query.states))
    if query.source_ae is not None:
        conditions.append(_STUDY.source_ae == query.source_ae)
    if query.study_uids is not None or query.uid_part is not None:
        matches: list[sa.ColumnElement[bool]] = []
        if query.study_uids is not None:
            matches.append(_STUDY.study_uid.in_(query.study_uids))
        if query.uid_part is not None:
            matches.append(_STUDY.study_uid.contains(query.uid_part, autoescape=True))
        conditions.append(sa.or_(*matches))
    if query.review == ReviewFilter.SIGNED:
        conditions.append(_signed())
    elif query.review == ReviewFilter.TO_REVIEW:
        conditions.append(_to_review())
    return conditions


def _signed() -> sa.ColumnElement[bool]:
    review = schema.reviews.c
    return sa.exists().where(review.study_uid == _STUDY.study_uid, review.signed_revision == _STUDY.revision)


def _has_deliveries() -> sa.ColumnElement[bool]:
    delivery = schema.deliveries.c
    return sa.exists().where(delivery.study_uid == _STUDY.study_uid, delivery.revision == _STUDY.revision)


def _to_review() -> sa.ColumnElement[bool]:
    """Reported and not signed."""
    outcome = schema.outcomes.alias("reported").c
    reported = sa.exists().where(outcome.study_uid == _STUDY.study_uid, outcome.revision == _STUDY.revision)
    return sa.and_(reported, ~_signed())


def _row(row: Any) -> WorklistRow:
    fraction = None
    if row.fraction is not None:
        fraction = Fraction(row.fraction, row.fraction_low, row.fraction_high)
    return WorklistRow(
        study_uid=row.study_uid,
        source_ae=row.source_ae,
        state=row.state,
        revision=row.revision,
        opened_at=row.opened_at,
        last_received_at=row.last_received_at,
        cells=row.cells,
        not_assessable=row.not_assessable,
        unreadable=row.unreadable,
        fraction=fraction,
        in_review_by=row.in_review_by,
        signed_by=row.signed_by,
        kept_here=row.state == RevisionState.REPORTED and row.cells is not None and not row.has_deliveries,
    )
