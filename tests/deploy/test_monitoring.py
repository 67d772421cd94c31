"""Dashboard and alert rules ask for metrics, labels and label values that exist; the rules fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from allpacs.app import open_store
from allpacs.app.health import StoreMetrics
from allpacs.settings import StoreSettings, load_settings
from allpacs.store.records import DeliveryState, RevisionState
from allpacs.telemetry import metrics

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
COMPOSE = MONITORING.parent / "compose"

#: Labels that Prometheus itself puts on a series, and the recorded series of its own.
_SCRAPED = {"job", "instance", "process"}
_OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the labels by name of every series that receiver and worker export."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        if family.name.endswith("_created"):
            continue
        # A metric without a labelled child yet has no sample; its type says what its series are called.
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        for end in ends:
            labels[f"{family.name}{end}"] = {"le"} if end == "_bucket" else set()
    for one in vars(metrics).values():
        name, names = getattr(one, "_name", None), getattr(one, "_labelnames", ())
        for series in labels:
            if name is not None and re.fullmatch(rf"{name}(_total|_bucket|_count|_sum)?", series):
                labels[series] |= set(names)
    folder = tmp_path_factory.mktemp("store")
    store = open_store(load_settings(store=StoreSettings(folder=folder)))
    for collected in StoreMetrics(store).collect():
        labels[collected.name] = set(getattr(collected, "_labelnames", ()))
    store.close()
    return labels


def _expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def _selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    for name in ("expr", "lhs", "rhs", "param"):
        if (inner := getattr(node, name, None)) is not None:
            yield from _selectors(inner)
    for argument in getattr(node, "args", ()) or ():
        yield from _selectors(argument)


@pytest.mark.parametrize(("where", "expression"), list(_expressions()), ids=lambda text: text[:40])
def test_every_series_asked_for_is_exported(where: str, expression: str, exported: dict[str, set[str]]) -> None:
    selectors = list(_selectors(promql_parser.parse(expression)))
    assert selectors, where
    values = {"allpacs_deliveries": set(DeliveryState), "allpacs_studies": {"receiving", *RevisionState}}
    for selector in selectors:
        if selector.name in _OF_PROMETHEUS:
            continue
        assert selector.name in exported, f"{where}: nothing exports {selector.name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in exported[selector.name] | _SCRAPED, f"{where}: {selector.name} has no {matcher.name}"
            if matcher.name == "state":
                assert matcher.value in values[selector.name], where
    grouped = set(re.findall(r"by \(([^)]*)\)", expression))
    known = set().union(*(exported.get(one.name, set()) for one in selectors)) | _SCRAPED
    for names in grouped:
        assert {name.strip() for name in names.split(",")} <= known, f"{where}: {names}"


def test_every_metric_is_shown_or_watched(exported: dict[str, set[str]]) -> None:
    asked = {one.name for _, text in _expressions() for one in _selectors(promql_parser.parse(text))}
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in exported if name.startswith("allpacs_")}
    shown = {re.sub(r"_(total|bucket|count|sum)$", "", str(name)) for name in asked}
    assert families <= shown, f"on no panel and in no rule: {sorted(families - shown)}"


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian's package prometheus)")
def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        told = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout + told.stderr
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    shutil.copy(COMPOSE / "prometheus.yml", tmp_path)
    told = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_is_tried() -> None:
    rules = set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text(encoding="utf-8")))
    tried = set(re.findall(r"alertname(?::|=) ?\"?(\w+)", (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")))
    assert rules == tried


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
