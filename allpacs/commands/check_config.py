"""``allpacs check-config``: ask everything the configuration names whether it is there, and say what to mend."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console

from allpacs.app import format_checks, make_destination, make_pipeline, make_tls, open_store, start_model
from allpacs.commands.certificates import check_certificates
from allpacs.commands.health import ask_health, reachable
from allpacs.commands.process import Process
from allpacs.deliver.c_store import echo
from allpacs.domain.errors import AllpacsError, ConfigFault, DeliveryUnavailable
from allpacs.settings import CommitmentPeerSettings, OidcSettings, ServerTlsSettings, Settings, TlsSettings

Check = Callable[[], str]


def run_checks(settings: Settings, *, quick: bool = False) -> int:
    """Run every check, print one line each, and return how many failed.

    Parameters
    ----------
    quick:
        Leave out the run of the network, which takes many seconds.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    failed = 0
    for name, check in checks(settings, quick=quick):
        try:
            said, style, word = check(), "green", "ok    "
        except AllpacsError as fault:
            said, style, word = str(fault), "red", "failed"
            failed += 1
        console.print(word, style=style, end=" ")
        console.print(f"{name}: {said}")
    if not settings.destinations:
        console.print("note   no destinations: results stay in the store")
    return failed


def checks(settings: Settings, *, quick: bool = False) -> Iterator[tuple[str, Check]]:
    """Yield every check with the name of what it looks at."""
    yield "store", partial(_store, settings)
    yield "receiver", partial(_receiver, settings)
    if settings.receive.tls is not None:
        yield "receive.tls", partial(_tls, settings.receive.tls, "receive.tls")
    for title, source in settings.receive.sources.items():
        if source.commitment is not None:
            section = f"receive.sources.{title}.commitment"
            yield section, partial(_commitment, settings, title, source.commitment, section)
    yield "model", partial(_files_of_model if quick else _model, settings)
    yield from format_checks(settings)
    for name, destination in settings.destinations.items():
        section = f"destinations.{name}"
        tls = getattr(destination, "tls", None)
        if tls is not None:
            yield f"{section}.tls", partial(_tls, tls, f"{section}.tls")
        yield section, partial(_destination, settings, name)
    yield "deliveries", partial(_unclaimed, settings)
    if settings.monitor.enabled:
        for key in ("receive_port", "work_port"):
            yield f"monitor.{key}", partial(_monitor, settings, key)
        if settings.monitor.tls is not None:
            yield "monitor.tls", partial(_tls, settings.monitor.tls, "monitor.tls")
    if settings.console.enabled:
        yield "console", partial(_console, settings)
        if settings.console.oidc is not None:
            yield "console.oidc", partial(_oidc, settings.console.oidc)


def _store(settings: Settings) -> str:
    store = open_store(settings)
    free = store.receiving.free_bytes()
    store.close()
    if free < settings.receive.min_free_mb * 1_000_000:
        raise AllpacsError(
            f"{free // 1_000_000} MB free, less than receive.min_free_mb: free some, or every instance is refused"
        )
    return f"{settings.store.folder}, {free // 1_000_000} MB free"


def _unclaimed(settings: Settings) -> str:
    """Check that every result that waits has a destination that is configured."""
    store = open_store(settings)
    waiting = Counter(row.destination for row in store.deliveries.unclaimed(settings.destinations))
    store.close()
    if waiting:
        told = ", ".join(f"{number} for {name}" for name, number in sorted(waiting.items()))
        raise AllpacsError(
            f"results wait for destinations that are not configured ({told}): configure them again, or send the "
            "results elsewhere with allpacs retry STUDY --to NAME"
        )
    return "every result that waits has a configured destination"


def _receiver(settings: Settings) -> str:
    receive = settings.receive
    secured = "without TLS" if receive.tls is None else "with TLS"
    taken = _taken(receive.host, receive.port)
    if taken is None:
        return f"{receive.ae_title} can listen on {receive.host}:{receive.port} {secured}"
    if receive.tls is None:  # a receiver with TLS may want a certificate that only its senders have
        try:
            echo(reachable(receive.host).strip("[]"), receive.port, receive.ae_title, receive.ae_title, timeout_s=5.0)
        except DeliveryUnavailable:
            pass
        else:
            return f"{receive.ae_title} is listening on {receive.host}:{receive.port} and answers C-ECHO"
    raise _cannot_listen(receive.host, receive.port, taken, "receive.port")


def _model(settings: Settings) -> str:
    said = _files_of_model(settings)
    batcher = start_model(settings, make_pipeline(settings).bundle)
    try:
        return f"{said}; {type(batcher.engine).__name__} repeats the bundle's golden cells"
    finally:
        batcher.close()


def _files_of_model(settings: Settings) -> str:
    bundle = make_pipeline(settings).bundle
    return f"{bundle.contract.name} {bundle.contract.version}, files as their digests say"


def _destination(settings: Settings, name: str) -> str:
    return make_destination(settings, settings.destinations[name]).check()


def _commitment(settings: Settings, title: str, peer: CommitmentPeerSettings, section: str) -> str:
    tls = make_tls(peer.tls, f"{section}.tls")
    return echo(peer.host, peer.port, title, settings.receive.ae_title, timeout_s=peer.timeout_s, tls=tls)


def _tls(tls: TlsSettings | ServerTlsSettings, section: str) -> str:
    make_tls(tls, section)  # loads the files: the key belongs to the certificate, the authorities can be read
    try:
        said = check_certificates(tls.certificate, tls.trusted, server=isinstance(tls, ServerTlsSettings))
    except ConfigFault as fault:
        raise ConfigFault(f"{section}: {fault}") from None
    return said or "no certificate of ours, the platform's authorities"


def _monitor(settings: Settings, key: str) -> str:
    host, port = settings.monitor.host, int(getattr(settings.monitor, key))
    taken = _taken(host, port)
    if taken is None:
        return f"{host}:{port} can be listened on"
    try:
        return ask_health(settings, Process(key.removesuffix("_port"))) + f", listening on {host}:{port}"
    except AllpacsError:
        raise _cannot_listen(host, port, taken, f"monitor.{key}") from None


def _console(settings: Settings) -> str:
    console = settings.console
    if console.certificate is not None:
        check_certificates(console.certificate, None, server=True)
        _readable(console.key, "console.key")
    taken = _taken(console.host, console.port)
    return f"{console.host}:{console.port} " + ("can be listened on" if taken is None else "is listened on already")


def _readable(path: Path | None, key: str) -> None:
    try:
        if path is not None:
            path.open("rb").close()
    except OSError as error:
        raise ConfigFault(f"{key}: {path}: {error.strerror}") from None


def _oidc(oidc: OidcSettings) -> str:
    address = oidc.issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        answer = httpx.get(address, timeout=10.0)
        stated = answer.json() if answer.is_success else {}
    except (httpx.HTTPError, ValueError) as error:
        raise ConfigFault(f"console.oidc.issuer: {address} cannot be read ({type(error).__name__})") from None
    if not isinstance(stated, dict) or stated.get("issuer") != oidc.issuer:
        raise ConfigFault(f"console.oidc.issuer: {address} does not state this issuer: compare to the letter")
    return f"provider {oidc.issuer}"


def _taken(host: str, port: int) -> OSError | None:
    """Return why an address cannot be listened on, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _cannot_listen(host: str, port: int, error: OSError, key: str) -> AllpacsError:
    return AllpacsError(
        f"{host}:{port} cannot be bound ({error.strerror}): "
        f"stop what listens there, unless it is allpacs itself, or change {key}"
    )
