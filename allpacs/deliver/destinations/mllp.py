"""The destination ``mllp``: an EHR that takes HL7 v2 messages over MLLP (`allpacs.deliver.mllp`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from allpacs.settings.destinations import DestinationSettings
from allpacs.settings.tls import TlsSettings

if TYPE_CHECKING:
    from allpacs.deliver.mllp import MllpDestination


class Settings(DestinationSettings):
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

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    def make(self, ae_title: str) -> MllpDestination:  # noqa: ARG002 - only DICOM peers are told who calls
        """Return the live destination; see `DestinationSettings.make`."""
        from allpacs.deliver.mllp import MllpDestination
        from allpacs.dicom.certificates import make_tls

        return MllpDestination(
            self.host,
            self.port,
            application=self.application,
            facility=self.facility,
            timeout_s=self.timeout_s,
            tls=make_tls(self.tls, "tls"),
        )
