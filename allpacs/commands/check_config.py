"""``allpacs check-config``: ask everything the configuration names whether it is there."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from rich.console import Console

from allpacs.app import make_destination, make_pipeline, make_tls, open_store
from allpacs.domain.errors import AllpacsError
from allpacs.settings import Settings


def run_checks(settings: Settings) -> int:
    """Run every check, print one line each, and return how many failed."""
    console = Console(highlight=False, soft_wrap=True)
    checks: dict[str, Callable[[], str]] = {
        "store": lambda: _store(settings),
        "receiver": lambda: _port(settings),
        "model": lambda: _model(settings),
        **{f"destination {name}": partial(_destination, settings, name) for name in settings.destinations},
    }
    failed = 0
    for name, check in checks.items():
        try:
            console.print(f"[green]ok[/green]    {name}: {check()}")
        except AllpacsError as fault:
            failed += 1
            console.print(f"[red]failed[/red] {name}: {fault}")
    if not settings.destinations:
        console.print("[yellow]note[/yellow]  no destinations: results stay in the store")
    return failed


def _store(settings: Settings) -> str:
    store = open_store(settings)
    free = store.receiving.free_bytes()
    store.close()
    if free < settings.receive.min_free_mb * 1_000_000:
        raise _failed(
            f"{free // 1_000_000} MB free, less than receive.min_free_mb: free some, or every instance is refused"
        )
    return f"{settings.store.folder}, {free // 1_000_000} MB free"


def _port(settings: Settings) -> str:
    address = (settings.receive.host, settings.receive.port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise _failed(
                f"{address[0]}:{address[1]} cannot be bound ({error.strerror}): "
                "stop what listens there, unless it is allpacs itself, or change receive.port"
            ) from error
    if settings.receive.tls is not None:
        make_tls(settings.receive.tls, "receive.tls")
    secured = "without TLS" if settings.receive.tls is None else "with TLS"
    return f"{settings.receive.ae_title} can listen on {address[0]}:{address[1]} {secured}"


def _model(settings: Settings) -> str:
    bundle = make_pipeline(settings).bundle
    return f"{bundle.contract.name} {bundle.contract.version}, files as their digests say"


def _destination(settings: Settings, name: str) -> str:
    return make_destination(settings, settings.destinations[name]).check()


def _failed(reason: str) -> AllpacsError:
    return AllpacsError(reason)
