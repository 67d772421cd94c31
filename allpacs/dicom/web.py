"""One HTTP exchange with a peer, bounded in time and in size.

The time-outs of HTTP clients are those of a single read: a peer that sends a byte a second, or an answer that never
ends, keeps such a client for as long as it likes. And a compressed answer of a few kilobytes can be gigabytes when it
is unpacked. Here the whole exchange has one deadline, and of an answer no more is unpacked than the caller takes.

Source: RFC 9110 section 8.4 (content codings), RFC 1952 (gzip).
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

#: Bytes of an answer that are taken at most, unpacked, unless a caller says otherwise.
MAX_ANSWER_BYTES = 4 * 2**20

#: A large request has more time: what sending it takes at this rate (2 Mbit/s), bytes a second.
_SLOWEST_BYTES_PER_S = 256 * 1024

#: The codings that zlib unpacks; of these gzip is offered.
_ZLIB_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
#: zlib finds out whether the header is that of gzip or its own.
_ANY_HEADER = 32 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answered.

    Attributes
    ----------
    content:
        The body, unpacked.
    whole:
        False: the body is larger than the caller takes, and `content` is its beginning.
    """

    status: int
    headers: httpx.Headers
    content: bytes
    whole: bool = True

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """The media type without its parameters, in lower case; empty if there is none."""
        return str(self.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def exchange(
    method: str,
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
    trust_env: bool = False,
    max_bytes: int = MAX_ANSWER_BYTES,
    **options: Any,
) -> Answer:
    """Send one request on a connection of its own and return the answer, whatever its status; follow no redirect.

    Parameters
    ----------
    timeout_s:
        Longest silence, and longest time for the whole exchange, seconds; a large request has what sending it takes
        at 2 Mbit/s on top.
    trust_env:
        Whether the environment's proxies are used.
    max_bytes:
        Bytes of the answer that are taken, unpacked.
    options:
        ``content``, ``data`` or ``params`` of `httpx.AsyncClient.build_request`.

    Raises
    ------
    httpx.TimeoutException
        The exchange did not end in time.
    httpx.RequestError
        No connection, or it was lost; or the answer cannot be unpacked (`httpx.DecodingError`).
    """
    return asyncio.run(_exchange(method, url, timeout_s, headers, verify, trust_env, max_bytes, options))


async def _exchange(
    method: str,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None,
    verify: ssl.SSLContext | bool,
    trust_env: bool,
    max_bytes: int,
    options: Mapping[str, Any],
) -> Answer:
    async with httpx.AsyncClient(timeout=timeout_s, verify=verify, trust_env=trust_env) as client:
        request = client.build_request(method, url, headers={"Accept-Encoding": "gzip", **(headers or {})}, **options)
        sending_s = int(request.headers.get("Content-Length", 0)) / _SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s + sending_s):
                response = await client.send(request, stream=True)
                try:
                    content, whole = await _taken(response, max_bytes)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout("the exchange did not end in time", request=request) from None
        except OSError as failed:  # the client lets through what TLS raises after the handshake: a refused certificate
            raise httpx.ReadError(str(failed), request=request) from failed
    return Answer(response.status_code, response.headers, content, whole)


async def _taken(response: httpx.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return the body, unpacked, up to a size; and whether that is all of it."""
    codings = [name.strip().lower() for name in response.headers.get("Content-Encoding", "").split(",")]
    codings = [name for name in codings if name not in ("", "identity")]
    if len(codings) > 1 or not _ZLIB_CODINGS.issuperset(codings):
        raise httpx.DecodingError("the answer is encoded in a way that was not offered", request=response.request)
    unpacker = zlib.decompressobj(_ANY_HEADER) if codings else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        room = max_bytes + 1 - len(body)  # at least 1: for zlib, 0 means without limit
        try:
            body += chunk[:room] if unpacker is None else unpacker.decompress(chunk, room)
        except zlib.error:
            raise httpx.DecodingError("the answer cannot be unpacked", request=response.request) from None
        if len(body) > max_bytes:
            return bytes(body[:max_bytes]), False
    if unpacker is not None and body and not unpacker.eof:
        raise httpx.DecodingError("the answer's compressed body is cut off", request=response.request)
    return bytes(body), True
