"""Which bundle operators asked the workers to use instead of the configured one, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database

_T = schema.bundle_changes.c


class BundleState(StrEnum):
    """How far a change of the bundle has come."""

    ASKED = "asked"
    IN_USE = "in_use"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class BundleChange:
    """One request to use another bundle.

    Attributes
    ----------
    folder:
        Of the bundle, as every worker's machine sees it.
    configured:
        `model.bundle` when it was asked for: the request holds as long as the settings name no other.
    digest:
        Of the bundle that was taken into use.
    reason:
        Why it was refused.
    changed_at:
        Of its state; seconds since 1970, as is `asked_at`.
    """

    id: int
    folder: Path
    configured: Path
    state: BundleState
    digest: str | None
    reason: str | None
    asked_by: str
    asked_at: float
    changed_at: float


class Bundles:
    """Requests to use another bundle, in their order; workers ask for the one that holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, folder: Path, *, configured: Path, by: str, now: float) -> int:
        """Ask the workers to read new studies with another bundle; return the request's number.

        Parameters
        ----------
        configured:
            `model.bundle` of the settings.
        by:
            Who asks: an operating system's or the console's user.
        """
        with self._database.writing() as connection:
            made = connection.execute(
                sa.insert(schema.bundle_changes).values(
                    folder=str(folder),
                    configured=str(configured),
                    state=BundleState.ASKED,
                    asked_by=by[:64],
                    asked_at=now,
                    changed_at=now,
                )
            )
        return int(made.inserted_primary_key[0])  # type: ignore[index]  # one row was inserted

    def wanted(self, configured: Path) -> BundleChange | None:
        """Return the latest request that was not refused, None where the configured bundle is to be used."""
        query = sa.select(schema.bundle_changes).where(
            _T.configured == str(configured), _T.state != BundleState.REFUSED
        )
        found = self._select(query.order_by(_T.id.desc()).limit(1))
        return found[0] if found else None

    def in_use(self, configured: Path) -> Path:
        """Return the folder of the bundle that new studies are read with, as far as a worker has said."""
        wanted = self.wanted(configured)
        return wanted.folder if wanted is not None and wanted.state is BundleState.IN_USE else configured

    def latest(self, limit: int = 20) -> list[BundleChange]:
        """Return the last requests, newest first."""
        return self._select(sa.select(schema.bundle_changes).order_by(_T.id.desc()).limit(limit))

    def get(self, number: int) -> BundleChange:
        """Return one request by its number."""
        (found,) = self._select(sa.select(schema.bundle_changes).where(_T.id == number))
        return found

    def taken(self, number: int, digest: str, *, now: float) -> None:
        """Note that a worker reads new studies with the bundle."""
        self._set(number, {"state": BundleState.IN_USE, "digest": digest, "reason": None, "changed_at": now})

    def refused(self, number: int, reason: str, *, now: float) -> None:
        """Note that the bundle cannot be used; one that another worker has in use already stays."""
        self._set(number, {"state": BundleState.REFUSED, "reason": reason, "changed_at": now})

    def _set(self, number: int, values: dict[str, object]) -> None:
        with self._database.writing() as connection:
            connection.execute(
                sa.update(schema.bundle_changes).where(_T.id == number, _T.state == BundleState.ASKED).values(**values)
            )

    def _select(self, query: sa.Select[tuple[object, ...]]) -> list[BundleChange]:
        with self._database.reading() as connection:
            return [
                BundleChange(
                    id=row.id,
                    folder=Path(row.folder),
                    configured=Path(row.configured),
                    state=BundleState(row.state),
                    digest=row.digest,
                    reason=row.reason,
                    asked_by=row.asked_by,
                    asked_at=row.asked_at,
                    changed_at=row.changed_at,
                )
                for row in connection.execute(query)
            ]
