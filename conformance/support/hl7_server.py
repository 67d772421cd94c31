"""An HL7 v2 receiver over MLLP that records messages and answers as a test wants."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hl7
from hl7.mllp import start_hl7_server


def accept(message: hl7.Message) -> str:
    """Acknowledge a message as taken."""
    return str(message.create_ack("AA"))


@contextmanager
def hl7_server(
    received: dict[str, bytes],
    answer: Callable[[hl7.Message], str | bytes | None] = accept,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Take messages over MLLP on loopback, by control id, and answer each; bytes go out as they are, None hangs up."""
    loop = asyncio.new_event_loop()

    async def serve(reader: Any, writer: Any) -> None:
        try:
            message = await reader.readmessage()
            received[str(message["MSH.F10"])] = str(message).encode()
            told = answer(message)
            if isinstance(told, bytes):
                writer.write(told)
            elif told is not None:
                writer.writemessage(hl7.parse(told))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it only connected
        finally:
            writer.close()

    async def start() -> Any:
        return await start_hl7_server(serve, "127.0.0.1", 0, encoding="utf-8", ssl=tls)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
