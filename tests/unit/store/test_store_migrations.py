"""The schema the migrations build is the schema the code speaks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
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
from allpacs.store import database, schema
from allpacs.store.database import HEAD, MIGRATIONS, Database
from allpacs.store.store import Store

OPEN = "import sys; from pathlib import Path; from allpacs.store.store import Store; Store.open(Path(sys.argv[1]))"


def test_migrating_from_empty_gives_the_tables_of_the_code(tmp_path: Path) -> None:
    opened = Database.open(tmp_path)
    with opened.engine.connect() as connection:
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


SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("revisions", sa.Column("urgent", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table("wards", sa.Column("name", sa.String(16), primary_key=True))
"""


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code be a later version's, with a second migration."""
    later = tmp_path / "later"
    shutil.copytree(MIGRATIONS, later)
    (later / "versions" / "0002_wards.py").write_text(SECOND, encoding="utf-8")
    monkeypatch.setattr(database, "MIGRATIONS", later)
    monkeypatch.setattr(database, "HEAD", "0002")


@pytest.fixture
def waiting(tmp_path: Path, database_url: str | None) -> Path:
    """The folder of a store that this version made, with a study that waits."""
    folder = tmp_path / "store"
    folder.mkdir()
    store = Store.open(folder, database_url)
    _keep_one(store)
    assert store.revisions.close_due(10.0) == [("1.2", 1)]
    store.close()
    return folder


def test_a_second_migration_brings_an_index_forward_with_what_waits_in_it(
    waiting: Path, second: None, database_url: str | None
) -> None:
    store = Store.open(waiting, database_url)
    assert [row.study_uid for row in store.revisions.ready()] == ["1.2"]
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0002"
        assert connection.exec_driver_sql("SELECT urgent FROM revisions").scalar() in {0}
        assert connection.exec_driver_sql("SELECT count(*) FROM wards").scalar() == 0
    store.close()


def test_a_migration_that_fails_leaves_the_index_as_it_was(
    waiting: Path, second: None, database_url: str | None
) -> None:
    path = database.MIGRATIONS / "versions" / "0002_wards.py"
    good = path.read_text("utf-8")
    path.write_text(good + '    op.drop_table("nowhere")\n', encoding="utf-8")
    with pytest.raises(StoreFault):
        Store.open(waiting, database_url)
    path.write_text(good, encoding="utf-8")
    store = Store.open(waiting, database_url)
    assert [row.study_uid for row in store.revisions.ready()] == ["1.2"]
    store.close()


def test_an_index_that_a_later_version_brought_forward_serves_this_one(
    waiting: Path, second: None, monkeypatch: pytest.MonkeyPatch, database_url: str | None
) -> None:
    """As in a rolling upgrade: what is there already has only been added to."""
    Store.open(waiting, database_url).close()
    monkeypatch.undo()
    again = Store.open(waiting, database_url)
    _keep_one(again, "1.3")
    assert again.revisions.close_due(10.0) == [("1.3", 1)]
    assert sorted(row.study_uid for row in again.revisions.ready()) == ["1.2", "1.3"]
    with again.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0002"
    again.close()


def _keep_one(store: Store, study_uid: str = "1.2") -> None:
    """Put one instance of a study into a store."""
    identity = InstanceIdentity(
        f"{study_uid}.1.1", "1.2.840.10008.5.1.4.1.1.77.1.2", "1.2.840.10008.1.2.1", study_uid, f"{study_uid}.1"
    )
    store.receiving.keep_instance(
        identity, b"meta", b"data", calling_ae="PACS", received_at=1.0, quiet_s=1.0, max_age_s=9.0
    )


def _tables() -> list[dict[str, sa.Table]]:
    """Return the tables of an index after each migration."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    after = []
    for script in [*ScriptDirectory.from_config(config).walk_revisions()][::-1]:
        tables = sa.MetaData()
        with sa.create_engine("sqlite://").begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, script.revision)
            tables.reflect(connection)
        after.append(dict(tables.tables))
    return after


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
    """docs/decisions/0015."""
    assert [_breaks(before, after) for before, after in pairwise(_tables())] == [[]] * (len(_tables()) - 1)


def test_a_migration_that_does_more_is_noticed(second: None) -> None:
    before, after = _tables()
    assert _breaks(before, after) == []
    assert _breaks(after, before) == ["wards", "revisions.urgent"]
    required = sa.MetaData()
    sa.Table(
        "wards",
        required,
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("beds", sa.Integer, nullable=False),
    )
    assert _breaks({"wards": after["wards"]}, dict(required.tables)) == ["wards.beds: has to be given"]
    other_key = sa.MetaData()
    sa.Table("wards", other_key, sa.Column("name", sa.String(16)), sa.Column("id", sa.Integer, primary_key=True))
    assert "wards: primary key" in _breaks({"wards": after["wards"]}, dict(other_key.tables))


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
