"""Settings: frozen, typed, from one TOML file and then the environment (``ALLPACS_SECTION__KEY``).

An unknown key is an error: a misspelt setting must never be silently ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_data_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from allpacs.domain.errors import ConfigFault
from allpacs.domain.identity import is_ae_title

ENV_PREFIX = "ALLPACS_"
SHIPPED_BUNDLE = Path(__file__).parent / "models" / "first"


def _ae_title(text: str) -> str:
    if not is_ae_title(text):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text.strip(" ")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Section):
    """Our certificate and whom we trust, as a client. PEM files; exchanged ones are in use with the next connection."""

    certificate: Path | None = Field(
        None,
        description="our certificate and its chain; unset: we show none",
        examples=["/etc/allpacs/tls/allpacs.pem"],
    )
    key: Path | None = Field(
        None,
        description="its private key; unset: in the file of the certificate",
        examples=["/etc/allpacs/tls/allpacs.key"],
    )
    key_password: SecretStr | None = Field(
        None, description="of an encrypted key; prefer the environment", examples=["…"]
    )
    trusted: Path | None = Field(
        None, description="authorities we trust; unset: the platform's", examples=["/etc/allpacs/tls/hospital-ca.pem"]
    )
    check_hostname: bool = Field(True, description="the server's certificate must be for the host that is called")


class ServerTlsSettings(_Section):
    """Our certificate and whom we trust, as a server. PEM files; exchanged ones are in use with the next connection."""

    certificate: Path = Field(description="our certificate and its chain", examples=["/etc/allpacs/tls/allpacs.pem"])
    key: Path | None = Field(
        None,
        description="its private key; unset: in the file of the certificate",
        examples=["/etc/allpacs/tls/allpacs.key"],
    )
    key_password: SecretStr | None = Field(
        None, description="of an encrypted key; prefer the environment", examples=["…"]
    )
    trusted: Path | None = Field(
        None,
        description="authorities whose certificates senders must have",
        examples=["/etc/allpacs/tls/hospital-ca.pem"],
    )
    require_client_certificate: bool = Field(True, description="senders without a trusted certificate are refused")


class CommitmentPeerSettings(_Section):
    """Where a sender takes the answer to its storage commitment requests."""

    host: str = Field(description="host name or address", examples=["pacs.hospital.example"])
    port: int = Field(ge=1, le=65535, description="its DICOM port", examples=[104])
    tls: TlsSettings | None = Field(None, description="DICOM TLS; unset: none, and nothing is encrypted")
    timeout_s: float = Field(30.0, gt=0, description="network, ACSE and DIMSE time-out, seconds")


class SourceSettings(_Section):
    """What differs for one sending AE title."""

    quiet_s: float | None = Field(None, ge=0, description="overrides receive.quiet_s for this sender", examples=[30.0])
    close_on_release: bool = Field(
        False, description="the study is complete when this sender releases its association; do not wait for quiet"
    )
    cells: Literal["whole_frame", "nucleus"] | None = Field(
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
    count_in: Literal["NumberOfStudyRelatedInstances", "ImagesInAcquisition"] | None = Field(
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


class ReceiveSettings(_Section):
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
        return _ae_title(text)

    @field_validator("allowed_calling")
    @classmethod
    def _valid_allowed_calling(cls, titles: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_ae_title, titles))

    @field_validator("sources")
    @classmethod
    def _valid_sources(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        return {_ae_title(title): source for title, source in sources.items()}


class StoreSettings(_Section):
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
    keep_days: float | None = Field(
        None,
        ge=0,
        description="what was received is deleted so long after delivery, days; unset: never",
        examples=[90.0],
    )
    history_days: float | None = Field(
        None,
        gt=0,
        description="events of the index's audit and the memory of work that ended are deleted after so long, days; "
        "unset: never",
        examples=[3650.0],
    )


class ModelSettings(_Section):
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
        60.0, gt=0, description="longest silence of the model server; one that is away is waited for so long, seconds"
    )
    cache: Path = Field(
        default_factory=lambda: user_cache_path("allpacs"),
        description="folder that keeps converted networks",
        examples=["/var/cache/allpacs"],
    )


class WorkSettings(_Section):
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


class ReportSettings(_Section):
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


class CStoreSettings(_Section):
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
        return _ae_title(text)


class OAuthSettings(_Section):
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


class _HttpSettings(_Section):
    """What destinations that are asked over HTTP have in common."""

    base_url: str
    bearer_token: SecretStr | None = Field(
        None, description="sent as Authorization: Bearer; prefer the environment", examples=["…"]
    )
    tls: TlsSettings | None = Field(None, description="for https; unset: the platform's authorities, no certificate")
    timeout_s: float = Field(30.0, gt=0, description="time-out of a request, seconds")

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


class MllpSettings(_Section):
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


class FolderSettings(_Section):
    """A folder that takes every result as a file."""

    kind: Literal["folder"]
    folder: Path = Field(description="where the files go", examples=["/var/lib/allpacs/copies"])


DestinationSettings = Annotated[
    CStoreSettings | StowRsSettings | FhirSettings | MllpSettings | FolderSettings, Field(discriminator="kind")
]


class RetrySettings(_Section):
    """When an undelivered result is tried again."""

    first_s: float = Field(2.0, gt=0, description="wait after the first failure, seconds; doubles each time")
    cap_s: float = Field(300.0, gt=0, description="longest wait between two attempts, seconds")
    max_attempts: int | None = Field(None, ge=1, description="then a dead letter; unset: never give up", examples=[50])

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.first_s > self.cap_s:
            raise ValueError(f"first_s ({self.first_s:g}) is longer than cap_s ({self.cap_s:g}), the longest wait")
        return self


class OidcSettings(_Section):
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


class ConsoleSettings(_Section):
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
        return _ae_title(text)

    @model_validator(mode="after")
    def _token_on_loopback_only(self) -> Self:
        if self.oidc is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a console that other machines reach needs console.oidc: a token is for this machine only")
        return self


class MonitorSettings(_Section):
    """Health and metrics over HTTP, one port a process."""

    enabled: bool = Field(True, description="serve /healthz, /readyz and /metrics")
    host: str = Field("127.0.0.1", description="address to listen on; another than loopback needs tls and bearer_token")
    receive_port: int = Field(
        8140, ge=0, le=65535, description="port of the receiver's, and every tenth after it of further ones"
    )
    work_port: int = Field(8141, ge=0, le=65535, description="port of the worker's")
    bearer_token: SecretStr | None = Field(
        None, description="who asks for /metrics has to bear it; unset: anybody", examples=["…"]
    )
    tls: ServerTlsSettings | None = Field(None, description="https; unset: none, and nothing is encrypted")

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if self.host not in ("127.0.0.1", "::1", "localhost") and (self.tls is None or self.bearer_token is None):
            raise ValueError("host is not loopback: set tls and bearer_token too")
        return self


class AuditSettings(_Section):
    """The audit trail (PS3.15 A.5), to a syslog server."""

    host: str | None = Field(
        None,
        description="host name or address of the syslog server; unset: no audit trail",
        examples=["audit.hospital.example"],
    )
    port: int = Field(6514, ge=1, le=65535, description="its port, 6514 for TLS")
    tls: TlsSettings | None = Field(None, description="TLS; unset: none, and nothing is encrypted")
    source_id: str = Field("allpacs", description="this installation, as the audit's reader knows it")


class TracingSettings(_Section):
    """OpenTelemetry traces of studies; needs the extra `allpacs[tracing]`."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of a collector that takes OTLP over HTTP; unset: nothing is traced",
        examples=["http://127.0.0.1:4318/v1/traces"],
    )


