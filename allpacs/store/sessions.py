"""Sessions of the console that are open: a cookie whose session is not here any more lets nobody in."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa

from allpacs.store import schema
from allpacs.store.database import Database

_T = schema.console_sessions.c


class Sessions:
    """Who has signed in and not signed out; only a digest of what their cookies carry is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, identifier: str, *, now: float, longest_s: float) -> str:
        """Begin a session and return its identifier, 256 random bits; sessions older than `longest_s` are forgotten.

        Parameters
        ----------
        identifier:
            Of the person, as the organisation knows them.
        """
        session = secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.console_sessions).where(_T.opened_at < now - longest_s))
            connection.execute(
                sa.insert(schema.console_sessions).values(
                    digest=_digest(session), identifier=identifier[:64], opened_at=now
                )
            )
        return session

    def is_open(self, session: str) -> bool:
        """Whether the session was begun and not ended."""
        with self._database.reading() as connection:
            found = connection.execute(sa.select(_T.digest).where(_T.digest == _digest(session))).one_or_none()
        return found is not None

    def end(self, session: str) -> None:
        """End a session, for every copy of its cookie."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.console_sessions).where(_T.digest == _digest(session)))

    def end_all(self, identifier: str) -> int:
        """End every session of a person, and return how many there were."""
        with self._database.writing() as connection:
            return connection.execute(
                sa.delete(schema.console_sessions).where(_T.identifier == identifier[:64])
            ).rowcount


def _digest(session: str) -> str:
    # The identifier is random enough that a plain digest cannot be turned back.
    return hashlib.sha256(session.encode()).hexdigest()
