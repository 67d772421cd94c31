"""What is kept, how a study is read, and what its report holds: ``[store]``, ``[model]``, ``[work]``, ``[report]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, SecretStr

from allpacs.settings.common import Section

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
    engine: Literal["auto", "openvino", "tensorflow", "remote"] = Field(
        "auto",
        description="auto: TensorFlow on a GPU, else the faster that repeats the bundle's golden cells; "
        "remote: a model server (Open Inference Protocol v2)",
    )
    remote_url: str | None = Field(
        None, description="the model server's address, without /v2", examples=["https://gpu.hospital.example"]
    )
    remote_model: str = Field("allpacs", min_length=1, description="the network's name on the model server")
    remote_token: SecretStr | None = Field(
        None, description="sent to the model server as Authorization: Bearer; prefer the environment", examples=["…"]
    )
    remote_timeout_s: float = Field(
        60.0,
        gt=0,
        description="time-out of a request to the model server; how long one that is away is waited for, seconds",
    )
    cache: Path = Field(
        default_factory=lambda: user_cache_path("allpacs"),
        description="folder that keeps converted networks",
        examples=["/var/cache/allpacs"],
    )


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


class ReportSettings(Section):
    """What the results hold."""

    key_images: int = Field(
        12, ge=0, le=120, description="cells on the key images, each with its class activation map; 0: no key images"
    )
    annotations_above: int = Field(
        2000, ge=1, description="an image with more cells has annotations (ANN) beside a summary report"
    )
    pdf: bool = Field(
        False, description="the report as PDF, too: to the EHR within the FHIR report, to the PACS as Encapsulated PDF"
    )
