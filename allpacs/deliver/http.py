"""What destinations that are reached by HTTP have in common: their address, one exchange, and when to come back."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from allpacs.dicom.tls import Tls
from allpacs.dicom.web import Answer, exchange
from allpacs.domain.errors import ConfigFault, DeliveryUnavailable

#: 4xx that say "later", not "never": request timeout, too early, too many requests (RFC 9110 15.5.9, RFC 8470 5.2,
#: RFC 6585 4).
_LATER = frozenset({408, 425, 429})


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


def ask(name: str, method: str, url: str, *, timeout_s: float, tls: Tls | None, **options: Any) -> Answer:
    """Make one exchange with a peer, bounded in time and size; return its answer, whatever the status.

    Parameters
    ----------
    name:
        The peer in messages.
    timeout_s:
        Longest silence, and longest time for the whole exchange, seconds; see `allpacs.dicom.web.exchange`.
    tls:
        Asked for the settings of the connection; None: the platform's.
    options:
        Further ones of `allpacs.dicom.web.exchange`.

    Raises
    ------
    DeliveryUnavailable
        There is no answer: no connection, a time-out, or an answer that is cut off or cannot be unpacked.
    """
    try:
        return exchange(method, url, timeout_s=timeout_s, verify=tls() if tls is not None else True, **options)
    except httpx.TimeoutException as late:
        raise DeliveryUnavailable(f"{name}: no answer within {timeout_s:g} s") from late
    except httpx.ConnectError as failure:
        raise DeliveryUnavailable(f"{name}: no connection ({_cause(failure)})") from failure
    except httpx.DecodingError as failure:
        raise DeliveryUnavailable(f"{name}: {failure}") from failure
    except httpx.RequestError as failure:
        raise DeliveryUnavailable(f"{name}: connection lost ({type(failure).__name__})") from failure


def too_large(name: str, answer: Answer) -> str:
    """Return the reason that a success cannot be judged whose body is larger than is taken."""
    size = f"{len(answer.content) / 2**20:.3g} MiB"
    return f"{name}: {answer.status}, but an answer of more than {size}; check the address, and look up what it stored"


def may_pass(status: int) -> bool:
    """Whether a status says that the same request may succeed later: 408, 425, 429 and 5xx."""
    return status >= 500 or status in _LATER


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


def _cause(failure: httpx.ConnectError) -> str:
    """Return why there is no connection, in the system's own words: nothing was sent yet."""
    cause: BaseException = failure
    while True:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]  # one for each address of the host
        elif cause.__cause__ is not None:
            cause = cause.__cause__
        elif cause.__context__ is not None:
            cause = cause.__context__
        else:
            return str(cause) or str(failure) or type(failure).__name__
