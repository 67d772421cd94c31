"""The destination ``fhir``: a FHIR R4 server that takes transaction Bundles (`allpacs.deliver.fhir_rest`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from allpacs.settings.common import Section
from allpacs.settings.http import HttpSettings

if TYPE_CHECKING:
    from allpacs.deliver.fhir_rest import FhirRestDestination
    from allpacs.deliver.smart import BackendServices
    from allpacs.dicom.tls import Tls


class OAuthSettings(Section):
    """Tokens by SMART Backend Services: OAuth 2.0 client credentials with a signed assertion."""

    token_url: str = Field(
        pattern=r"^https?://",
        description="token endpoint of the authorization server",
        examples=["https://auth.hospital.example/token"],
    )
    client_id: str = Field(min_length=1, description="our identifier there", examples=["allpacs"])
    private_key: Path = Field(
        description="PEM file of our private key, RSA or EC P-384; the public key is registered there",
        examples=["/etc/allpacs/oauth.key"],
    )
    key_id: str = Field("", description="kid of the public key as registered there", examples=["1"])
    scope: str = Field("system/*.cu", description="scopes asked for: SMART v2, to create and update")


class Settings(HttpSettings):
    """A FHIR R4 server that takes transaction Bundles."""

    kind: Literal["fhir"]
    base_url: str = Field(
        pattern=r"^https?://",
        description="base address of the FHIR server",
        examples=["https://fhir.hospital.example/r4"],
    )
    oauth: OAuthSettings | None = Field(None, description="fetch tokens (SMART Backend Services); then no bearer_token")

    def make(self, ae_title: str) -> FhirRestDestination:  # noqa: ARG002 - only DICOM peers are told who calls
        """Return the live destination; see `DestinationSettings.make`."""
        from allpacs.deliver.fhir_rest import FhirRestDestination
        from allpacs.dicom.certificates import make_tls

        tls = make_tls(self.tls, "tls")
        return FhirRestDestination(
            self.base_url, bearer_token=self.token, tokens=self._tokens(tls), timeout_s=self.timeout_s, tls=tls
        )

    def _tokens(self, tls: Tls | None) -> BackendServices | None:
        oauth = self.oauth
        if oauth is None:
            return None
        from allpacs.deliver.smart import BackendServices

        return BackendServices(
            oauth.token_url,
            oauth.client_id,
            oauth.private_key,
            key_id=oauth.key_id,
            scope=oauth.scope,
            timeout_s=self.timeout_s,
            tls=tls if oauth.token_url.startswith("https://") else None,
        )
