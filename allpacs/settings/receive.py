"""Who may send, and when a study is complete: ``[receive]``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from allpacs.domain.extensions import CELL_FINDERS
from allpacs.settings.common import Section, ae_title
from allpacs.settings.extensions import OneOf
from allpacs.settings.tls import ServerTlsSettings, TlsSettings


class CommitmentPeerSettings(Section):
    """Where a sender takes the answer to its storage commitment requests."""

    host: str = Field(description="host name or address", examples=["pacs.hospital.example"])
    port: int = Field(ge=1, le=65535, description="its DICOM port", examples=[104])
    tls: TlsSettings | None = Field(None, description="DICOM TLS; unset: none, and nothing is encrypted")
    timeout_s: float = Field(30.0, gt=0, description="network, ACSE and DIMSE time-out, seconds")


class SourceSettings(Section):
    """What differs for one sending AE title."""

    quiet_s: float | None = Field(None, ge=0, description="overrides receive.quiet_s for this sender", examples=[30.0])
    close_on_release: bool = Field(
        False, description="the study is complete when this sender releases its association; do not wait for quiet"
    )
    cell_finder: Annotated[str, OneOf(CELL_FINDERS)] | None = Field(
        None,
        description="how cells are found in this sender's images; unset: chosen by the picture",
        examples=["nucleus"],
    )
    spacing_um: float | None = Field(
        None,
        gt=0,
        description="distance of pixels where neither the image nor its red cells tell, micrometres",
        examples=[0.1],
    )
    instance_count_attribute: Literal["NumberOfStudyRelatedInstances", "ImagesInAcquisition"] | None = Field(
        None,
        description="attribute in which this sender says how many instances a study has; unset: it does not",
        examples=["NumberOfStudyRelatedInstances"],
    )
    instances_per_s: float | None = Field(
        None, gt=0, description="a faster sender is held back; unset: no limit", examples=[50.0]
    )
    commitment: CommitmentPeerSettings | None = Field(
        None, description="where it takes storage commitment answers; unset: on its own association only"
    )


class ReceiveSettings(Section):
    """The association side."""

    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for every interface",
        examples=["0.0.0.0"],  # noqa: S104 - an example
    )
    port: int = Field(11112, ge=0, le=65535, description="TCP port to listen on")
    ae_title: str = Field("ALLPACS", description="our AE title, which the PACS calls")
    require_called_ae_title: bool = Field(True, description="reject associations that call another AE title")
    allowed_calling: tuple[str, ...] = Field((), description="AE titles that may send; empty: any", examples=[["PACS"]])
    allowed_networks: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="addresses that may connect, for example 10.1.0.0/16 or one address; empty: any",
        examples=[["10.1.0.0/16"]],
    )
    tls: ServerTlsSettings | None = Field(None, description="DICOM TLS; unset: none, and nothing is encrypted")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that listen on the port; each has the limits of this section to itself",
        examples=[4],
    )
    max_associations: int = Field(32, ge=1, description="associations served at a time; further ones are rejected")
    max_pdu: int = Field(131072, ge=4096, description="largest PDU we take, bytes")
    quiet_s: float = Field(10.0, ge=0, description="a study without a new instance for so long is read, seconds")
    max_age_s: float = Field(3600.0, gt=0, description="a study that never goes quiet is read after so long, seconds")
    min_free_mb: int = Field(1024, ge=0, description="below this much free disk instances are refused with A700, MB")
    resume_free_mb: int | None = Field(
        None,
        ge=0,
        description="instances are taken again from this much free disk on, MB; unset: a tenth more",
        examples=[4096],
    )
    max_waiting: int | None = Field(
        None,
        ge=1,
        description="with more studies waiting to be read, instances are refused with A700; unset: no limit",
        examples=[500],
    )
    max_memory_mb: int = Field(
        2048,
        ge=1,
        description="for unfinished messages of all associations, MB; instances of more than 64 MB go by disk instead",
    )
    sources: dict[str, SourceSettings] = Field(default_factory=dict, description="by calling AE title")

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.resume_free_mb is not None and self.resume_free_mb < self.min_free_mb:
            raise ValueError(f"resume_free_mb ({self.resume_free_mb}) is less than min_free_mb ({self.min_free_mb})")
        return self

    @model_validator(mode="after")
    def _one_port(self) -> Self:
        if self.processes > 1 and self.port == 0:
            raise ValueError("several receive.processes need a receive.port that is not 0")
        return self

    @field_validator("ae_title")
    @classmethod
    def _valid_ae_title(cls, text: str) -> str:
        return ae_title(text)

    @field_validator("allowed_calling")
    @classmethod
    def _valid_allowed_calling(cls, titles: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(ae_title, titles))

    @field_validator("sources")
    @classmethod
    def _valid_sources(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        return {ae_title(title): source for title, source in sources.items()}
