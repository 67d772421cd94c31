"""The evaluation site: a valid Compose file, every file it mounts there, and each of them read by what it is for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import compose_spec
import pytest
import yaml

from allpacs.cli import SCU_AE_TITLE
from allpacs.deliver.destinations.c_store import Settings as CStoreSettings
from allpacs.domain.identity import is_ae_title
from allpacs.settings import load_settings

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]


def test_the_file_is_of_the_compose_specification() -> None:
    compose = compose_spec.PyCompose.from_yaml(TEXT)
    compose.validate()
    names = {"allpacs", "postgresql", "orthanc", "fhir", "prometheus", "jaeger", "grafana"}
    assert set(compose.service_names()) == names


def test_the_specification_notices_a_wrong_key() -> None:
    with pytest.raises(ValueError, match="imagine"):
        compose_spec.PyCompose.from_yaml(
            TEXT.replace("image: docker.io/library/postgres", "imagine: docker.io/postgres")
        )


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).is_file(), f"{name}: {source}"
    built = SERVICES["allpacs"]["build"]
    assert (COMPOSE / built["context"] / built["dockerfile"]).is_file()


def test_images_are_named_by_version_and_nothing_is_open_to_others() -> None:
    for name, service in SERVICES.items():
        if "image" in service:
            assert service["image"].rsplit(":", 1)[1] not in ("", "latest"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_allpacs_listens_on_this_machine_alone_and_keeps_all_in_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its file: what the environment says would have the last word."""
    monkeypatch.delenv("ALLPACS_MODEL__CACHE", raising=False)  # the tests' own
    service = SERVICES["allpacs"]
    assert service["environment"].keys() == {"ALLPACS_STORE__DATABASE_URL"}
    mounted = dict(mount.split(":")[:2] for mount in service["volumes"])
    assert mounted["./allpacs.toml"] == service["command"][-1]
    settings = load_settings(COMPOSE / "allpacs.toml")
    assert {settings.receive.host, settings.console.host, settings.monitor.host} == {"127.0.0.1"}
    assert str(settings.store.folder) == mounted["store"]
    assert settings.model.cache.is_relative_to(mounted["store"])
    assert settings.log.format == "json"


def test_both_sides_name_each_other() -> None:
    settings = load_settings(COMPOSE / "allpacs.toml")
    orthanc = json.loads((COMPOSE / "orthanc.json").read_text(encoding="utf-8"))
    title, host, port = orthanc["DicomModalities"]["allpacs"]
    assert (title, host, port) == (settings.receive.ae_title, settings.receive.host, settings.receive.port)
    ours = {SCU_AE_TITLE, settings.console.ae_title, settings.receive.ae_title}
    assert {orthanc["DicomAet"], *ours} == set(settings.receive.allowed_calling)
    assert is_ae_title(orthanc["DicomAet"])
    pacs = settings.destinations["pacs"]
    assert isinstance(pacs, CStoreSettings)
    assert (pacs.called_ae, pacs.port) == (orthanc["DicomAet"], orthanc["DicomPort"])


def test_prometheus_asks_where_allpacs_answers() -> None:
    monitor = load_settings(COMPOSE / "allpacs.toml").monitor
    (job,) = yaml.safe_load((COMPOSE / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    asked = {one["labels"]["process"]: one["targets"] for one in job["static_configs"]}
    assert asked == {"receive": [f"127.0.0.1:{monitor.receive_port}"], "work": [f"127.0.0.1:{monitor.work_port}"]}


def test_traces_go_where_they_are_taken() -> None:
    endpoint = load_settings(COMPOSE / "allpacs.toml").tracing.endpoint
    published = [port.rpartition(":")[0] for port in SERVICES["jaeger"]["ports"]]
    assert endpoint in [f"http://{address}/v1/traces" for address in published]


def test_grafana_finds_its_source_and_dashboard() -> None:
    sources = yaml.safe_load((COMPOSE / "grafana" / "datasource.yml").read_text(encoding="utf-8"))["datasources"]
    (provider,) = yaml.safe_load((COMPOSE / "grafana" / "dashboards.yml").read_text(encoding="utf-8"))["providers"]
    dashboard = json.loads((COMPOSE.parent / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {sources[0]["uid"]}
    published = [port.rpartition(":")[0] for port in SERVICES["jaeger"]["ports"]]
    assert sources[1]["url"].removeprefix("http://") in published
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert any(target.startswith(provider["options"]["path"]) for target in mounted)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists(), reason="no Orthanc")
@pytest.mark.timeout(410)
def test_orthanc_sends_a_study_on_and_keeps_the_report_out_of_the_circle(tmp_path: Path) -> None:
    """In a network of its own, since Orthanc listens on every address: there the files' own ports are free."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace may be made here")
    site = [sys.executable, "-m", "deploy.evaluation_site", str(COMPOSE), str(tmp_path)]
    told = subprocess.run(
        ["unshare", "-n", "bash", "-c", 'ip link set lo up && exec "$@"', "-", *site],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=390,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
