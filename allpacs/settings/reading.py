"""What is kept, how a study is read, and what its report holds: ``[store]``, ``[model]``, ``[work]``, ``[report]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from allpacs.domain.errors import ConfigFault
from allpacs.settings.common import Section, all_errors
from allpacs.settings.engines import ENGINES, EngineSettings, engine_of
from allpacs.settings.extensions import OneOf

SHIPPED_BUNDLE = Path(__file__).parents[1] / "models" / "shipped"


class StoreSettings(Section):
    """Spool and index."""

    folder: Path = Field(
        default_factory=lambda: user_data_path("allpacs"),
        description="folder of spool, index and results",
        examples=["/var/lib/allpacs"],
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="SQLAlchemy URL of the index; unset: SQLite in the store's folder",
        examples=["postgresql+psycopg://allpacs@db.hospital.example/allpacs"],
    )
    retain_images_days: float | None = Field(
        None,
        ge=0,
        description="what was received is deleted so long after delivery, days; unset: never",
        examples=[90.0],
    )
    retain_audit_days: float | None = Field(
        None,
        gt=0,
        description="events of the index's audit and the memory of work that ended are deleted after so long, days; "
        "unset: never",
        examples=[3650.0],
    )


class ModelSettings(Section):
    """The bundle and how it is run."""

    bundle: Path = Field(SHIPPED_BUNDLE, description="folder of the model bundle", examples=["/etc/allpacs/bundle"])
    trusted_key: Path | None = Field(
        None,
        description="Ed25519 public key, PEM: bundles have to be signed with its private one; unset: unsigned, too",
        examples=["/etc/allpacs/release.pub.pem"],
    )
    max_batch: int = Field(32, ge=1, description="cells in one run of the network, at most")
    max_delay_s: float = Field(0.02, ge=0, description="how long a cell waits for others to fill a batch, seconds")
    threads: int | None = Field(None, ge=1, description="CPU threads of the engine; unset: all cores", examples=[4])
    engine: Annotated[str, OneOf(ENGINES, also=("auto",))] = Field(
        "auto",
        description="auto: TensorFlow on a GPU, else the faster that repeats the bundle's golden cells; "
        "remote: a model server (Open Inference Protocol v2)",
    )
    cache: Path = Field(
        default_factory=lambda: user_cache_path("allpacs"),
        description="folder that keeps converted networks",
        examples=["/var/cache/allpacs"],
    )
    _of_engines: dict[str, EngineSettings] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _with_keys_of_engines(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read the keys that belong to an engine with that engine's settings, and only those engines are imported."""
        if not isinstance(given, dict):
            return handler(given)
        own = {key: value for key, value in given.items() if key in cls.model_fields or engine_of(key) is None}
        of_engines: dict[str, dict[str, Any]] = {}
        for key in given.keys() - own.keys():
            of_engines.setdefault(str(engine_of(key)), {})[key] = given[key]
        invalid: list[ValidationError] = []
        read: dict[str, EngineSettings] = {}
        for kind, keys in of_engines.items():
            try:
                read[kind] = ENGINES.get(kind).model_validate(keys)
            except ConfigFault as fault:
                raise ValueError(str(fault)) from None
            except ValidationError as error:
                invalid.append(error)
        try:
            made = handler(own)
        except ValidationError as error:
            invalid.append(error)
        if invalid:
            raise all_errors(cls.__name__, invalid)
        made._of_engines = read
        return made

    def of_engine(self, kind: str) -> EngineSettings:
        """Return the settings of an engine: the keys that were given, and the defaults of the others.

        Raises
        ------
        ConfigFault
            There is no such engine.
        """
        return self._of_engines.get(kind) or ENGINES.get(kind)()


class WorkSettings(Section):
    """The worker."""

    studies_at_a_time: int = Field(
        4, ge=1, description="large studies read at a time by one worker, and as many small ones"
    )
    chunk_instances: int = Field(
        32, ge=1, description="instances, or frames of those with several, between two checkpoints of a study"
    )
    poll_s: float = Field(0.25, gt=0, description="how often the index is asked for due work, seconds")
    executor_id: str = Field(
        "worker-1",
        min_length=1,
        max_length=64,
        description="stable name of this worker, a different one on each machine",
    )
    takeover_after_s: float = Field(
        60.0, gt=0, description="what a worker was at is taken over by another when it has been silent for so long"
    )
    max_pixels: int = Field(100_000_000, ge=1, description="largest frame that is decoded, pixels")
    max_cells: int = Field(10_000, ge=1, description="of a study with more cells, a random sample of so many is judged")


class FhirReportSettings(Section):
    """What FHIR reports hold, and how they name patients and orders."""

    cells: Literal["none", "key", "all"] = Field(
        "key", description="cells with an Observation of their own: none, those on the key images, or all"
    )
    identifier_systems: dict[str, str] = Field(
        default_factory=dict,
        description='URI of the identifier system for each issuer in the images; "" is for images without an issuer',
        examples=[{"HOSP": "urn:oid:1.2.36.1.2001.1005.17"}],
    )
    conditional_patient: bool = Field(
        False,
        description="reference the patient by a search (Patient?identifier=...) that the server resolves, if the "
        "identifier system is known",
    )
    wado_url: str = Field(
        "",
        description="address of an instance at the archive, with {study}, {series} and {instance}; empty: none",
        examples=["https://pacs.example/dicom-web/studies/{study}/series/{series}/instances/{instance}"],
    )


class ReportSettings(Section):
    """What the results hold."""

    fhir: FhirReportSettings = Field(default_factory=FhirReportSettings)
    viewer_url: str = Field(
        "",
        description="address of the study in a viewer, with {study}, for FHIR and HL7 v2; empty: none",
        examples=["https://viewer.example/viewer?StudyInstanceUIDs={study}"],
    )
    hl7_pdf: bool = Field(
        False, description="put the PDF report into HL7 v2 messages, which then have some hundred kilobytes"
    )

    key_images: int = Field(
        12, ge=0, le=120, description="cells on the key images, each with its class activation map; 0: no key images"
    )
    annotations_above: int = Field(
        2000, ge=1, description="an image with more cells has annotations (ANN) beside a summary report"
    )
    pdf: bool = Field(
        False, description="the report as PDF, too: to the EHR within the FHIR report, to the PACS as Encapsulated PDF"
    )
