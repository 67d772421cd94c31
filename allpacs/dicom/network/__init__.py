"""The one package that uses private names of pynetdicom.

It replaces the polling reactor, limits PDUs and messages, and works around two races (docs/pynetdicom.md). Everything
else in allpacs uses only the public API of pynetdicom, whose minor version is pinned for this package.
"""

from pynetdicom import _config

# The library formats every message and PDU for debug logs that nobody reads.
_config.LOG_HANDLER_LEVEL = "none"
