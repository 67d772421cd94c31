"""What is told of a process: audit trail, traces, health and metrics."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import structlog

from allpacs.dicom.certificates import make_tls
from allpacs.domain.errors import StoreFault
from allpacs.settings import Settings
from allpacs.store.store import Store
from allpacs.telemetry import tracing

if TYPE_CHECKING:
    from allpacs.app.health import Check, Monitor
    from allpacs.audit.trail import AuditTrail

_log = structlog.get_logger("allpacs.app")


def make_audit(settings: Settings, process: str) -> AuditTrail:
    """Return the audit trail of a process, which tells of its start."""
    from allpacs.audit.trail import NoTrail, SyslogTrail

    one = settings.audit
    if one.host is None:
        return NoTrail()
    spools = settings.store.folder / "audit"
    # Machines share a store, and workers of one machine have names of their own.
    instance = f"work-{settings.work.executor_id}" if process == "work" else process
    trail = SyslogTrail(
        spools / re.sub(r"[^A-Za-z0-9@._-]", "_", f"{instance}@{socket.gethostname()}"),
        one.host,
        one.port,
        ae_title=settings.receive.ae_title,
        source_id=one.source_id,
        tls=make_tls(one.tls, "audit.tls"),
        spools=spools,
    )
    trail.started(process)
    return trail


def start_tracing(settings: Settings, process: str) -> None:
    """Send this process's spans to the configured collector, if there is one.

    Parameters
    ----------
    process:
        ``work``, ``receive``, or of several receivers ``receive-2`` and so on.

    Raises
    ------
    ConfigFault
        There is one, and OpenTelemetry is not installed.
    """
    endpoint = settings.tracing.endpoint
    if endpoint is not None:
        instance = settings.work.executor_id if process == "work" else f"{socket.gethostname()}/{process}"
        tracing.start(process.partition("-")[0], endpoint, instance)


def start_monitor(settings: Settings, store: Store, port: int, *, healthy: Check, ready: Check) -> Monitor | None:
    """Serve a process's health and metrics; None where that is turned off or its port is taken.

    A port that is taken is no reason not to receive or to work: it is logged.

    Parameters
    ----------
    ready:
        What else has to be well than the store.
    """
    from allpacs.app.health import Monitor, StoreMetrics

    one = settings.monitor
    if not one.enabled:
        return None

    def all_ready() -> str | None:
        try:
            store.receiving.waiting()
            if store.receiving.free_bytes() < settings.receive.min_free_mb * 1_000_000:
                return "free disk is below receive.min_free_mb"
        except StoreFault as fault:
            return str(fault)
        return healthy() or ready()

    monitor = Monitor(
        one.host,
        port,
        healthy=healthy,
        ready=all_ready,
        collector=StoreMetrics(store),
        token=None if one.bearer_token is None else one.bearer_token.get_secret_value(),
        tls=make_tls(one.tls, "monitor.tls"),
    )
    try:
        monitor.start()
    except OSError as error:
        _log.error("monitor_not_started", host=one.host, port=port, reason=error.strerror)
        return None
    return monitor
