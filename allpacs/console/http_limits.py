"""Limits of the HTTP server: a slow, greedy or malformed client costs nobody else their connection.

uvicorn limits neither the time of a request nor the connections of a client. Times here are totals, not waits for the
next byte: a client that sends one byte a second has the same time as any other.

Source: RFC 9112 section 6.3 (message body length), RFC 6585 section 5 (431), RFC 9110 section 15.5.15 (414).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import h11
import structlog
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from allpacs.console.numbers import whole_number

_log = structlog.get_logger("allpacs.console")

_MOST_HEADERS, _MOST_HEADER_BYTES, _MOST_TARGET_BYTES = 100, 32_768, 16_384
#: Body of a request that does not state its length: only forms, which are small, may do so.
_UNSTATED_BODY_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What the server allows one client.

    Attributes
    ----------
    header_s:
        Longest time from the connection, or the end of the answer before, to the last header.
    body_s, body_bytes_per_s:
        Longest time for the body: so many seconds, and the time that its length takes at this rate.
    write_s:
        Longest time in which a client reads nothing of an answer.
    connections, connections_of_peer:
        Open connections at a time, altogether and of one address.
    """

    header_s: float = 20.0
    body_s: float = 60.0
    body_bytes_per_s: float = 64_000.0
    write_s: float = 60.0
    connections: int = 400
    connections_of_peer: int = 64


class RareWarnings:
    """Logs a warning at most five times a minute of each kind, with the number of those that were passed over."""

    _RATE = parse("5 per minute")

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._passed_over: Counter[str] = Counter()

    def warn(self, event: str, reason: str, **fields: object) -> None:
        """Log it, or count it."""
        if self._limiter.hit(self._RATE, event, reason):
            _log.warning(event, reason=reason, count=self._passed_over.pop(event + reason, 0) + 1, **fields)
        else:
            self._passed_over[event + reason] += 1


class ServerMessages(logging.Handler):
    """Passes on what uvicorn and asyncio log: without values, which their texts and tracebacks may quote."""

    def __init__(self, warnings: RareWarnings) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        """Log the first line of the unfilled message, and the type of the exception."""
        reason = next(iter(str(record.msg).splitlines()), "")[:200]
        kind = record.exc_info[0] if record.exc_info else None
        self._warnings.warn("http_server", reason if kind is None else f"{reason} ({kind.__name__})")

    def install(self) -> None:
        """Take the place of what would print to standard error."""
        for name in ("uvicorn.error", "asyncio"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self], False


class RequestLimits:
    """ASGI middleware: refuses requests with too many headers, or whose body has two lengths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refusal = _refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, reason = refusal
            # The rest of the request is not read: what follows it on this connection is anyone's guess.
            await PlainTextResponse(reason, status, {"Connection": "close"})(scope, receive, send)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    names = [name for name, _ in headers]
    if len(names) > _MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > _MOST_HEADER_BYTES:
        return 431, f"at most {_MOST_HEADERS} headers and {_MOST_HEADER_BYTES} bytes of them are read"
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > _MOST_TARGET_BYTES:
        return 414, f"at most {_MOST_TARGET_BYTES} bytes of an address are read"
    if b"content-length" in names and b"transfer-encoding" in names:
        return 400, "a request has either Content-Length or Transfer-Encoding"
    lengths = {value for name, value in headers if name == b"content-length"}
    if any(whole_number(length.decode("latin-1")) is None for length in lengths):
        return 400, "Content-Length is not a number of bytes"
    return None


def limited_protocol(limits: HttpLimits, warnings: RareWarnings) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP/1.1 protocol with limits; connections of all its instances count together."""
    peers: Counter[str] = Counter()

    class LimitedProtocol(H11Protocol):
        _peer: str | None = None
        _reading: object = None
        _read_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            peer = self.client[0] if self.client else "unknown"
            if peers.total() >= limits.connections or peers[peer] >= limits.connections_of_peer:
                warnings.warn("connection_refused", "too many open connections", address=peer)
                transport.abort()
                return
            self._peer = peer
            peers[peer] += 1
            self._watch_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._read_timer, self._write_timer):
                if timer is not None:
                    timer.cancel()
            if self._peer is not None:
                peers[self._peer] -= 1
                if not peers[self._peer]:
                    del peers[self._peer]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._peer is not None:
                super().data_received(data)
                self._watch_reading()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch_reading()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._write_timer is None:
                self._write_timer = self.loop.call_later(limits.write_s, self._give_up, "an answer is not read")

        def resume_writing(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None
            super().resume_writing()

        def _watch_reading(self) -> None:
            """Set the time for what the client has to send now; one that is running is kept."""
            state = self.conn.their_state
            if state is self._reading:
                return
            self._reading = state
            if self._read_timer is not None:
                self._read_timer.cancel()
                self._read_timer = None
            if state is h11.IDLE:
                self._read_timer = self.loop.call_later(limits.header_s, self._give_up, "headers took too long")
            elif state is h11.SEND_BODY:
                stated = [value for name, value in self.headers if name == b"content-length"]
                length = whole_number(stated[0].decode("latin-1")) if stated else None
                size = _UNSTATED_BODY_BYTES if length is None else length
                seconds = limits.body_s + size / limits.body_bytes_per_s
                self._read_timer = self.loop.call_later(seconds, self._give_up, "the body took too long")

        def _give_up(self, reason: str) -> None:
            if not self.transport.is_closing():
                warnings.warn("connection_closed", reason, address=self._peer)
                self.transport.abort()

    return LimitedProtocol


def server_options(limits: HttpLimits, warnings: RareWarnings) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that limit its clients."""
    return {
        "http": limited_protocol(limits, warnings),
        "ws": "none",
        "h11_max_incomplete_event_size": _MOST_HEADER_BYTES + _MOST_TARGET_BYTES,
        "timeout_keep_alive": 5,
    }
