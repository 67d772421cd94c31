"""Every command of the README, in its order, as a reader would type them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from allpacs.demo.synthetic import draw_cell
from conformance.support.network import wait_until
from support.doc_commands import DOCS, REPOSITORY, commands
from support.hospital import AE_TITLE, SENDER, StubHospital

pytestmark = pytest.mark.process

COMMANDS = commands(REPOSITORY / "README.md")
PORT = "11112"


def test_the_readme_has_the_commands_that_are_run_here() -> None:
    verbs = [" ".join(command.split()[:2]) for command in COMMANDS]
    expected = ["check-config", "serve", "import", "echo", "send", "studies", "classify", "demo"]
    assert verbs == ["make demo", "make test", *(f"allpacs {verb}" for verb in expected)]


def test_make_knows_its_commands() -> None:
    for target in ("demo", "test", "check"):
        result = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert ".venv/bin" in result.stdout


def test_make_demo_runs_the_main_job(tmp_path: Path) -> None:
    if not (REPOSITORY / ".venv" / "installed").exists():
        pytest.skip("the product is not installed by `make install` here, so `make demo` would install it first")
    result = subprocess.run(["make", "demo", f"OUT={tmp_path}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "summary.json").is_file()


def test_the_three_steps_from_a_pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "pictures").mkdir()
    for seed in range(3):
        Image.fromarray(draw_cell(seed=seed, blast=seed % 2 == 0)).save(tmp_path / "pictures" / f"{seed}.png")
    with StubHospital(tmp_path) as hospital:
        # What the reader does in step 1: copy the sample and name PACS and EHR in it.
        sample = (REPOSITORY / "deploy" / "allpacs.toml").read_text(encoding="utf-8")
        sample = sample.replace('"pacs.hospital.example"', '"127.0.0.1"').replace(
            "port = 104", f"port = {hospital.pacs.port}"
        )
        sample = sample.replace('"https://fhir.hospital.example/r4"', f'"{hospital.ehr.base_url}"')
        sample = sample.replace("/var/lib/allpacs", str(tmp_path / "store"))
        sample = sample.replace('"0.0.0.0"', '"127.0.0.1"').replace('= ["PACS", ', f'= ["PACS", "{SENDER}", ')
        sample = sample.replace("min_free_mb = 2048", "min_free_mb = 10").replace("quiet_s = 10", "quiet_s = 0.5")
        (tmp_path / "allpacs.toml").write_text(sample.replace(PORT, str(hospital.port)), encoding="utf-8")

        server: subprocess.Popen[bytes] | None = None
        try:
            for command in COMMANDS[2:]:
                arguments = shlex.split(command.replace(PORT, str(hospital.port)))
                if arguments[1] == "serve":
                    with (tmp_path / "serve.log").open("wb") as log:
                        server = subprocess.Popen(arguments, stdout=log, stderr=log)
                    hospital.wait_for_echo()
                    continue
                result = subprocess.run(arguments, capture_output=True, text=True, timeout=180)
                assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            # Who routes studies here looks in both directions, with what the sample lets in.
            for command in commands(DOCS / "routing.md"):
                arguments = shlex.split(command.replace(PORT, str(hospital.port)))
                result = subprocess.run(arguments, capture_output=True, text=True, timeout=180)
                assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            wait_until(lambda: hospital.reports, 120, "the report at the PACS")
        finally:
            if server is not None:
                server.terminate()
                server.wait(60)
    assert AE_TITLE in " ".join(COMMANDS)
