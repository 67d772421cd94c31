"""The schema the migrations build is the schema the code speaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from allpacs.domain.errors import StoreFault
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
