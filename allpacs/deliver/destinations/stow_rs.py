"""The destination ``stow_rs``: an archive that takes DICOM results over the web (`allpacs.deliver.stow_rs`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from allpacs.settings.http import HttpSettings

if TYPE_CHECKING:
    from allpacs.deliver.stow_rs import StowRsDestination


class Settings(HttpSettings):
    """An archive that takes DICOM results over the web (STOW-RS)."""

    kind: Literal["stow_rs"]
    base_url: str = Field(
        pattern=r"^https?://",
        description="address of the DICOMweb service, without /studies",
        examples=["https://archive.hospital.example/dicom-web"],
    )

    def make(self, ae_title: str) -> StowRsDestination:  # noqa: ARG002 - only DICOM peers are told who calls
        """Return the live destination; see `DestinationSettings.make`."""
        from allpacs.deliver.stow_rs import StowRsDestination
        from allpacs.dicom.certificates import make_tls

        tls = make_tls(self.tls, "tls")
        return StowRsDestination(self.base_url, bearer_token=self.token, timeout_s=self.timeout_s, tls=tls)
