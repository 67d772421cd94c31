"""The image's file: linted, and all that it copies is there. `build_image.sh` builds it for real (`make image`)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from allpacs.settings import ENV_PREFIX, load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "deploy" / "container" / "Containerfile"
LINES = FILE.read_text(encoding="utf-8")


def test_hadolint_finds_nothing() -> None:
    told = _hadolint(LINES)
    assert told.returncode == 0, told.stdout


def test_hadolint_notices_what_is_wrong() -> None:
    assert "DL3002" in _hadolint(LINES.replace("USER 10001:10001", "USER root")).stdout


def _hadolint(text: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    let_in = {
        line[1:] for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", LINES, re.MULTILINE) for name in line.split()]
    assert set(copied) == let_in
    assert all((REPOSITORY / name).exists() for name in copied)


def test_no_setting_is_in_the_environment_where_no_file_could_change_it() -> None:
    named = [
        word.partition("=")[0]
        for line in re.findall(r"^ENV (.+)$", LINES.replace("\\\n", " "), re.MULTILINE)
        for word in shlex.split(line)
    ]
    assert {"PATH", "XDG_DATA_HOME"} <= set(named)
    assert [name for name in named if name.startswith(ENV_PREFIX)] == []


def test_the_image_has_a_configuration_and_its_commands_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALLPACS_MODEL__CACHE", raising=False)  # the tests' own
    (making,) = re.findall(r"^RUN (mkdir /etc/allpacs .+)$", LINES.replace("\\\n", " "), re.MULTILINE)
    subprocess.run(["sh", "-c", making.replace("/etc/allpacs", str(tmp_path / "made"))], check=True)
    settings = load_settings(tmp_path / "made" / "allpacs.toml")
    assert (settings.receive.host, settings.log.format) == ("0.0.0.0", "json")  # noqa: S104 - read
    volumes = re.findall(r"^VOLUME (.+)$", LINES, re.MULTILINE)
    assert [str(settings.store.folder)] == volumes
    assert [str(settings.model.cache.parent)] == volumes
    commands = [json.loads(one) for one in re.findall(r"CMD (\[.+\])$", LINES, re.MULTILINE)]
    assert len(commands) == 2
    assert all(one[-2:] == ["--config", "/etc/allpacs/allpacs.toml"] for one in commands)


def test_a_file_that_names_no_folder_means_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data,) = re.findall(r"XDG_DATA_HOME=(\S+)", LINES)
    monkeypatch.setenv("XDG_DATA_HOME", data)
    (tmp_path / "allpacs.toml").write_text('[receive]\nae_title = "OURS"\n', encoding="utf-8")
    assert str(load_settings(tmp_path / "allpacs.toml").store.folder) == "/var/lib/allpacs"


def test_the_gpu_variant_is_pinned_and_fits_tensorflow() -> None:
    """Resolved, not installed: its libraries are several gigabytes (docs/decisions/0013)."""
    pinned = dict(
        line.split("==") for line in FILE.with_name("constraints-gpu.txt").read_text(encoding="utf-8").splitlines()
    )
    wanted = [
        one
        for one in map(Requirement, distribution("tensorflow").requires or [])
        if one.marker is not None
        and one.marker.evaluate({"extra": "and-cuda"})
        and not one.marker.evaluate({"extra": ""})
    ]
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= {one.name for one in wanted}
    assert [str(one) for one in wanted if pinned.get(one.name) not in one.specifier] == []
    assert "--constraint constraints-gpu.txt" in LINES


def test_the_build_script_is_sound() -> None:
    shellcheck = shutil.which("shellcheck")
    script = Path(__file__).with_name("build_image.sh")
    subprocess.run(["bash", "-n", script], check=True)
    if shellcheck is not None:
        told = subprocess.run([shellcheck, "-e", "SC2016", script], capture_output=True, text=True)
        assert told.returncode == 0, told.stdout
