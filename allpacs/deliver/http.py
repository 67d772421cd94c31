"""What destinations that are reached by HTTP have in common: their address, and when to come back."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from allpacs.domain.errors import ConfigFault


def address_name(base_url: str, service: str) -> str:
    """Return a base address for messages, as host, port and path: neither credentials nor a query.

    Raises
    ------
    ConfigFault
        It is none; the message names the service that it should be of.
    """
    try:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigFault(f"base_url: write http://host/path or https://host/path of the {service}")
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}{parts.path}"
    except ValueError as invalid:
        raise ConfigFault(f"base_url: not an address; write https://host:port/path of the {service}") from invalid


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return the seconds to wait by a Retry-After header: seconds or an HTTP date (RFC 9110 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
