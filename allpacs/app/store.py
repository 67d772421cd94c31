"""The store that the settings name."""

from __future__ import annotations

from allpacs.settings import Settings
from allpacs.store.store import Store


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name, making it where there is none yet."""
    return Store.open(settings.store.folder, settings.store.database_url)
