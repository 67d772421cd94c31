"""Every module of this package is a kind of destination; see `allpacs.settings.destinations.DestinationSettings`."""
