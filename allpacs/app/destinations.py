"""Destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allpacs.domain.errors import ConfigFault
from allpacs.settings import DestinationSettings, Settings

if TYPE_CHECKING:
    from allpacs.deliver.destination import Destination


def make_destinations(settings: Settings) -> dict[str, Destination]:
    """Return the configured destinations by name.

    Raises
    ------
    ConfigFault
        One of them cannot be one: the message names it and says what to change.
    """
    made: dict[str, Destination] = {}
    for name, configured in settings.destinations.items():
        try:
            made[name] = make_destination(settings, configured)
        except ConfigFault as fault:
            raise ConfigFault(f"destinations.{name}: {fault}") from None
    return made


def make_destination(settings: Settings, configured: DestinationSettings) -> Destination:
    """Return one destination.

    Raises
    ------
    ConfigFault
        It cannot be one: the message says what to change.
    """
    destination: Destination = configured.make(settings.receive.ae_title)
    return destination
