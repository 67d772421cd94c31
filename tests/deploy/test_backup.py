"""Backup and restore by the commands of "operations.md", with work in the queue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.app import open_store
from allpacs.settings import load_settings
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from faults.worker_process import worker
from support.doc_commands import DOCS, REPOSITORY, commands
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

OPERATIONS = commands(DOCS / "operations.md")


def _states(store: Store) -> dict[str, str]:
    return {row.study_uid: row.state for row in store.studies.latest()}


def _run(shown: str, folder: Path, **variables: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), **variables}
    told = subprocess.run(["bash", "-c", shown], cwd=folder, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, f"{shown}\n{told.stdout}\n{told.stderr}"


def _empty_database(server: sa.URL, name: str) -> str:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return server.set(database=name).render_as_string(hide_password=False)


def test_every_command_of_the_page_is_run_here() -> None:
    """The health checks and the upgrade's are run by the next test, the others by the one after it."""
    programs = " ".join(shown.split()[0] for shown in OPERATIONS)
    assert programs == "allpacs allpacs allpacs tar pg_dump mkdir tar pg_restore allpacs allpacs allpacs"


def test_the_commands_of_a_site_that_is_well(tmp_path: Path) -> None:
    with StubHospital(tmp_path) as hospital, hospital.running("serve"):
        hospital.wait_for_echo()
        health = [sys.executable, "-m", "allpacs", "health", "work", "--ready", "--config", str(hospital.config)]
        wait_until(lambda: subprocess.run(health, capture_output=True).returncode == 0, 90, "the worker is ready")
        for shown in (*OPERATIONS[:3], *OPERATIONS[-2:]):
            _run(shown, tmp_path)


def test_backup_and_restore_with_work_in_the_queue(
    tmp_path: Path, database_url: str | None, request: pytest.FixtureRequest
) -> None:
    with StubHospital(tmp_path, quiet_s=1.0, database_url=database_url) as hospital:
        store = open_store(hospital.settings)
        with hospital.running("receive"):
            hospital.wait_for_echo()
            with worker(hospital.config):
                drawn_study(tmp_path / "first", range(2))
                hospital.send(tmp_path / "first" / "dicom")
                wait_until(lambda: RevisionState.DELIVERED in _states(store).values(), 60, "the first is delivered")
            drawn_study(tmp_path / "second", range(2, 5))
            hospital.send(tmp_path / "second" / "dicom")
        before = _states(store)
        assert sorted(before.values()) != [RevisionState.DELIVERED] * 2
        store.close()

        variables = {}
        restored = hospital.config.read_text(encoding="utf-8").replace(f"{tmp_path}/store", f"{tmp_path}/restored")
        if database_url is not None:
            empty = _empty_database(request.getfixturevalue("postgresql"), "two")
            restored = restored.replace(database_url, empty)
            plain = [url.replace("+psycopg", "") for url in (database_url, empty)]
            variables = dict(zip(("DATABASE", "EMPTY_DATABASE"), plain, strict=True))
        (tmp_path / "restored.toml").write_text(restored, encoding="utf-8")
        for shown in OPERATIONS[3:9]:
            if database_url is not None or not shown.startswith("pg_"):
                _run(shown, tmp_path, **variables)

        (tmp_path / "store").rename(tmp_path / "lost")  # whatever is read now is read from the backup
        settings = load_settings(tmp_path / "restored.toml")
        store = open_store(settings)
        assert _states(store) == before
        with worker(tmp_path / "restored.toml"):
            wait_until(lambda: set(_states(store).values()) == {RevisionState.DELIVERED}, 60, "both are delivered")
        assert len({path.parent.name for path in hospital.reports}) == len(hospital.reports) == 2
        assert len(hospital.ehr.resources("DiagnosticReport")) == 2
        store.close()
