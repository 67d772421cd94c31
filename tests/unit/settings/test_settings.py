"""Settings: file, environment, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from allpacs.deliver.destinations.c_store import Settings as CStoreSettings
from allpacs.deliver.destinations.fhir import Settings as FhirSettings
from allpacs.domain.errors import ConfigFault
from allpacs.settings import load_settings

REPOSITORY = Path(__file__).resolve().parents[3]


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "allpacs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    settings = load_settings()
    assert settings.receive.quiet_s == 10
    assert settings.receive.host == "127.0.0.1"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_RECEIVE__PORT", "104")
    settings = load_settings(_file(tmp_path, '[receive]\nport = 11113\nae_title = "LAB"\n'))
    assert (settings.receive.port, settings.receive.ae_title) == (104, "LAB")


def test_an_unknown_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"receive\.quiet_seconds"):
        load_settings(_file(tmp_path, "[receive]\nquiet_seconds = 3\n"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[receive\n", "allpacs.toml"),
        ('[receive]\nae_title = "longer than sixteen characters"\n', r"receive\.ae_title"),
        ("[receive]\nport = 70000\n", r"receive\.port"),
        ('[destinations.pacs]\nkind = "ftp"\n', r"destinations\.pacs"),
        ('[destinations."a/b"]\nkind = "folder"\nfolder = "x"\n', "destinations"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_place(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigFault, match=named):
        load_settings(_file(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="no configuration file"):
        load_settings(tmp_path / "missing.toml")


def test_an_error_does_not_print_a_secret(tmp_path: Path) -> None:
    text = '[destinations.ehr]\nkind = "fhir"\nbase_url = "no address"\nbearer_token = "s3cret"\n'
    with pytest.raises(ConfigFault) as raised:
        load_settings(_file(tmp_path, text))
    assert "s3cret" not in str(raised.value)


def test_a_token_is_not_printed(tmp_path: Path) -> None:
    text = '[destinations.ehr]\nkind = "fhir"\nbase_url = "http://ehr"\nbearer_token = "s3cret"\n'
    assert "s3cret" not in repr(load_settings(_file(tmp_path, text)))


def test_a_databases_password_is_not_printed(tmp_path: Path) -> None:
    text = '[store]\ndatabase_url = "postgresql+psycopg://allpacs:s3cret@db/allpacs"\n'
    assert "s3cret" not in repr(load_settings(_file(tmp_path, text)))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().receive.port = 1  # type: ignore[misc]


def test_the_sample_file_is_valid() -> None:
    settings = load_settings(REPOSITORY / "deploy" / "allpacs.toml")
    assert isinstance(settings.destinations["pacs"], CStoreSettings)
    assert isinstance(settings.destinations["ehr"], FhirSettings)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[retry]\nfirst_s = 400\n", "first_s .* longer than cap_s"),
        ('[receive]\nallowed_calling = ["PACS", "no\\\\title"]\n', r"receive\.allowed_calling"),
        ('[receive.sources."seventeen letters"]\nquiet_s = 1\n', r"receive\.sources"),
    ],
)
def test_values_that_could_never_work_are_refused_before_they_are_used(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigFault, match=named):
        load_settings(_file(tmp_path, text))


def test_an_unknown_section_of_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_PORT", "tcp://10.0.0.1:104")  # as Kubernetes sets for a service named allpacs
    load_settings()
    monkeypatch.setenv("ALLPACS_RECIEVE__PORT", "104")
    with pytest.raises(ConfigFault, match="environment ALLPACS_RECIEVE__PORT: there is no section 'recieve'"):
        load_settings()


def test_an_ae_title_in_the_environment_keeps_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_RECEIVE__SOURCES__SCANNER_1__QUIET_S", "3")
    monkeypatch.setenv("ALLPACS_RECEIVE__SOURCES__SCANNER_1__CELL_FINDER", "nucleus")
    settings = load_settings(_file(tmp_path, "[receive.sources.SCANNER_1]\nclose_on_release = true\n"))
    assert list(settings.receive.sources) == ["SCANNER_1"]
    source = settings.receive.sources["SCANNER_1"]
    assert (source.quiet_s, source.cell_finder, source.close_on_release) == (3.0, "nucleus", True)


def test_an_error_names_the_environment_where_it_comes_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLPACS_RECEIVE__PORT", "many")
    with pytest.raises(ConfigFault, match=r"^environment ALLPACS_RECEIVE__PORT: receive\.port"):
        load_settings(_file(tmp_path, "[work]\npoll_s = 1\n"))
    monkeypatch.setenv("ALLPACS_RECEIVE__PORT", "104")
    monkeypatch.setenv("ALLPACS_RECEIVE", "{no JSON")
    with pytest.raises(ConfigFault, match=r"^environment: ") as raised:
        load_settings()
    assert "no JSON" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALLPACS_RECEIVE", "[1]"), ("ALLPACS_RECEIVE__SOURCES", '["PACS"]'), ("ALLPACS_RECEIVE__SOURCES", "xyz")],
)
def test_what_is_no_table_in_the_environment_is_an_error_as_any_other(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigFault, match=r"^environment"):
        load_settings()


def test_several_receivers_need_a_port_that_all_of_them_know(tmp_path: Path) -> None:
    path = tmp_path / "allpacs.toml"
    path.write_text("[receive]\nport = 0\nprocesses = 2\n")
    with pytest.raises(ConfigFault, match=r"receive\.port"):
        load_settings(path)
