"""What is released: built from the sources, installed into an empty environment, run; and under which licences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from allpacs import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

#: What an environment of its own is not to have of ours; nor is each of its programs to translate all modules anew.
NOT_INHERITED = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")

#: Permissive licences, by how packages name them.
PERMISSIVE = re.compile(
    r"MIT(-0|-CMU)?|MIT License|(The )?MIT License \(MIT\)|BSD(-[23]-Clause)?( License)?|(2|3)-Clause BSD.*|"
    r"BSD-3-Clause.*|Apache([ -]?2(\.0)?)?|Apache License.*|Apache Software License.*|Apache-2\.0|ISC( License.*)?|"
    r"0BSD|Zlib|CC0-1\.0|PSF-2\.0|Python Software Foundation License|HPND|The Unlicense.*|Unlicense|BSL-1\.0|"
    r"Historical Permission.*",
    re.IGNORECASE,
)
#: Weaker copyleft, used unchanged, and one that only its LICENSE file names: docs/decisions/0004-libraries.md.
RECORDED = {"psycopg": "LGPL", "psycopg-binary": "LGPL", "certifi": "MPL", "tqdm": "MPL", "namex": "UNKNOWN"}


def _closure(name: str, seen: dict[str, None]) -> Iterator[str]:
    """Yield a package and everything that it brings along when it is installed here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen[key] = None
    try:
        required = distribution(name).requires or []
    except PackageNotFoundError:
        return  # for another platform or Python
    yield key
    for requirement in map(Requirement, required):
        extras = requirement.extras or {""}
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _closure(requirement.name, seen)
            for extra in extras - {""}:
                for further in map(Requirement, distribution(requirement.name).requires or []):
                    if further.marker is not None and further.marker.evaluate({"extra": extra}):
                        yield from _closure(further.name, seen)


def test_every_licence_is_permissive_or_recorded() -> None:
    seen_so_far: dict[str, None] = {}
    optional = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")  # allpacs[tracing]
    packages = sorted(one for name in ("allpacs", *optional) for one in _closure(name, seen_so_far))
    assert {"tensorflow", "psycopg", "dbos", "pydicom"} <= set(packages)
    assert "pytest" not in packages
    told = subprocess.run(
        [BIN / "pip-licenses", "--from=mixed", "--format=json", "--with-system", "--packages", *packages],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    decisions = (REPOSITORY / "docs" / "decisions" / "0004-libraries.md").read_text(encoding="utf-8")
    seen = set()
    for one in json.loads(told.stdout):
        name, licence = re.sub(r"[-_.]+", "-", one["Name"]).lower(), one["License"]
        seen.add(name)
        if name in RECORDED:
            assert RECORDED[name] in licence, one
            assert name.removesuffix("-binary") in decisions
            continue
        parts = re.split(r"; | AND | OR |,? and ", licence.replace("(", "").replace(")", ""))
        if not all(PERMISSIVE.fullmatch(re.sub(r" WITH .*", "", part).strip()) for part in parts):
            raise AssertionError(f"{name}: {licence!r} is neither permissive nor recorded in 0004-libraries.md")
    assert set(packages) - {"allpacs"} <= seen | {"allpacs"}


def test_the_version_is_one() -> None:
    assert distribution("allpacs").version == __version__
    assert f'appVersion: "{__version__}"' in (REPOSITORY / "deploy/helm/allpacs/Chart.yaml").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", __version__)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    sources = tmp_path_factory.mktemp("sources")  # a clean tree: nothing of an earlier build may slip in
    for name in files.splitlines():
        if (REPOSITORY / name).is_file() and name.split("/")[0] in (
            "allpacs",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((REPOSITORY / name).read_bytes())
    told = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, sources], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return folder


@pytest.mark.process
def test_wheel_and_sdist_hold_all_that_is_needed_at_run_time(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    sources = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "allpacs").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names, sorted(sources - names)
    with tarfile.open(sdist) as content:
        within = {name.partition("/")[2] for name in content.getnames()}
    assert sources <= within, sorted(sources - within)
    assert wheel.stat().st_size < 100_000_000


@pytest.mark.process
@pytest.mark.timeout(410)  # some 500 MB are installed
def test_the_wheel_runs_the_demo_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    python = tmp_path / "venv" / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    for command in (
        [sys.executable, "-m", "venv", tmp_path / "venv"],
        [BIN / "uv", "pip", "install", "--quiet", "--python", python, "--constraint", constraints, wheel],
        [python.with_name("allpacs"), "demo", "--out", tmp_path / "demo"],
        [BIN / "cyclonedx-py", "environment", "--output-file", tmp_path / "allpacs.cdx.json", python],
    ):
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout + told.stderr
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert summary["study_uid"]
    bill = json.loads((tmp_path / "allpacs.cdx.json").read_text(encoding="utf-8"))
    components = {one["name"].lower(): one for one in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert {"tensorflow", "dbos", "pydicom"} <= components.keys()
    assert "pytest" not in components