class LogSettings(_Section):
    """Logging, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is written")
    format: Literal["console", "json"] = Field("console", description="for people or for a log collector")


class Settings(BaseSettings):
    """Everything that can be configured. See `deploy/allpacs.toml` for a commented example."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    receive: ReceiveSettings = ReceiveSettings()
    store: StoreSettings = Field(default_factory=StoreSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    work: WorkSettings = WorkSettings()
    report: ReportSettings = ReportSettings()
    retry: RetrySettings = RetrySettings()
    console: ConsoleSettings = ConsoleSettings()
    monitor: MonitorSettings = MonitorSettings()
    audit: AuditSettings = AuditSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()
    destinations: dict[str, DestinationSettings] = Field(default_factory=dict)

    @field_validator("destinations")
    @classmethod
    def _safe_names(cls, destinations: dict[str, Any]) -> dict[str, Any]:
        for name in destinations:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"destination name {name!r}: use letters, digits, - and _ only")
        return destinations


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings of a TOML file, overridden by the environment, overridden by the keyword arguments.

    Raises
    ------
    ConfigFault
        The file is missing or not TOML, or a key is unknown or has a wrong value; the message names every one.
    """
    if file is not None and not file.is_file():
        raise ConfigFault(f"no configuration file {file}: write one (see deploy/allpacs.toml) or leave --config out")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, _Environment(settings_cls))
            return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, file))

    _refuse_unknown_sections()
    try:
        return FromFile(**overrides)
    except ValidationError as invalid:
        # Not str(invalid): it prints the values, and a value can be a secret.
        lines = "; ".join(f"{_place(e['loc'], file)}: {e['msg']}" for e in invalid.errors())
        raise ConfigFault(lines) from None
    except SettingsError as broken:  # a whole section given as JSON in one variable, and it is none
        raise ConfigFault(f"environment: {broken}") from None
    except ValueError as broken:  # not TOML
        raise ConfigFault(f"{file}: {broken}") from None


class _Environment(EnvSettingsSource):
    """The environment, whose AE titles keep their case: the base class turns every name into lower case."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        receive = values.get("receive")
        sources = receive.get("sources") if isinstance(receive, dict) else None
        if isinstance(sources, dict):  # anything else is wrong, and is told so when it is validated
            for _, (section, key, *rest) in _nested_variables():
                if (section.lower(), key.lower()) == ("receive", "sources") and rest and rest[0].lower() in sources:
                    sources[rest[0]] = sources.pop(rest[0].lower())
        return values


