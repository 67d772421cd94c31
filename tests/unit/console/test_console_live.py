"""A page that is open is told when what it shows has changed, also between its making and its first question."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from allpacs.console import live
from allpacs.domain.review import Decision
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from support.console_samples import reported_study


def decide(store: Store, study: str, version: int) -> None:
    (first, *_) = store.findings.get(study, 1)
    decision = Decision.ACCEPTED if version % 2 == 0 else None
    new = NewDecision(first.cells[0].tracking_uid, decision, None, version)
    store.reviews.decide(study, 1, [new], by="sam", now=time.time())


def test_changes_are_told_once_and_only_to_whom_they_concern(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    study = reported_study(store, tmp_path / "a", cells=1, seeds=[1])
    other = reported_study(store, tmp_path / "b", cells=1, seeds=[2], at=3000.0)

    async def follow() -> None:
        watch = live.Watch(store)
        looking = asyncio.create_task(watch.run())
        mine, list_, others = (watch.changes(key, live.stamp(store, key)) for key in (study, "", other))
        for reader in (mine, list_, others):
            assert (await anext(reader))["event"] == "watching"
        await asyncio.to_thread(decide, store, study, 0)
        for reader in (mine, list_):
            assert (await asyncio.wait_for(anext(reader), 10))["event"] == "changed"
        waiting = asyncio.create_task(anext(others))
        await asyncio.sleep(1.3)
        assert not waiting.done()
        waiting.cancel()
        looking.cancel()

    asyncio.run(follow())
    store.close()


def test_a_change_between_the_page_and_its_first_question_is_told(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    study = reported_study(store, tmp_path / "a", cells=1, seeds=[1])

    async def follow() -> None:
        stamp = live.stamp(store, study)
        decide(store, study, 0)
        assert (await anext(live.Watch(store).changes(study, stamp)))["event"] == "changed"

    asyncio.run(follow())
    store.close()


def test_what_changes_while_a_reader_comes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that ends before the reader's own question, and knows more already, takes no news away from it."""
    store = Store.open(tmp_path / "store")
    asked, go_on = threading.Event(), threading.Event()

    def slow(_store: Store, _key: str) -> str:
        if asked.is_set():
            return "after"
        asked.set()
        assert go_on.wait(10)
        return "before"

    monkeypatch.setattr(live, "stamp", slow)

    async def followed() -> list[str]:
        watch = live.Watch(store)
        changes = watch.changes("1.2.3", "before")
        first = asyncio.ensure_future(anext(changes))
        await asyncio.to_thread(asked.wait, 10)
        await watch._look()
        go_on.set()
        events = [(await first)["event"]]
        second = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await watch._look()
        events.append((await asyncio.wait_for(second, 10))["data"])
        await changes.aclose()
        return events

    assert asyncio.run(followed()) == ["watching", "after"]
    store.close()
