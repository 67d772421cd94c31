"""Another bundle without a restart: new studies are read with it, those that were begun end with the old one.

The store holds the request (`allpacs use-model`, the console). Each worker looks for it, loads the bundle beside the
one in service and lets it pass the same gate as at a start: digests, signature, golden cells. Only then do new studies
go to it. One that fails is refused with one log line, and nothing changes. The old network is let go of with the last
study that was begun with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from allpacs.domain.errors import ModelFault, StoreFault
from allpacs.store.bundles import BundleChange
from allpacs.store.store import Store
from allpacs.study.steps import StudySteps

_log = structlog.get_logger("allpacs.flow.model_swap")

#: Between two looks for a request, seconds.
_LOOK_S = 1.0


@dataclass(slots=True)
class _InUse:
    reading: StudySteps
    release: Callable[[], None]
    studies: int = 0


class ActiveModel:
    """The reading that new studies get; an older one lives on until its last study has ended."""

    def __init__(self, reading: StudySteps, release: Callable[[], None] = lambda: None) -> None:
        self._changing = threading.Lock()
        self._current = _InUse(reading, release)

    @property
    def latest(self) -> StudySteps:
        """What a study that begins now is read with."""
        return self._current.reading

    @contextmanager
    def current(self) -> Iterator[StudySteps]:
        """Give a study the current reading, and keep that for it until the block ends."""
        with self._changing:
            mine = self._current
            mine.studies += 1
        try:
            yield mine.reading
        finally:
            with self._changing:
                mine.studies -= 1
                ends = mine is not self._current and mine.studies == 0
            if ends:
                mine.release()

    def use(self, reading: StudySteps, release: Callable[[], None] = lambda: None) -> None:
        """Give studies that begin from now on another reading.

        Parameters
        ----------
        release:
            Called once, when that one is replaced and no study needs it any more.
        """
        with self._changing:
            old, self._current = self._current, _InUse(reading, release)
            ends = old.studies == 0
        if ends:
            old.release()


class BundleWatch:
    """Follows the requests to use another bundle.

    Parameters
    ----------
    configured:
        `model.bundle` of the settings.
    use:
        Loads the bundle of a folder, lets it pass the gate, gives it to new studies, and returns its digest.
    """

    def __init__(self, store: Store, configured: Path, use: Callable[[Path], str]) -> None:
        self._store = store
        self._configured = configured
        self._use = use
        self._seen: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bundle-watch", daemon=True)

    def start(self) -> None:
        """Begin to look for requests."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Follow the request that holds, unless that was done or tried already."""
        change = self._store.bundles.wanted(self._configured)
        if change is None or change.id == self._seen:
            return
        self._seen = change.id
        try:
            digest = self._use(change.folder)
        except ModelFault as fault:
            self._refuse(change, str(fault))
        except Exception as error:  # noqa: BLE001 - whatever a model library throws, the old bundle serves on
            self._refuse(change, f"it cannot be loaded ({type(error).__name__})")
        else:
            _log.info("bundle_in_use", path=str(change.folder), digest=digest)
            self._store.bundles.taken(change.id, digest, now=time.time())
            self._store.audit.record("bundle_in_use", at=time.time(), reason=f"{digest}, asked by {change.asked_by}")

    def _refuse(self, change: BundleChange, reason: str) -> None:
        _log.error("bundle_refused", path=str(change.folder), reason=reason)
        self._store.bundles.refused(change.id, reason, now=time.time())
        self._store.audit.record("bundle_refused", at=time.time(), reason=f"{reason}, asked by {change.asked_by}")

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.look()
            except StoreFault as fault:  # asked again in a moment
                _log.error("bundle_watch_failed", reason=str(fault))