def _nested_variables() -> Iterator[tuple[str, list[str]]]:
    """Yield each variable of ours that names a key within a section, and its parts: at least section and key."""
    for variable in os.environ:
        parts = variable.removeprefix(ENV_PREFIX).split("__")
        if variable.startswith(ENV_PREFIX) and len(parts) > 1:
            yield variable, parts


def _refuse_unknown_sections() -> None:
    """Refuse ``ALLPACS_SECTION__KEY`` of no section; names without ``__`` are other programs' (Kubernetes sets some).

    Raises
    ------
    ConfigFault
        There is such a variable.
    """
    for variable, (section, *_) in _nested_variables():
        if section.lower() not in Settings.model_fields:
            raise ConfigFault(f"environment {variable}: there is no section {section.lower()!r}")


def _place(location: tuple[int | str, ...], file: Path | None) -> str:
    """Return where a wrong value stands: the environment, which has the last word, or the file."""
    key = ".".join(map(str, location))
    # A location may go deeper than the variable's name: the kind of a destination, the index of a list.
    known = {variable.upper() for variable in os.environ}
    parts = [str(part).upper() for part in location]
    for depth in range(len(parts), 0, -1):
        variable = ENV_PREFIX + "__".join(parts[:depth])
        if variable in known:
            return f"environment {variable}: {key}"
    return f"{file}: {key}" if file is not None else f"settings: {key}"
