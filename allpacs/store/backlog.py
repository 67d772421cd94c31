"""How much work there is, and how long the oldest of it has waited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database
from allpacs.store.records import ARRIVED, READ, DeliveryState

_STUDY = schema.studies.c
_REVISION = schema.revisions.c
_DELIVERY = schema.deliveries.c


@dataclass(frozen=True, slots=True)
class BacklogNow:
    """The counts of one moment.

    Attributes
    ----------
    studies:
        By state.
    oldest_unread_at:
        When the oldest revision was closed that has not been read; None where all have.
    deliveries:
        By destination and state.
    oldest_undelivered_at:
        By destination: when the oldest result was due there that has neither arrived nor been given up.
    """

    studies: Mapping[str, int]
    oldest_unread_at: float | None
    deliveries: Mapping[tuple[str, str], int]
    oldest_undelivered_at: Mapping[str, float]


class Backlog:
    """Counts what the index holds; a few small queries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> BacklogNow:
        """Return the counts of now.

        Raises
        ------
        StoreFault
            The index cannot be read.
        """
        studies = sa.select(_STUDY.state, sa.func.count()).group_by(_STUDY.state)
        unread = sa.select(sa.func.min(_REVISION.created_at)).where(_REVISION.state.not_in(READ))
        deliveries = sa.select(_DELIVERY.destination, _DELIVERY.state, sa.func.count()).group_by(
            _DELIVERY.destination, _DELIVERY.state
        )
        undelivered = (
            sa.select(_DELIVERY.destination, sa.func.min(_REVISION.created_at))
            .join(
                schema.revisions,
                sa.and_(_REVISION.study_uid == _DELIVERY.study_uid, _REVISION.revision == _DELIVERY.revision),
            )
            .where(_DELIVERY.state.not_in((*ARRIVED, DeliveryState.DEAD)))
            .group_by(_DELIVERY.destination)
        )
        with self._database.reading() as connection:
            return BacklogNow(
                studies=dict(connection.execute(studies).all()),
                oldest_unread_at=connection.scalar(unread),
                deliveries={(where, state): count for where, state, count in connection.execute(deliveries)},
                oldest_undelivered_at=dict(connection.execute(undelivered).all()),
            )
