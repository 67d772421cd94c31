"""The engine behind the index: SQLite beside the spool, or PostgreSQL; opened, migrated and asked the same way."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,  # noqa: A004 - SQLAlchemy's own
)

from allpacs.domain.errors import StoreDamaged, StoreFault

#: Newest migration in ``migrations/versions``: an index that is there already opens without loading alembic.
HEAD: Final = "0001"

MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: What databases raise while they are locked, full, read only, restarting or away; anything else stays as it is.
_PASSING = (OperationalError, InterfaceError, InternalError)
_BUSY_TIMEOUT_MS = 30_000
_MIGRATION_LOCK = 0x0A11_9AC5  # PostgreSQL advisory lock, any constant of our own


class Database:
    """Transactions on the index; every database error leaves as `StoreFault`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(reading=True)

    @classmethod
    def open(cls, folder: Path, url: str | None = None) -> Database:
        """Open the index, bringing its schema up to date first; safe when several processes do so at once.

        Parameters
        ----------
        folder:
            Existing folder of this store; holds ``index.sqlite`` where no URL is given.
        url:
            SQLAlchemy URL of another database, for example ``postgresql+psycopg://…``.
        """
        with _faults():
            for name in ("open.lock", *(() if url else ("index.sqlite",))):
                private_file(folder / name)  # SQLite gives its other files the same mode
        engine = sa.create_engine(
            url or sa.URL.create("sqlite", database=str(folder / "index.sqlite")),
            hide_parameters=True,  # errors name no values
            pool_size=8,
            max_overflow=56,
        )
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _prepare_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        database = cls(engine)
        with _faults(), (folder / "open.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # switching to WAL does not wait for other processes
            database._migrate()
        return database

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the index."""
        with _faults(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are durable when the block ends, and undone when it raises."""
        with _faults(), self.engine.begin() as connection:
            yield connection

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT of this database that knows ON CONFLICT."""
        return postgresql.insert(table) if self.engine.dialect.name == "postgresql" else sqlite.insert(table)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _migrate(self) -> None:
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # kept in the file
        with self._reader.begin() as connection:
            found = _version(connection)
        if found is not None and found >= HEAD:
            # A later version's: it has only added to what this code speaks (docs/decisions/0015), as while workers of
            # both versions run.
            return
        with self.engine.begin() as connection:  # one transaction: all of the migration or nothing
            if self.engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            found = _version(connection)  # another process may have brought it forward meanwhile
            if found is None or found < HEAD:
                upgrade(connection)


def private_file(path: Path) -> None:
    """Make an empty file where there is none, and see to it that its owner alone can read it."""
    path.touch(mode=0o600)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema to `HEAD` within the connection's transaction."""
    from alembic import command  # slow to import, and needed once in the life of an index
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode NORMAL may lose the last commits with the power
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    # A writer takes the write lock at once: one that first reads cannot wait for the lock and would fail.
    connection.exec_driver_sql("BEGIN" if options.get("reading") else "BEGIN IMMEDIATE")


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        passing = isinstance(error, _PASSING) or error.connection_invalidated
        raise (StoreFault if passing else StoreDamaged)(f"index: {error.orig}") from error
    except TimeoutError as error:  # all connections are in use
        raise StoreFault(f"index: {error}") from error
    except SQLAlchemyError as error:
        raise StoreDamaged(f"index: {type(error).__name__}: {error}") from error
    except OSError as error:
        raise StoreFault(f"index: {error.strerror or error}") from error
