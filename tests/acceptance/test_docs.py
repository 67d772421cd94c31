"""The documentation builds without a warning, and its commands run, page by page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from allpacs.app import open_store
from allpacs.demo.synthetic import draw_cell
from allpacs.settings import load_settings
from allpacs.store.records import RevisionState
from conformance.support.network import wait_until
from support.doc_commands import DOCS, REPOSITORY, commands, pages
from support.hospital import StubHospital, drawn_study

pytestmark = pytest.mark.process

#: Whose commands are run by another test, since they need more than a hospital that is well.
ELSEWHERE = {"operations.md": "tests/deploy/test_backup.py"}
#: Commands of the Makefile that take longer than a test may: that `make` knows them is looked at.
LONG = re.compile(r"^make (bench|conformance|test|faults|docs)\b")
#: Programs that need the images, which are no part of the repository: that they know what they are told is looked at.
NEEDS_IMAGES = re.compile(r"^(python -m training\S*) .*--data\b.*")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubHospital]:
    """A hospital whose allpacs has read one study; the reader sits in its folder."""
    folder = tmp_path_factory.mktemp("reader")
    with StubHospital(folder, quiet_s=0.5) as hospital, hospital.running("serve"):
        hospital.wait_for_echo()
        drawn_study(folder / "drawn", range(2))
        hospital.send(folder / "drawn" / "dicom")
        store = open_store(hospital.settings)
        delivered = RevisionState.DELIVERED
        wait_until(lambda: [one.state for one in store.studies.latest()] == [delivered], 120, "delivered")
        os.environ["STUDY"] = store.studies.latest()[0].study_uid
        store.close()
        yield hospital
        del os.environ["STUDY"]


def run(command: str, hospital: StubHospital, folder: Path) -> str:
    """Run a command as its page shows it, but for the addresses, which are this test's; return what it printed."""
    for shown, here in (
        ("ALLPACS@127.0.0.1:11112", f"ALLPACS@127.0.0.1:{hospital.port}"),
        ("PACS@127.0.0.1:104", f"PACS@127.0.0.1:{hospital.pacs.port}"),
        ("http://127.0.0.1:8080", hospital.ehr.base_url),
    ):
        command = command.replace(shown, here)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    told = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert told.returncode == 0, f"{command}\n{told.stdout}\n{told.stderr}"
    return told.stdout


@pytest.mark.parametrize(
    "page", [one for one in pages() if one.name not in (*ELSEWHERE, "index.md")], ids=lambda p: p.name
)
def test_the_commands_of_a_page_run(page: Path, reader: StubHospital) -> None:
    for command in commands(page):
        if LONG.match(command):
            run(f"make -n {command.removeprefix('make ')} -C {REPOSITORY}", reader, reader.folder)
        elif with_images := NEEDS_IMAGES.match(command):
            known = run(f"{with_images[1]} --help", reader, reader.folder)
            assert all(option in known for option in re.findall(r"--[a-z-]+", command))
        else:
            assert run(command, reader, reader.folder), f"{command} says nothing"


def test_pages_run_elsewhere_are_run_there() -> None:
    for page, test in ELSEWHERE.items():
        assert (DOCS / page).is_file()
        assert f'"{page}"' in (REPOSITORY / test).read_text(encoding="utf-8")


def test_the_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder to a report at the PACS, by what the first page says and nothing else."""
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        Image.fromarray(draw_cell(seed=seed, blast=bool(seed))).save(tmp_path / "pictures" / f"{seed}.png")
    with StubHospital(tmp_path) as hospital:
        monkeypatch.setenv("ALLPACS_MONITOR__ENABLED", "false")
        monkeypatch.setenv("ALLPACS_CONSOLE__PORT", str(hospital.console_port))
        monkeypatch.setenv("ALLPACS_RECEIVE__MIN_FREE_MB", "10")
        hospital.config.unlink()
        server: subprocess.Popen[bytes] | None = None
        try:
            for command in commands(DOCS / "index.md"):
                if " demo " in command:
                    continue  # run by the test of the wheel, in an environment that holds nothing else
                if " serve " in command:
                    arguments = [sys.executable, "-m", *command.split()]
                    with (tmp_path / "serve.log").open("wb") as log:
                        server = subprocess.Popen(arguments, cwd=tmp_path, stdout=log, stderr=log)
                    hospital.wait_for_echo(90)
                else:
                    run(command, hospital, tmp_path)
            wait_until(lambda: hospital.reports, 240, "the report at the PACS")
        finally:
            if server is not None:
                server.terminate()
                server.wait(60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    told = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, timeout=600,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "WARNING" not in told.stderr
    return folder


def test_the_site_has_every_page_and_decision(site: Path) -> None:
    built = {path.stem for path in site.glob("*.html")}
    assert {page.stem for page in DOCS.glob("*.md")} <= built
    decisions = (site / "decisions" / "index.html").read_text(encoding="utf-8")
    assert all(record.stem in decisions for record in (DOCS / "decisions").glob("0*.md"))


def test_nothing_on_the_site_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page.read_text(encoding="utf-8")
        )
        assert fetched == [], page.name


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_configuration_that_is_shown_is_one(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(
        re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ):
        tomllib.loads(text)
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        load_settings(file)
