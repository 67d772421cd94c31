from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from allpacs.cli import app
from allpacs.deliver.destinations.c_store import Settings as CStoreSettings
from allpacs.deliver.destinations.fhir import Settings as FhirSettings
from allpacs.domain.errors import ConfigFault
from allpacs.settings import load_settings


def test_five_questions_and_a_file_that_loads(tmp_path: Path) -> None:
    file = tmp_path / "allpacs.toml"
    replies = [
        "CELLS@127.0.0.1:10412",
        "PACS, MICROSCOPE 1",
        "PACS@pacs.example:104",
        "https://ehr.example/r4",
        str(tmp_path),
    ]
    asked = CliRunner().invoke(app, ["init", "--config", str(file)], input="\n".join(replies) + "\n")
    assert asked.exit_code == 0, asked.output
    assert asked.output.count("]: ") == 5
    assert f"allpacs check-config --config {file}" in asked.output
    settings = load_settings(file)
    assert (settings.receive.ae_title, settings.receive.host, settings.receive.port) == ("CELLS", "127.0.0.1", 10412)
    assert settings.receive.allowed_calling == ("PACS", "MICROSCOPE 1")
    assert settings.store.folder == tmp_path
    pacs, ehr = settings.destinations["pacs"], settings.destinations["ehr"]
    assert isinstance(pacs, CStoreSettings)
    assert (pacs.called_ae, pacs.host, pacs.port) == ("PACS", "pacs.example", 104)
    assert isinstance(ehr, FhirSettings)
    assert ehr.base_url == "https://ehr.example/r4"


def test_a_wrong_answer_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "allpacs.toml"
    asked = CliRunner().invoke(
        app, ["init", "--config", str(file)], input="ALLPACS\n\n\nPACS@somewhere\n\nftp://ehr\n\n\n"
    )
    assert asked.exit_code == 0, asked.output
    assert asked.output.count("AE@host:port, for example") == 2
    assert "does not begin with http" in asked.output
    assert load_settings(file).destinations == {}


def test_options_answer_and_nothing_is_asked(tmp_path: Path) -> None:
    file = tmp_path / 'quoted " name' / "allpacs.toml"
    file.parent.mkdir()
    made = CliRunner().invoke(app, ["init", "-y", "--config", str(file), "--folder", str(file.parent)])
    assert made.exit_code == 0, made.output
    settings = load_settings(file)
    assert settings.store.folder == file.parent
    assert settings.receive.port == 11112


def test_nothing_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "allpacs.toml"
    file.write_text("[receive]\nport = 104\n", encoding="utf-8")
    refused = CliRunner().invoke(app, ["init", "-y", "--config", str(file)])
    assert isinstance(refused.exception, ConfigFault)
    assert load_settings(file).receive.port == 104
    assert CliRunner().invoke(app, ["init", "-y", "--force", "--config", str(file)]).exit_code == 0
    assert load_settings(file).receive.port == 11112


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--listen", "ALLPACS"], "--listen: 'ALLPACS' is not of the form"),
        (["--senders", "A,much-too-long-for-an-ae-title"], "--senders: 'much-too-long"),
        (["--fhir", "ehr.example"], "--fhir: 'ehr.example' does not begin with"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(tmp_path: Path, option: list[str], said: str) -> None:
    file = tmp_path / "allpacs.toml"
    refused = CliRunner().invoke(app, ["init", "-y", "--config", str(file), *option])
    assert isinstance(refused.exception, ConfigFault)
    assert said in str(refused.exception)
    assert not file.exists()
