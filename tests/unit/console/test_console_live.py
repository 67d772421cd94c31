"""A page that is open is told when what it shows has changed, also between its making and its first question."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from allpacs.console import live
from allpacs.domain.review import Decision
from allpacs.store.reviews import NewDecision
from allpacs.store.store import Store
from console_samples import reported_study


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
