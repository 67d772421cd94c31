"""The schema the migrations build is the schema the code speaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from allpacs.domain.errors import StoreFault
from allpacs.domain.instance import InstanceIdentity
from allpacs.store import schema
from allpacs.store.database import HEAD, MIGRATIONS, Database
from allpacs.store.store import Store

OPEN = "import sys; from pathlib import Path; from allpacs.store.store import Store; Store.open(Path(sys.argv[1]))"


def test_migrating_from_empty_gives_the_tables_of_the_code(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert sorted(sa.inspect(connection).get_table_names()) == sorted([*schema.metadata.tables, "alembic_version"])


def test_there_is_one_head_and_the_code_names_it() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_sqlite_is_durable_and_patient(tmp_path: Path) -> None:
    with Database.open(tmp_path).reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    assert Store.open(tmp_path).studies.latest() == []


def test_an_index_that_is_up_to_date_opens_without_loading_the_migrations(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    code = f"{OPEN}; assert 'alembic' not in sys.modules; assert 'pydantic' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_an_index_that_a_later_version_brought_forward_serves_this_one(tmp_path: Path) -> None:
    """As in a rolling upgrade: what is there already has only been added to."""
    store = Store.open(tmp_path)
    with store.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE revisions ADD COLUMN of_the_future VARCHAR(16)")
        connection.exec_driver_sql("CREATE TABLE futures (name VARCHAR(16) PRIMARY KEY)")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    again = Store.open(tmp_path)
    identity = InstanceIdentity("1.2.1.1", "1.2.840.10008.5.1.4.1.1.77.1.2", "1.2.840.10008.1.2.1", "1.2", "1.2.1")
    again.receiving.keep_instance(
        identity, b"meta", b"data", calling_ae="PACS", received_at=1.0, quiet_s=1.0, max_age_s=9.0
    )
    assert again.revisions.close_due(10.0) == [("1.2", 1)]
    assert [row.study_uid for row in again.revisions.ready()] == ["1.2"]
    with again.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"
    again.close()


def _tables(revision: str) -> dict[str, sa.Table]:
    """Return the tables that an index of a revision has."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    tables = sa.MetaData()
    with sa.create_engine("sqlite://").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables.reflect(connection)
    return dict(tables.tables)


def _breaks(before: dict[str, sa.Table], after: dict[str, sa.Table]) -> list[str]:
    """Return what of an index the code of the version before could not go on with."""
    broken = [name for name in before if name not in after]
    for name, table in before.items():
        new = after.get(name, table)
        if [one.name for one in new.primary_key] != [one.name for one in table.primary_key]:
            broken.append(f"{name}: primary key")
        if len(new.constraints) > len(table.constraints):
            broken.append(f"{name}: constraint")
        for column in table.columns:
            kept = new.columns.get(column.name)
            if kept is None or (str(kept.type), kept.nullable) != (str(column.type), column.nullable):
                broken.append(f"{name}.{column.name}")
        added = [column for column in new.columns if column.name not in table.columns]
        wanted = [column for column in added if not column.nullable and column.server_default is None]
        broken += [f"{name}.{column.name}: has to be given" for column in wanted]
    return broken


def test_migrations_only_add_so_that_the_version_before_can_go_on() -> None:
    """From 0007 on (docs/decisions/0015); what was before is no longer run."""
    assert _breaks(_tables("0007"), _tables(HEAD)) == []


def test_a_migration_that_does_more_is_noticed() -> None:
    before, after = _tables("0006"), _tables("0007")
    assert _breaks(before, after) == ["findings: primary key"]
    assert "console_sessions" in _breaks(_tables("0008"), after)
    assert "findings.part" in _breaks(after, before)


def test_a_store_that_cannot_be_opened_is_a_store_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFault):
        Store.open(tmp_path / "file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreFault):
        Store.open(tmp_path / "broken")


def test_faults_of_the_index_name_no_values(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(StoreFault) as fault:
        store.deliveries.queue("1.2.3", 1, ["secret"], now=1.0)  # there is no such revision
    assert "secret" not in str(fault.value)
