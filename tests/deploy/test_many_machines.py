"""The layout of several machines, in network namespaces, on a real PostgreSQL, with one worker killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.places import postgresql_programs

pytestmark = pytest.mark.process


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the database's user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="machines", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_four_studies_through_two_receivers_while_one_of_two_workers_is_killed(scratch: Path) -> None:
    programs = postgresql_programs()
    if programs is None or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root, PostgreSQL and iproute2")
    if subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "lan", "type", "bridge"], capture_output=True
    ).returncode:
        pytest.skip("no network of its own may be made here")
    told = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "deploy.many_machines", programs, scratch],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    seen = json.loads(told.stdout.splitlines()[-1])
    assert seen["studies"] == 4
    assert seen["taken_over"] >= 1, "the killed worker had nothing to take over"
