"""``allpacs health``: ask a process of this machine whether it is well, as supervisors of containers do."""

from __future__ import annotations

import httpx

from allpacs.commands.process import Process
from allpacs.domain.errors import AllpacsError, ConfigFault
from allpacs.settings import Settings


def ask_health(settings: Settings, process: Process, *, ready: bool = False) -> str:
    """Ask a process on this machine; return one line.

    Parameters
    ----------
    ready:
        Ask whether it can serve now, and not only whether it is alive.

    Raises
    ------
    AllpacsError
        It does not answer, or says what is wrong.
    ConfigFault
        There is nobody to ask: the monitor is turned off.
    """
    monitor = settings.monitor
    if not monitor.enabled:
        raise ConfigFault("monitor.enabled is false: there is nobody to ask")
    port = monitor.receive_port if process is Process.RECEIVE else monitor.work_port
    scheme = "http" if monitor.tls is None else "https"
    address = f"{scheme}://{reachable(monitor.host)}:{port}/{'readyz' if ready else 'healthz'}"
    try:
        # This machine's own process: nothing secret is said, and its certificate is for another name than loopback.
        answer = httpx.get(address, verify=False, trust_env=False, timeout=5.0)  # noqa: S501
    except httpx.HTTPError as error:
        raise AllpacsError(f"{process}: nobody answers at {address} ({type(error).__name__})") from None
    if answer.headers.get("Server") != "allpacs":
        raise AllpacsError(f"{process}: it is not allpacs that answers at {address}")
    if not answer.is_success:
        raise AllpacsError(f"{process}: {answer.json().get('reason', answer.status_code)}")
    return f"{process}: {'ready' if ready else 'alive'}"


def reachable(host: str) -> str:
    """Return the address at which this machine reaches what listens at an address."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104 - not bound
