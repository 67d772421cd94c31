"""TLS for every connection, by one profile: PS3.15 section B.12, "BCP 195 RFC 9325 TLS Secure Transport Connection".

TLS 1.2 or later, and only cipher suites with forward secrecy and authenticated encryption.

A connection asks for its settings when it begins, and they follow their files: a renewed certificate is in use with
the next connection, without a restart. Files that cannot be used leave the former settings in place.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from allpacs.domain.errors import ConfigFault

#: Returns the settings for a connection that begins now.
Tls = Callable[[], ssl.SSLContext]

#: For TLS 1.2; all suites of TLS 1.3 have both properties.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_log = structlog.get_logger("allpacs.dicom.tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Who we are, and whom we trust; PEM files.

    Attributes
    ----------
    certificate:
        Our certificate, followed by its chain; None (clients only): we show none.
    key:
        Its private key; None: it stands in the file of the certificate.
    key_password:
        For an encrypted key.
    trusted:
        Certificates of the authorities that we trust; None (clients only): the platform's.
    """

    certificate: Path | None = None
    key: Path | None = None
    key_password: str | None = field(default=None, repr=False)
    trusted: Path | None = None

    def named(self) -> tuple[Path, ...]:
        """Return the files that there are."""
        return tuple(path for path in (self.certificate, self.key, self.trusted) if path is not None)


def server_tls(files: TlsFiles, *, require_client_certificate: bool = True) -> Tls:
    """Return the settings of a server, which follow their files.

    Raises
    ------
    ConfigFault
        A file is missing or cannot be used; the message names it.
    """
    if files.certificate is None:
        raise ConfigFault("a server needs a certificate")
    if require_client_certificate and files.trusted is None:
        raise ConfigFault("name in `trusted` whose certificates clients must have, or do not require them")

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if require_client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
        return _with_files(context, files)

    return _Following(files, make)


def client_tls(files: TlsFiles, *, check_hostname: bool = True) -> Tls:
    """Return the settings of a client, which follow their files.

    Parameters
    ----------
    check_hostname:
        Whether the server's certificate must be for the host that is called. Without, any certificate of a trusted
        authority will do: for devices whose certificates name an AE title.

    Raises
    ------
    ConfigFault
        A file is missing or cannot be used; the message names it.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = check_hostname
        if files.trusted is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return _with_files(context, files)

    return _Following(files, make)


def _with_files(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    try:
        if files.trusted is not None:
            context.load_verify_locations(cafile=files.trusted)
    except (OSError, ValueError) as unusable:
        raise ConfigFault(f"{files.trusted}: no trusted certificates ({_why(unusable)})") from None
    try:
        if files.certificate is not None:
            # Without a password given, none is asked for at the terminal.
            password = files.key_password or ""
            context.load_cert_chain(files.certificate, files.key, lambda: password)
    except (OSError, ValueError) as unusable:
        parts = " and ".join(str(path) for path in (files.certificate, files.key) if path is not None)
        raise ConfigFault(f"{parts}: no certificate with its private key ({_why(unusable)})") from None
    return context


def _why(error: Exception) -> str:
    # An SSLError is an OSError with a reason of OpenSSL's.
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__


class _Following:
    """Makes settings anew where one of their files was exchanged. Safe to be asked by several threads."""

    def __init__(self, files: TlsFiles, make: Callable[[], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = make()

    def __call__(self) -> ssl.SSLContext:
        with self._lock:
            now = self._look()
            if now != self._seen:
                self._seen = now
                try:
                    self._context = self._make()
                except ConfigFault as fault:
                    _log.error("tls_files_unusable", reason=f"{fault}; the former ones stay in use")
                else:
                    _log.info("tls_files_renewed", path=str(self._files.certificate or self._files.trusted))
            return self._context

    def _look(self) -> list[tuple[int, int, int] | None]:
        """Return what tells each file from the one that takes its place."""
        seen: list[tuple[int, int, int] | None] = []
        for path in self._files.named():
            try:
                status = path.stat()
            except OSError:
                seen.append(None)
            else:
                seen.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return seen
