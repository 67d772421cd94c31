"""How a DICOM peer is named on the command line: ``AE@host:port``."""

from __future__ import annotations

from allpacs.domain.errors import ConfigFault
from allpacs.domain.identity import is_ae_title


def peer(text: str) -> tuple[str, str, int]:
    """Return AE title, host and port of ``AE@host:port``.

    Raises
    ------
    ConfigFault
        It is not of that form.
    """
    ae_title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and host and port.isdecimal() and 0 < int(port) < 65536 and is_ae_title(ae_title)):
        raise ConfigFault(f"{text!r} is not of the form AE@host:port, for example ORTHANC@127.0.0.1:4242")
    return ae_title, host.strip("[]"), int(port)
