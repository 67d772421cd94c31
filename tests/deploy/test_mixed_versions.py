"""An upgrade one process after the other: an earlier version and this one at work on one store and one PostgreSQL.

The earlier version is the repository's own, of the index one migration behind; nothing was released before it. It runs
with the libraries of today.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from allpacs.app import open_store
from allpacs.store.database import HEAD
from allpacs.store.records import RevisionState
from allpacs.store.store import Store
from conformance.support.network import wait_until
from support.hospital import StubHospital, drawn_study
from support.places import REPOSITORY

pytestmark = pytest.mark.process

#: Index 0007.
EARLIER = "c72d782d9e9fb1d6eb0b36f4f3caf9e271312806"
CELLS = 2


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of the earlier version's code."""
    archive = subprocess.run(["git", "archive", EARLIER, "allpacs"], cwd=REPOSITORY, capture_output=True)
    if archive.returncode:
        pytest.skip("the earlier version is not in this clone: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


@contextmanager
def running(code: Path, hospital: StubHospital, verb: str, name: str) -> Iterator[None]:
    """Run a process of one version while the block runs."""
    environment = {**os.environ, "PYTHONPATH": str(code), "ALLPACS_WORK__EXECUTOR_ID": name}
    command = [sys.executable, "-m", "allpacs", verb, "--config", str(hospital.config)]
    with (hospital.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=code, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def version(url: str) -> str:
    """Return the version of the index."""
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one())


def read_by(store: Store) -> Counter[str]:
    """Return how many studies each worker has read, by the workflow engine's own table."""
    query = "SELECT executor_id FROM dbos.workflow_status WHERE status = 'SUCCESS' AND name = 'read_study'"
    with store.database.reading() as connection:
        return Counter(connection.execute(sa.text(query)).scalars())


def delivered(store: Store) -> int:
    return [one.state for one in store.studies.latest()].count(RevisionState.DELIVERED)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_versions_share_the_queue_while_the_index_is_brought_forward(
    database_url: str, earlier: Path, tmp_path: Path
) -> None:
    sent = 0

    def send(studies: int) -> None:
        nonlocal sent
        for _ in range(studies):
            folder = tmp_path / f"study{sent}"
            drawn_study(folder, range(sent * CELLS, (sent + 1) * CELLS))
            assert [one.status for one in hospital.send(folder / "dicom")] == [0] * CELLS
            sent += 1

    extra = "[work]\nstudies_at_a_time = 1\ntakeover_after_s = 5\n"
    with (
        StubHospital(tmp_path, quiet_s=0.2, database_url=database_url, extra=extra) as hospital,
        ExitStack() as present,
    ):
        with running(earlier, hospital, "receive", "old-receiver"), running(earlier, hospital, "work", "old"):
            hospital.wait_for_echo(90)
            send(1)
            wait_until(lambda: hospital.reports, 120, "the earlier version delivers")
            assert version(database_url) < HEAD
            present.enter_context(running(REPOSITORY, hospital, "work", "new"))
            wait_until(lambda: version(database_url) == HEAD, 90, "the index is brought forward")
            store = open_store(hospital.settings)
            wait_until(lambda: set(store.workers.others("")) == {"old", "new"}, 90, "both are at work")
            while read_by(store)["old"] < 2 or not read_by(store)["new"]:
                assert sent < 12, "the versions do not share the work"
                send(2)  # taken by the earlier version's receiver, into the later index
                wait_until(lambda: delivered(store) == sent, 120, "all of them are delivered")
            send(2)
        # The earlier ones were stopped in the midst of it; what they were at is handed over.
        wait_until(lambda: delivered(store) == sent, 120, "all are delivered")
        assert len({path.parent.name for path in hospital.reports}) == len(hospital.reports) == sent
        assert len(hospital.ehr.resources("DiagnosticReport")) == sent
        assert all(len(store.revisions.of_study(one.study_uid)) == 1 for one in store.studies.latest())
        store.close()
