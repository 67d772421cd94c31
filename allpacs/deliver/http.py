"""What HTTP destinations share: their address, bounded requests, and when to come back."""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from allpacs.domain.errors import ConfigFault

#: Largest answer that is read, after decompression, bytes. An answer about 10,000 entries has some 2 MB.
MOST_ANSWER_BYTES = 20_000_000

_BLOCK_BYTES = 1 << 20
#: Headers that are about the transfer of a body, not about the body.
_OF_TRANSFER = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class AnswerTooLarge(Exception):
    """An answer has more bytes than any answer needs."""


def bounded_request(
    client: httpx.Client,
    method: str,
    url: str,
    timeout_s: float,
    *,
    most_bytes: int = MOST_ANSWER_BYTES,
    **options: Any,
) -> httpx.Response:
    """Send a request and return its answer, read to the end, within limits of size and of time.

    Parameters
    ----------
    timeout_s:
        Longest time from the end of the request to the last byte of the answer. The client's own time-out applies to
        the connection, to sending, and to each wait for the next bytes.
    most_bytes:
        Largest answer, after decompression.
    options:
        Of `httpx.Client.request`: content, headers, data, params.

    Raises
    ------
    AnswerTooLarge
        The answer is larger. No more than `most_bytes` and one decompressed block are ever held.
    httpx.ReadTimeout
        The answer took longer than `timeout_s`.
    httpx.RequestError
        Anything else that keeps an answer from coming.
    """
    limit = _TimeLimit(timeout_s)
    try:
        with client.stream(method, url, extensions={"trace": limit.follow}, **options) as answer:
            body = bytearray()
            for block in _blocks(answer):
                body += block
                if len(body) > most_bytes:
                    raise AnswerTooLarge(f"an answer of more than {most_bytes // 1_000_000} MB")
                if limit.passed:
                    break
            if not limit.passed:
                kept = [(name, value) for name, value in answer.headers.multi_items() if name not in _OF_TRANSFER]
                return httpx.Response(answer.status_code, headers=kept, content=bytes(body), request=answer.request)
    except httpx.RequestError:
        if not limit.passed:
            raise
    finally:
        limit.end()
    raise httpx.ReadTimeout("the answer did not end in time")


class _TimeLimit:
    """Shuts a connection down when its answer takes too long, be it headers or body that trickle.

    Parameters
    ----------
    seconds:
        Counted from the end of the request.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._stream: Any = None
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    def follow(self, event: str, about: Mapping[str, Any]) -> None:
        """Follow what httpcore does on the connection (its ``trace`` extension)."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = about["return_value"]
        elif event.endswith("send_request_body.complete") and not self._timer.is_alive():
            self._timer.start()

    def end(self) -> None:
        """Stop counting."""
        self._timer.cancel()

    def _shut_down(self) -> None:
        self.passed = True
        with suppress(OSError):
            self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _blocks(answer: httpx.Response) -> Iterator[bytes]:
    """Yield the body of an answer, decompressed in blocks of limited size.

    httpx decompresses each piece from the network whole, to a thousand times its size.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        yield from answer.iter_raw()
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise httpx.DecodingError(f"an answer in a content encoding that was not asked for: {encoding[:20]}")
    inflating = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for piece in answer.iter_raw():
            waiting = piece
            while waiting:
                yield inflating.decompress(waiting, _BLOCK_BYTES)
                waiting = inflating.unconsumed_tail
    except zlib.error as error:
        raise httpx.DecodingError(str(error)) from error


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
