"""``allpacs use-model``: what is asked, what workers answer, what is refused before anybody is asked."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allpacs.app import open_store
from allpacs.cli import app
from allpacs.commands.use_model import ask_for, changes_json
from allpacs.domain.errors import ModelFault
from allpacs.settings import SHIPPED_BUNDLE, Settings, load_settings
from allpacs.store.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(store={"folder": tmp_path / "store"})


def _answer(store: Store, reason: str | None) -> threading.Thread:
    """Answer the first request as a worker does."""

    def run() -> None:
        until = time.monotonic() + 30
        while not store.bundles.latest() and time.monotonic() < until:
            time.sleep(0.02)
        (change,) = store.bundles.latest()
        if reason is None:
            store.bundles.taken(change.id, "sha256:new", now=2.0)
        else:
            store.bundles.refused(change.id, reason, now=2.0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_the_workers_answer_is_told(settings: Settings) -> None:
    store = open_store(settings)
    thread = _answer(store, None)
    assert "sha256:new" in ask_for(store, settings, SHIPPED_BUNDLE, wait_s=60)
    thread.join(10)
    (told,) = changes_json(store.bundles.latest())
    assert (told["state"], told["folder"], told["digest"]) == ("in_use", str(SHIPPED_BUNDLE), "sha256:new")
    # A worker that cannot use what another one does keeps its own, and the request stands.
    store.bundles.refused(int(str(told["id"])), "not on this machine", now=3.0)
    assert store.bundles.wanted(settings.model.bundle) is not None


def test_a_refusal_is_a_model_fault_with_its_reason(settings: Settings) -> None:
    store = open_store(settings)
    thread = _answer(store, "it does not repeat its golden cells")
    with pytest.raises(ModelFault, match=r"bundle in service stays: it does not repeat"):
        ask_for(store, settings, SHIPPED_BUNDLE, wait_s=60)
    thread.join(10)


def test_what_is_no_bundle_is_asked_of_nobody(settings: Settings, tmp_path: Path) -> None:
    store = open_store(settings)
    with pytest.raises(ModelFault, match=r"bundle.json cannot be read"):
        ask_for(store, settings, tmp_path, wait_s=60)
    assert store.bundles.latest() == []


def test_the_command_asks_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLPACS_STORE__FOLDER", str(tmp_path / "store"))
    asked = CliRunner().invoke(app, ["use-model", str(SHIPPED_BUNDLE), "--wait", "0"])
    assert asked.exit_code == 0, asked.output
    assert "no worker has answered yet" in asked.output
    listed = CliRunner().invoke(app, ["use-model"])
    assert "asked" in listed.output
    assert str(SHIPPED_BUNDLE) in listed.output.replace("\n", "")
