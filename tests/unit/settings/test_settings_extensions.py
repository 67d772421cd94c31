"""Kinds that settings name: found by file names, imported when they are used, and listed when they are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from allpacs.domain.errors import ConfigFault
from allpacs.domain.extensions import Extensions
from allpacs.settings import DESTINATIONS, ENGINES, load_settings

#: Libraries that only the work of an extension needs.
HEAVY = {
    "numpy", "scipy", "skimage", "pydicom", "pynetdicom", "httpx", "hl7", "authlib", "cryptography", "tensorflow",
    "openvino",
}  # fmt: skip


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "allpacs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reading_settings_loads_no_library_of_an_extension(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        """
        [destinations.pacs]
        kind = "c_store"
        host = "pacs.example"
        port = 104
        called_ae = "PACS"
        [destinations.archive]
        kind = "stow_rs"
        base_url = "https://archive.example"
        [destinations.ehr]
        kind = "fhir"
        base_url = "https://fhir.example"
        oauth = { token_url = "https://auth.example", client_id = "x", private_key = "x.key" }
        [destinations.ris]
        kind = "mllp"
        host = "ris.example"
        port = 2575
        [receive.sources.PACS]
        cell_finder = "nucleus"
        [model]
        engine = "openvino"
        """,
    )
    program = (
        "import json, sys, pathlib\n"
        "from allpacs.settings import load_settings\n"
        f"settings = load_settings(pathlib.Path({str(file)!r}))\n"
        "assert [one.address for one in settings.destinations.values()][0] == 'PACS@pacs.example:104'\n"
        f"libraries = sorted({HEAVY!r} & set(sys.modules))\n"
        "extensions = sorted(name for name in sys.modules if name.startswith(('allpacs.deliver.destinations.',"
        " 'allpacs.cells.finders.', 'allpacs.classify.engines.')))\n"
        "print(json.dumps([libraries, extensions]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    libraries, extensions = json.loads(done.stdout)
    assert libraries == []
    kinds = ("c_store", "fhir", "mllp", "stow_rs")
    assert extensions == [f"allpacs.deliver.destinations.{kind}" for kind in kinds], "those that the file names"


def test_an_engines_keys_stand_in_model_and_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_MODEL__REMOTE_TOKEN", "12345")
    settings = load_settings(_file(tmp_path, '[model]\nremote_url = "http://gpu"\nremote_timeout_s = 7\n'))
    remote = settings.model.of_engine("remote")
    assert (remote.remote_url, remote.remote_model, remote.remote_timeout_s) == ("http://gpu", "allpacs", 7.0)  # type: ignore[attr-defined]
    assert remote.remote_token.get_secret_value() == "12345"  # type: ignore[attr-defined]
    assert "12345" not in repr(settings)
    assert "12345" not in repr(remote)


def test_every_wrong_key_of_model_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as raised:
        load_settings(_file(tmp_path, '[model]\nmax_batch = 0\nremote_timeout_s = 0\nremote_model = ""\nbatch = 1\n'))
    for key in ("max_batch", "remote_timeout_s", "remote_model", "batch"):
        assert f"model.{key}: " in str(raised.value)


def test_a_wrong_key_of_an_engine_in_the_environment_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALLPACS_MODEL__REMOTE_TIMEOUT_S", "-1")
    with pytest.raises(ConfigFault, match=r"^environment ALLPACS_MODEL__REMOTE_TIMEOUT_S: model\.remote_timeout_s: "):
        load_settings()


@pytest.mark.parametrize("token", ["12345", "true", "1e5", "null", "abc"])
def test_a_destination_may_be_given_in_the_environment(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """Whatever a value looks like it is text there; only tables and lists are JSON."""
    for key, value in {
        "KIND": "fhir",
        "BASE_URL": "https://fhir.example",
        "BEARER_TOKEN": token,
        "TIMEOUT_S": "5",
        "TLS": '{"trusted": "ca.pem"}',
        "OAUTH__TOKEN_URL": "https://auth.example",
        "OAUTH__CLIENT_ID": "1",
        "OAUTH__PRIVATE_KEY": "own.key",
    }.items():
        monkeypatch.setenv(f"ALLPACS_DESTINATIONS__EHR__{key}", value)
    ehr = load_settings().destinations["ehr"]
    assert ehr.token == token  # type: ignore[attr-defined]
    assert ehr.timeout_s == 5.0  # type: ignore[attr-defined]
    assert ehr.tls.trusted == Path("ca.pem")  # type: ignore[attr-defined]
    assert ehr.oauth.client_id == "1"  # type: ignore[attr-defined]


def test_a_wrong_key_of_a_destination_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, '[destinations.ris]\nkind = "mllp"\nhost = "ris"\nport = 2575\nfacilty = "X"\n')
    with pytest.raises(
        ConfigFault,
        match=r"allpacs\.toml: unknown key destinations\.ris\.facilty: did you mean destinations\.ris\.facility\?",
    ):
        load_settings(file)
    monkeypatch.setenv("ALLPACS_DESTINATIONS__RIS__PORT", "99999")
    with pytest.raises(ConfigFault, match=r"environment ALLPACS_DESTINATIONS__RIS__PORT: destinations\.ris\.port: "):
        load_settings(file)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "mlp"}, "unknown kind of destination 'mlp': use one of c_store, .*did you mean 'mllp'"),
        ({"kind": "ftp"}, "unknown kind of destination 'ftp': use one of c_store, fhir, folder, mllp, stow_rs$"),
        ({"kind": 7}, "unknown kind of destination 7: use one of c_store"),
        ({"kind": "__init__"}, "unknown kind"),
        ({"kind": "../app"}, "unknown kind"),
        ({"host": "x"}, "kind is missing: set it to one of c_store, fhir"),
        ("c_store", "valid dictionary"),
    ],
)
def test_an_unknown_kind_is_answered_with_the_known_ones(given: object, said: str) -> None:
    with pytest.raises(ConfigFault, match=rf"destinations\.x: .*{said}"):
        load_settings(destinations={"x": given})


def test_an_extension_that_declares_nothing_is_named() -> None:
    # Any package with modules will do.
    with pytest.raises(ConfigFault, match=r"engine 'openvino': the module allpacs\.classify\.engines\.openvino"):
        Extensions[object](ENGINES.package, "NOTHING", "engine").get("openvino")


def test_an_extension_whose_library_is_missing_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import allpacs.deliver.destinations as package

    (tmp_path / "pigeon.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with pytest.raises(ConfigFault, match="'pigeon' needs the Python package a_library_that_nobody_has: install it"):
        DESTINATIONS.get("pigeon")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"receive": {"prot": 11112}}, "settings: unknown key receive.prot: did you mean receive.port?"),
        ({"receive": {"sources": {"A": {"cell_findr": "x"}}}}, "did you mean receive.sources.A.cell_finder?"),
        ({"report": {"fhir": {"cell": "all"}}}, "unknown key report.fhir.cell: did you mean report.fhir.cells?"),
        ({"reciever": {}}, "unknown key reciever: did you mean receive?"),
        ({"model": {"qqqqqqqq": 1}}, "settings: unknown key model.qqqqqqqq"),
        ({"receive": {"port": "many"}}, "settings: receive.port: must be a valid integer"),
        ({"destinations": {"pacs": {"kind": "c_store"}}}, "settings: destinations.pacs.host is missing"),
    ],
)
def test_a_wrong_key_is_told_in_words_with_the_nearest_one(sections: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        load_settings(**sections)
    assert said in str(fault.value)
    assert "Error" not in str(fault.value)
    assert "Input" not in str(fault.value)


def test_each_wrong_key_has_a_line_of_its_own() -> None:
    with pytest.raises(ConfigFault) as fault:
        load_settings(receive={"prot": 1}, work={"pol_s": 1})
    assert len(str(fault.value).splitlines()) == 2
