"""What is told of the work: ``[monitor]``, ``[audit]``, ``[tracing]``, ``[log]``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from allpacs.settings.common import Section
from allpacs.settings.tls import ServerTlsSettings, TlsSettings


class MonitorSettings(Section):
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


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5), to a syslog server."""

    host: str | None = Field(
        None,
        description="host name or address of the syslog server; unset: no audit trail",
        examples=["audit.hospital.example"],
    )
    port: int = Field(6514, ge=1, le=65535, description="its port, 6514 for TLS")
    tls: TlsSettings | None = Field(None, description="TLS; unset: none, and nothing is encrypted")
    source_id: str = Field("allpacs", description="this installation, as the audit's reader knows it")


class TracingSettings(Section):
    """OpenTelemetry traces of studies; needs the extra `allpacs[tracing]`."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of a collector that takes OTLP over HTTP; unset: nothing is traced",
        examples=["http://127.0.0.1:4318/v1/traces"],
    )


class LogSettings(Section):
    """Logging, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is written")
    format: Literal["console", "json"] = Field("console", description="for people or for a log collector")
