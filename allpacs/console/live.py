"""Server-sent events: a page that is open follows what happens in the store.

Other processes write to the store, so it is asked; once for all readers, every second, and only while there are any.
An event says *that* something changed; the page then asks for the part of it that shows it.

Source: HTML Living Standard, section 9.2 Server-sent events.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from allpacs.console.visit import Visit
from allpacs.domain.errors import StoreFault
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.console")

_EVERY_S = 1.0


class Watch:
    """Tells readers when the worklist (key "") or a study (its UID) has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readers: dict[str, int] = {}
        self._stamps: dict[str, str] = {}  # by the last look
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            if self._readers:
                with suppress(StoreFault):  # a store that is away has no news
                    await self._look()

    async def changes(self, key: str, seen_stamp: str) -> AsyncIterator[dict[str, str]]:
        """Yield an event whenever what the key stands for has changed since the page with that stamp was made.

        Its data is the stamp of then.
        """
        self._readers[key] = self._readers.get(key, 0) + 1
        try:
            told = await run_in_threadpool(stamp, self._store, key)
            # It may have changed between the page and this question, or while the page was hidden.
            yield {"event": "watching" if told == seen_stamp else "changed", "data": told}
            while True:
                async with self._changed:
                    # Against what this reader was told, not against the look before: that may know more already.
                    while (now := self._stamps.get(key, told)) == told:
                        await self._changed.wait()
                told = now
                yield {"event": "changed", "data": told}
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                self._readers.pop(key)
                self._stamps.pop(key, None)

    async def _look(self) -> None:
        keys = list(self._readers)
        stamps = await run_in_threadpool(lambda: {key: stamp(self._store, key) for key in keys})
        async with self._changed:
            self._stamps.update((key, now) for key, now in stamps.items() if key in self._readers)
            self._changed.notify_all()


def stamp(store: Store, key: str) -> str:
    """Return a word that is another one whenever what the worklist (key "") or a study's page shows has changed."""
    found = store.worklist.study_stamp(key) if key else store.worklist.stamp()
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


@asynccontextmanager
async def watching(app: Starlette) -> AsyncIterator[None]:
    """Watch the store while the application runs."""
    app.state.watch = Watch(app.state.console.store)
    task = asyncio.create_task(app.state.watch.run())
    try:
        yield
    finally:
        task.cancel()


async def events(visit: Visit) -> Response:
    """Stream events of the worklist, or of one study (``?study=UID``), since a page was made (``?stamp=…``)."""
    watch: Watch = visit.request.app.state.watch
    return EventSourceResponse(watch.changes(visit.query("study"), visit.query("stamp")), ping=20)
