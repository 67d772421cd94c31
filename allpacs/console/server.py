"""The console's process: an HTTP server over the application."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import structlog
import uvicorn
from starlette.applications import Starlette

from allpacs.audit.trail import AuditTrail
from allpacs.classify.saliency import Explain
from allpacs.console import access
from allpacs.console.app import make_console
from allpacs.console.http_limits import HttpLimits, RareWarnings, ServerMessages, server_options
from allpacs.domain.errors import ConfigFault
from allpacs.settings import ConsoleSettings, Settings
from allpacs.store.store import Store

_log = structlog.get_logger("allpacs.console")


def run_console(
    settings: Settings,
    store: Store,
    explain: Callable[[], Explain],
    audit: AuditTrail,
    *,
    supervisor: int | None = None,
) -> None:
    """Serve the console until SIGTERM, SIGINT, or the loss of the supervising process.

    Parameters
    ----------
    explain:
        Loads the model for activation maps; called when the first of them is asked for.
    audit:
        Is told what people do.

    Raises
    ------
    ConfigFault
        The address is taken or is none, or the certificate cannot be used.
    """
    console = settings.console
    warnings = RareWarnings()
    ServerMessages(warnings).install()
    config = server_config(settings, make_console(settings, store, explain, audit), HttpLimits(), warnings)
    try:
        config.load()
        socket = config.bind_socket()
    except OSError as error:
        raise ConfigFault(
            f"cannot listen on {console.host}:{console.port} ({error.strerror}): change console.host or console.port"
        ) from None
    except SystemExit:  # how uvicorn says that it cannot bind
        raise ConfigFault(
            f"cannot listen on {console.host}:{console.port}: change console.host or console.port"
        ) from None
    server = uvicorn.Server(config)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # Its own handlers would raise the signal again after it has stopped.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if supervisor is not None:
        threading.Thread(target=_follow, args=(server, supervisor), daemon=True).start()
    _log.info("console_started", host=console.host, port=socket.getsockname()[1])
    server.run(sockets=[socket])


def server_config(
    settings: Settings, application: Starlette, limits: HttpLimits, warnings: RareWarnings
) -> uvicorn.Config:
    """Return how uvicorn serves the console."""
    console = settings.console
    if console.address is not None:  # all come from the proxy
        limits = replace(limits, connections_of_peer=limits.connections)
    return uvicorn.Config(
        application,
        host=console.host,
        port=console.port,
        log_config=None,
        access_log=False,  # paths hold UIDs only, but what a reviewer opens is the audit trail's to tell
        ssl_certfile=None if console.certificate is None else str(console.certificate),
        ssl_keyfile=None if console.key is None else str(console.key),
        proxy_headers=console.address is not None,  # without a proxy, whom a header names is anyone's word
        server_header=False,
        timeout_graceful_shutdown=3,
        **server_options(limits, warnings),
    )


def address(settings: Settings, *, with_token: bool = True) -> str:
    """Return the address to open; for a single user it carries the token, behind the #, which no server sees.

    Raises
    ------
    StoreFault
        The token cannot be read or written.
    """
    console = settings.console
    base = console.address or f"{'https' if console.certificate else 'http'}://{_host(console)}:{console.port}"
    if console.oidc is not None or not with_token:
        return f"{base}/"
    return f"{base}/sign-in#{access.secret_of(settings.store.folder / 'console.token')}"


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


def _host(console: ConsoleSettings) -> str:
    return f"[{console.host}]" if ":" in console.host else console.host


def _follow(server: uvicorn.Server, supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(0.5)
    _log.error("supervisor_lost", pid=supervisor)
    server.should_exit = True
