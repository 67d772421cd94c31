"""The chart: linted and rendered by Helm's own engine, every manifest checked against Kubernetes's schemas."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from allpacs.cli import SCU_AE_TITLE
from allpacs.settings import load_settings

if importlib.util.find_spec("helm_python") is None:
    pytest.skip("no Helm library for this platform", allow_module_level=True)

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "allpacs"
KUBERNETES = ("1.28", "1.31", kubernetes_validate.latest_version())

ALL: dict[str, Any] = {
    "secret": "allpacs-secrets",
    "tls": {"secret": "allpacs-tls"},
    "receive": {"service": {"loadBalancerSourceRanges": ["10.1.0.0/16"]}},
    "work": {"gpu": 1, "autoscaling": {"enabled": True}},
    "console": {
        "enabled": True,
        "host": "cells.hospital.example",
        "ingressClassName": "nginx",
        "proxies": ["10.2.0.0/16", "10.3.0.1"],
    },
    "metrics": {"enabled": True, "tokenSecret": "allpacs-metrics"},
    "networkPolicy": {
        "senders": ["10.1.0.0/16", "10.2.3.4/32"],
        "consoleFrom": {"kubernetes.io/metadata.name": "ingress"},
        "metricsFrom": {"kubernetes.io/metadata.name": "monitoring"},
    },
}
VARIANTS = {"defaults": {}, "everything": ALL, "one port of the node": {"receive": {"service": {"type": "NodePort"}}}}


@cache
def _elsewhere() -> ProcessPoolExecutor:
    """Return a process for Helm alone: Go as a library, which beside other native ones has ended the tests' own."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _by_helm(call: Callable[[dict[str, Any]], Any], values: dict[str, Any]) -> Any:
    return _elsewhere().submit(call, values).result(120)


def _lint(values: dict[str, Any]) -> dict[str, Any]:
    import helm_python as helm

    told: dict[str, Any] = helm.lint(CHART, values, strict=True)
    return told


def _render(values: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Return the manifests by file, and why there are none."""
    import helm_python as helm

    try:
        return dict(helm.Chart.load(CHART).render(values, name="site", namespace="allpacs")), ""
    except helm.HelmError as error:
        return {}, str(error)


def _fault_of(values: dict[str, Any]) -> str:
    import helm_python as helm

    try:
        helm.Chart.load(CHART).validate_schema(values)
    except helm.HelmValuesError as error:
        return str(error)
    return ""


def _manifests(values: dict[str, Any]) -> list[dict[str, Any]]:
    rendered, fault = _by_helm(_render, values)
    assert not fault
    return [one for name, text in rendered.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]


def _of(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_finds_nothing_wrong(variant: str) -> None:
    told = _by_helm(_lint, VARIANTS[variant])
    assert not [one for one in told["messages"] if one["severity"] not in ("INFO", 1)], told


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_manifest_is_of_its_schema(variant: str, version: str) -> None:
    manifests = _manifests(VARIANTS[variant])
    assert len(manifests) >= 9
    for one in manifests:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_notice_a_wrong_key() -> None:
    (one, *_) = [one for one in _manifests({}) if one["kind"] == "Deployment"]
    one["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)


def test_a_misspelt_value_is_refused() -> None:
    assert "replica" in _by_helm(_fault_of, {"work": {"replica": 3}})


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pod_may_more_than_it_needs(variant: str) -> None:
    pods = [
        one["spec"]["template"]["spec"] for one in _manifests(VARIANTS[variant]) if "template" in one.get("spec", {})
    ]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_a_worker_is_called_by_its_pods_name_and_gets_its_gpu() -> None:
    (container,) = _of(_manifests(ALL), "StatefulSet", "site-work")["spec"]["template"]["spec"]["containers"]
    named = {one["name"]: one for one in container["env"]}
    assert named["ALLPACS_WORK__EXECUTOR_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["limits"]["memory"] == "6Gi"


def test_the_console_believes_its_proxies_and_may_send_uploads() -> None:
    manifests = _manifests(ALL)
    pod = _of(manifests, "Deployment", "site-console")["spec"]["template"]
    named = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert named["FORWARDED_ALLOW_IPS"] == "10.2.0.0/16,10.3.0.1"
    (rule,) = _of(manifests, "NetworkPolicy", "site-associations")["spec"]["ingress"]
    (console,) = [one["podSelector"]["matchLabels"] for one in rule["from"] if "podSelector" in one]
    assert console.items() <= pod["metadata"]["labels"].items()


def test_policies_and_budgets_are_for_pods_that_there_are() -> None:
    manifests = _manifests(ALL)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if "template" in one.get("spec", {})]
    for one in manifests:
        chosen = {"NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector", "Service": "selector"}.get(
            one["kind"]
        )
        if chosen is not None:
            wanted = one["spec"][chosen]
            wanted = wanted.get("matchLabels", wanted)
            assert any(wanted.items() <= of_pod.items() for of_pod in labels), one["metadata"]["name"]


@pytest.mark.parametrize("process", ["receive", "work", "console"])
def test_what_a_pod_is_told_is_a_configuration(process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the ConfigMap and the environment of the pod, read as the process reads them."""
    manifests = _manifests(ALL)
    kind = "StatefulSet" if process == "work" else "Deployment"
    (container,) = _of(manifests, kind, f"site-{process}")["spec"]["template"]["spec"]["containers"]
    for one in container["env"]:
        text = one.get("value", "postgresql+psycopg://user@db/allpacs")
        monkeypatch.setenv(one["name"], text.replace("/etc/allpacs/tls", str(tmp_path)))
    for key, value in (("ISSUER", "https://login.example"), ("CLIENT_ID", "a"), ("CLIENT_SECRET", "b")):
        monkeypatch.setenv(f"ALLPACS_CONSOLE__OIDC__{key}", value)
    file = tmp_path / "allpacs.toml"
    file.write_text(_of(manifests, "ConfigMap", "site-config")["data"]["allpacs.toml"], encoding="utf-8")
    settings = load_settings(file)
    assert settings.destinations.keys() == {"pacs", "ehr"}
    assert settings.monitor.host == "0.0.0.0"  # noqa: S104
    assert {SCU_AE_TITLE, settings.console.ae_title, settings.receive.ae_title} < set(settings.receive.allowed_calling)
    assert settings.log.format == "json"
    (store,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "store"]
    assert str(settings.store.folder) == store
    assert settings.model.cache.is_relative_to(store)
    if process == "console":  # it sends uploads where the receivers' service takes them
        service = _of(manifests, "Service", settings.receive.host)
        assert settings.receive.port in [one["port"] for one in service["spec"]["ports"]]
    if process == "receive":
        assert settings.receive.port == container["ports"][0]["containerPort"]
    assert container["args"][0] == process


def test_metrics_without_a_token_are_refused() -> None:
    _, fault = _by_helm(_render, {"metrics": {"enabled": True}})
    assert "tokenSecret" in fault
