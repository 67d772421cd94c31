"""Certificates and whom we trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from allpacs.domain.errors import ConfigFault
from allpacs.settings import ServerTlsSettings, TlsSettings

if TYPE_CHECKING:
    from allpacs.dicom.tls import Tls


@overload
def make_tls(one: TlsSettings | ServerTlsSettings, section: str) -> Tls: ...
@overload
def make_tls(one: TlsSettings | ServerTlsSettings | None, section: str) -> Tls | None: ...
def make_tls(one: TlsSettings | ServerTlsSettings | None, section: str) -> Tls | None:
    """Return TLS settings that follow their files; None for none.

    Raises
    ------
    ConfigFault
        A file is missing or cannot be used; the message names the section and the file.
    """
    from allpacs.dicom.tls import TlsFiles, client_tls, server_tls

    if one is None:
        return None
    password = None if one.key_password is None else one.key_password.get_secret_value()
    files = TlsFiles(one.certificate, one.key, password, one.trusted)
    try:
        if isinstance(one, ServerTlsSettings):
            return server_tls(files, require_client_certificate=one.require_client_certificate)
        return client_tls(files, check_hostname=one.check_hostname)
    except ConfigFault as fault:
        raise ConfigFault(f"{section}: {fault}") from None
