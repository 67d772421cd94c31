"""The destination ``c_store``: a PACS that takes DICOM results by C-STORE (`allpacs.deliver.c_store`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from allpacs.settings.common import ae_title as valid_ae_title
from allpacs.settings.destinations import DestinationSettings
from allpacs.settings.tls import TlsSettings

if TYPE_CHECKING:
    from allpacs.deliver.c_store import CStoreDestination


class Settings(DestinationSettings):
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
        return valid_ae_title(text)

    @property
    def address(self) -> str:
        """``AE@host:port``."""
        return f"{self.called_ae}@{self.host}:{self.port}"

    def make(self, ae_title: str) -> CStoreDestination:
        """Return the live destination; see `DestinationSettings.make`."""
        from allpacs.deliver.c_store import CStoreDestination
        from allpacs.dicom.certificates import make_tls

        return CStoreDestination(
            self.host,
            self.port,
            self.called_ae,
            ae_title,
            timeout_s=self.timeout_s,
            tls=make_tls(self.tls, "tls"),
            commitment=self.commitment,
            commitment_within_s=self.commitment_within_s,
        )
