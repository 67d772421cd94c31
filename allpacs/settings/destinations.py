"""Where results go, and when they are tried again: ``[destinations.NAME]``, ``[retry]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from allpacs.settings.common import Section, ae_title
from allpacs.settings.tls import TlsSettings


class CStoreSettings(Section):
    """A PACS that takes DICOM results by C-STORE."""

    kind: Literal["c_store"]
    host: str = Field(description="host name or address of the PACS", examples=["pacs.hospital.example"])
    port: int = Field(ge=1, le=65535, description="its DICOM port", examples=[104])
    called_ae: str = Field(description="its AE title", examples=["PACS"])
    tls: TlsSettings | None = Field(None, description="DICOM TLS; unset: none, and nothing is encrypted")
    timeout_s: float = Field(30.0, gt=0, description="network, ACSE and DIMSE time-out, seconds")
    commitment: Literal["when_offered", "always", "never"] = Field(
        "when_offered", description="whether a result counts as delivered only when the PACS has committed to it"
    )
    commitment_within_s: float = Field(
        600.0, gt=0, description="how long its answer is waited for before it is asked again, seconds"
    )

    @field_validator("called_ae")
    @classmethod
    def _valid_ae_title(cls, text: str) -> str:
        return ae_title(text)


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


class _HttpSettings(Section):
    """What destinations that are asked over HTTP have in common."""

    base_url: str
    bearer_token: SecretStr | None = Field(
        None, description="sent as Authorization: Bearer; prefer the environment", examples=["…"]
    )
    tls: TlsSettings | None = Field(None, description="for https; unset: the platform's authorities, no certificate")
    timeout_s: float = Field(30.0, gt=0, description="time-out of a whole request, seconds; a large one has more")

    @model_validator(mode="after")
    def _tls_with_https(self) -> Self:
        if self.tls is not None and not self.base_url.startswith("https://"):
            raise ValueError("tls is set but base_url is not https://")
        return self


class FhirSettings(_HttpSettings):
    """A FHIR R4 server that takes transaction Bundles."""

    kind: Literal["fhir"]
    base_url: str = Field(
        pattern=r"^https?://",
        description="base address of the FHIR server",
        examples=["https://fhir.hospital.example/r4"],
    )
    oauth: OAuthSettings | None = Field(None, description="fetch tokens (SMART Backend Services); then no bearer_token")


class StowRsSettings(_HttpSettings):
    """An archive that takes DICOM results over the web (STOW-RS)."""

    kind: Literal["stow_rs"]
    base_url: str = Field(
        pattern=r"^https?://",
        description="address of the DICOMweb service, without /studies",
        examples=["https://archive.hospital.example/dicom-web"],
    )


class MllpSettings(Section):
    """An EHR that takes HL7 v2 messages (ORU^R01) over MLLP."""

    kind: Literal["mllp"]
    host: str = Field(
        min_length=1, description="host name or address of the receiver", examples=["interface-engine.hospital.example"]
    )
    port: int = Field(ge=1, le=65535, description="its port", examples=[2575])
    application: str = Field("", max_length=180, description="receiving application (MSH-5)", examples=["RIS"])
    facility: str = Field("", max_length=180, description="receiving facility (MSH-6)", examples=["HOSPITAL"])
    tls: TlsSettings | None = Field(None, description="unset: none, and nothing is encrypted")
    timeout_s: float = Field(30.0, gt=0, description="wait for the connection and the acknowledgement, seconds")


class FolderSettings(Section):
    """A folder that takes every result as a file."""

    kind: Literal["folder"]
    folder: Path = Field(description="where the files go", examples=["/var/lib/allpacs/copies"])


DestinationSettings = Annotated[
    CStoreSettings | StowRsSettings | FhirSettings | MllpSettings | FolderSettings, Field(discriminator="kind")
]


class RetrySettings(Section):
    """When an undelivered result is tried again."""

    first_s: float = Field(2.0, gt=0, description="wait after the first failure, seconds; doubles each time")
    cap_s: float = Field(300.0, gt=0, description="longest wait between two attempts, seconds")
    max_attempts: int | None = Field(None, ge=1, description="then a dead letter; unset: never give up", examples=[50])

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.first_s > self.cap_s:
            raise ValueError(f"first_s ({self.first_s:g}) is longer than cap_s ({self.cap_s:g}), the longest wait")
        return self
