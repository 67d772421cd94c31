"""Certificates and whom we trust, as a client and as a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from allpacs.settings.common import Section

_Key = Annotated[
    Path | None,
    Field(
        description="its private key; unset: in the file of the certificate", examples=["/etc/allpacs/tls/allpacs.key"]
    ),
]
_KeyPassword = Annotated[
    SecretStr | None, Field(description="of an encrypted key; prefer the environment", examples=["…"])
]


class TlsSettings(Section):
    """Our certificate and whom we trust, as a client. PEM files; exchanged ones are in use with the next connection."""

    certificate: Path | None = Field(
        None,
        description="our certificate and its chain; unset: we show none",
        examples=["/etc/allpacs/tls/allpacs.pem"],
    )
    key: _Key = None
    key_password: _KeyPassword = None
    trusted: Path | None = Field(
        None, description="authorities we trust; unset: the platform's", examples=["/etc/allpacs/tls/hospital-ca.pem"]
    )
    check_hostname: bool = Field(True, description="the server's certificate must be for the host that is called")


class ServerTlsSettings(Section):
    """Our certificate and whom we trust, as a server. PEM files; exchanged ones are in use with the next connection."""

    certificate: Path = Field(description="our certificate and its chain", examples=["/etc/allpacs/tls/allpacs.pem"])
    key: _Key = None
    key_password: _KeyPassword = None
    trusted: Path | None = Field(
        None,
        description="authorities whose certificates senders must have",
        examples=["/etc/allpacs/tls/hospital-ca.pem"],
    )
    require_client_certificate: bool = Field(True, description="senders without a trusted certificate are refused")
