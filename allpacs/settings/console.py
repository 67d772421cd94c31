"""The console and who may sign in: ``[console]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from allpacs.settings.common import Section, ae_title


class OidcSettings(Section):
    """Sign-in through the hospital's OpenID Connect provider."""

    issuer: str = Field(
        pattern=r"^https?://",
        description="issuer; its discovery document says the rest",
        examples=["https://login.hospital.example/realms/hospital"],
    )
    client_id: str = Field(description="what the provider knows the console by", examples=["allpacs"])
    client_secret: SecretStr = Field(description="its secret; prefer the environment", examples=["…"])
    roles_claim: str = Field("roles", description="claim of the ID token or user info that lists a person's groups")
    viewers: tuple[str, ...] = Field(("allpacs-viewer",), description="groups that may look")
    reviewers: tuple[str, ...] = Field(("allpacs-reviewer",), description="groups that may review, sign and upload")
    administrators: tuple[str, ...] = Field(("allpacs-administrator",), description="groups that may operate")


class ConsoleSettings(Section):
    """The review console."""

    enabled: bool = Field(True, description="`serve` runs it")
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs console.oidc")
    port: int = Field(8142, ge=0, le=65535, description="TCP port to listen on")
    address: str | None = Field(
        None,
        pattern=r"^https?://",
        description="how browsers reach it through a proxy, for example https://cells.example",
        examples=["https://cells.hospital.example"],
    )
    certificate: Path | None = Field(
        None,
        description="PEM certificate and chain; unset: no TLS of its own",
        examples=["/etc/allpacs/tls/allpacs.pem"],
    )
    key: Path | None = Field(
        None,
        description="its private key; unset: in the file of the certificate",
        examples=["/etc/allpacs/tls/allpacs.key"],
    )
    oidc: OidcSettings | None = Field(None, description="unset: one user, by a token in the store's folder")
    reviewer_name: str = Field(
        "",
        description="with the token: who reviews, as Family^Given; may be changed on signing",
        examples=["Curie^Marie"],
    )
    organisation: str = Field(
        "", description="who reviewers sign for; may be changed on signing", examples=["Hospital"]
    )
    idle_minutes: float = Field(30.0, gt=0, description="a session that nobody uses for so long ends")
    ae_title: str = Field("ALLPACS_CONSOLE", description="AE title that uploads are sent under, to our own receiver")
    max_upload_mb: int = Field(1024, ge=1, description="largest upload, all its files together, MB")
    locale: Literal["en", "ar"] | None = Field(None, description="language; unset: the browser's", examples=["ar"])

    @field_validator("ae_title")
    @classmethod
    def _valid_ae_title(cls, text: str) -> str:
        return ae_title(text)

    @model_validator(mode="after")
    def _token_on_loopback_only(self) -> Self:
        if self.oidc is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a console that other machines reach needs console.oidc: a token is for this machine only")
        return self
