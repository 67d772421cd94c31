"""The bundle that new studies are read with, as the console shows and explains it: it follows a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import structlog

from allpacs.classify.bundle import Bundle, load_bundle
from allpacs.classify.saliency import Explain
from allpacs.console.activation import Activation
from allpacs.console.pictures import Pictures
from allpacs.domain.errors import ModelFault
from allpacs.settings import Settings
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.console")


class BundleInUse:
    """The configured bundle, or the one that a worker has taken into use instead.

    Parameters
    ----------
    explain:
        Loads the model in use for activation maps; None: there are none.
    """

    def __init__(
        self, settings: Settings, store: Store, pictures: Pictures, explain: Callable[[], Explain] | None
    ) -> None:
        self._configured = settings.model.bundle
        self._store = store
        self._pictures = pictures
        self._explain = explain
        self._lock = Lock()
        self._load(self._configured)

    @property
    def bundle(self) -> Bundle | None:
        """The bundle; None where it is not what it says it is: the worker then says why."""
        self._follow()
        return self._bundle

    @property
    def activation(self) -> Activation | None:
        """What explains it, or None."""
        self._follow()
        return self._activation

    def _follow(self) -> None:
        folder = self._store.bundles.in_use(self._configured)
        with self._lock:
            if folder != self._folder:
                self._load(folder)

    def _load(self, folder: Path) -> None:
        self._folder = folder
        self._bundle: Bundle | None = None
        self._activation: Activation | None = None
        try:
            self._bundle = load_bundle(folder)
        except ModelFault as fault:  # people can review what was read before
            _log.warning("bundle_not_usable", reason=str(fault))
            return
        if self._explain is not None:
            self._activation = Activation(self._pictures, self._bundle, self._explain)
