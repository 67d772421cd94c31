"""Certificates in files: whether they are in force, hang together, and are for what they are used for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from allpacs.domain.errors import ConfigFault

#: Before its end a certificate is spoken of for so long.
SOON = timedelta(days=30)


def check_certificates(
    certificate: Path | None, trusted: Path | None, *, server: bool, now: datetime | None = None
) -> str:
    """Look at our certificate with its chain and at the authorities we trust; return one line.

    That the files can be read, and that key and certificate belong together, is found out where they are loaded.

    Raises
    ------
    ConfigFault
        One is not in force, the chain is broken or in the wrong order, or it is for another use; says what to do.
    """
    now = now or datetime.now(UTC)
    said: list[str] = []
    if certificate is not None:
        chain = _read(certificate)
        for one, issuer in pairwise(chain):
            _issued(certificate, one, issuer)
        _purpose(certificate, chain[0], server=server)
        said.append(f"certificate of {_name(chain[0])} {_in_force(certificate, chain, now)}")
    if trusted is not None:
        authorities = _read(trusted)
        said.append(f"{len(authorities)} trusted {_in_force(trusted, authorities, now)}")
    return ", ".join(said)


def _read(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as unusable:
        why = getattr(unusable, "strerror", None) or "no PEM certificate in it"
        raise ConfigFault(f"{path}: {why}") from None


def _in_force(path: Path, certificates: Sequence[x509.Certificate], now: datetime) -> str:
    for one in certificates:
        if now < one.not_valid_before_utc:
            raise ConfigFault(
                f"{path}: {_name(one)} is in force only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
            )
        if now > one.not_valid_after_utc:
            raise ConfigFault(f"{path}: {_name(one)} ended on {one.not_valid_after_utc:%Y-%m-%d}: renew it")
    end = min(one.not_valid_after_utc for one in certificates)
    return f"until {end:%Y-%m-%d}" + (": renew soon" if end - now < SOON else "")


def _issued(path: Path, one: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        one.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - any of several kinds, by what does not fit
        raise ConfigFault(
            f"{path}: {_name(one)} is not signed by {_name(issuer)}, which follows it: put our own certificate first, "
            "then each issuer after what it signed"
        ) from None


def _purpose(path: Path, one: x509.Certificate, *, server: bool) -> None:
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    try:
        usages = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # for any use
    if wanted not in usages:
        kind = "server" if server else "client"
        raise ConfigFault(f"{path}: {_name(one)} is not for TLS {kind}s (extended key usage): have one issued that is")


def _name(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or f"serial number {one.serial_number:x}"
