"""The settings of certificates and of whom we trust, made into TLS settings."""

from __future__ import annotations

from typing import overload

from allpacs.dicom.tls import Tls, TlsFiles, client_tls, server_tls
from allpacs.domain.errors import ConfigFault
from allpacs.settings.tls import ServerTlsSettings, TlsSettings


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
