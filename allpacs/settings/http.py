"""Settings of destinations that are reached over HTTP."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from allpacs.settings.destinations import DestinationSettings
from allpacs.settings.tls import TlsSettings


class HttpSettings(DestinationSettings):
    """What destinations that are asked over HTTP have in common."""

    base_url: str
    bearer_token: SecretStr | None = Field(
        None, description="sent as Authorization: Bearer; prefer the environment", examples=["…"]
    )
    tls: TlsSettings | None = Field(None, description="for https; unset: the platform's authorities, no certificate")
    timeout_s: float = Field(30.0, gt=0, description="time-out of a request, seconds")

    @property
    def address(self) -> str:
        """The base address."""
        return self.base_url

    @property
    def token(self) -> str | None:
        """The bearer token in clear text, or None."""
        return None if self.bearer_token is None else self.bearer_token.get_secret_value()

    @model_validator(mode="after")
    def _tls_with_https(self) -> Self:
        if self.tls is not None and not self.base_url.startswith("https://"):
            raise ValueError("tls is set but base_url is not https://")
        return self
