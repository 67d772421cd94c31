"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from hypothesis import HealthCheck, settings

from support.places import REPOSITORY, postgresql_programs

#: Of a program that a fixture runs, seconds.
PROGRAM_TIMEOUT_S = 60.0

# How long an example takes says how busy the machine is, nothing about what is tested.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

# One conversion of the shipped network for all tests and the programs they start, and none in the user's own cache.
os.environ.setdefault("ALLPACS_MODEL__CACHE", str(REPOSITORY / "build" / "model-cache"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Let a test process that dies cost the test it died in, not the run."""
    if config.getvalue("dist") != "loadfile":
        return None
    from support.scheduling import LoadFileSurvivingCrashes

    return LoadFileSurvivingCrashes(config, log)


#: Files that take longest, the longest first: begun last, one of them would hold up the end of all tests alone.
LONGEST = (
    "unit/training/test_training_recipes.py",
    "faults/test_kill_at_every_step.py",
    "acceptance/test_docs.py",
    "unit/training/test_training_fit.py",
    "faults/test_random_kills.py",
    "faults/test_soak.py",
    "deploy/test_release.py",
    "deploy/test_many_machines.py",
    "acceptance/test_main_job.py",
    "acceptance/test_console.py",
    "acceptance/test_readme.py",
    "acceptance/test_command_line.py",
    "deploy/test_compose.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--longest-test-s", type=float, default=0.0, help="fail a test whose call takes longer, seconds; 0: no limit"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Fail a test that is too slow for its tier."""
    report = yield
    most_s = item.config.getoption("--longest-test-s")
    if most_s and call.when == "call" and report.passed and call.duration > most_s:
        report.outcome = "failed"
        report.longrepr = f"took {call.duration:.1f} s, more than {most_s:g} s: mark it `process`, or make it faster"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then the others that start processes or a model."""
    rank = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        slow = item.get_closest_marker("process") is not None
        return rank.get(item.path, len(rank) if slow else len(rank) + 1)

    files: dict[Path, int] = {}
    for item in items:  # a file stays together: some of its tests may be slow, some not
        files[item.path] = min(place(item), files.get(item.path, len(rank) + 1))
    items.sort(key=lambda item: files[item.path])


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """Undo what a test that ran the command line in this process set up: its standard error is closed by then."""
    handlers = list(logging.root.handlers)
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers


@pytest.fixture(autouse=True, scope="session")
def no_worker_ends_the_tests() -> Iterator[None]:
    """A worker that loses its engine ends its process: not where that is the tests' own."""

    def told(exit_code: int) -> None:
        sys.stderr.write(f"a worker in the tests' process would have ended it with {exit_code}\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allpacs.app.worker.end_process", told)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real images; skip where it is missing (it is never part of the repository)."""
    folder = Path(os.environ.get("ALLPACS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is missing (set ALLPACS_DATA)")
    return folder


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """Start a PostgreSQL of our own on a socket; skip where none is installed."""
    programs = postgresql_programs()
    pytest.importorskip("psycopg", reason="no PostgreSQL driver (psycopg)")
    if programs is None:
        pytest.skip("no PostgreSQL installed")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("nobody").pw_name
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=PROGRAM_TIMEOUT_S,
        )  # fmt: skip

    try:
        run("initdb", "-D", f"{folder}/db", "-U", "allpacs", "-A", "trust", "-N")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/db", "-w", "-o", options, "-l", f"{folder}/log", "start")
        try:
            yield sa.URL.create(
                "postgresql+psycopg", username="allpacs", database="postgres", query={"host": str(folder)}
            )
        finally:
            run("pg_ctl", "-D", f"{folder}/db", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Return the URL of an empty database, None for the SQLite that a store makes in its folder."""
    if request.param == "sqlite":
        yield None
        return
    server: sa.URL = request.getfixturevalue("postgresql")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS one WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE one")
    yield server.set(database="one").render_as_string(hide_password=False)
