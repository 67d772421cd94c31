"""What no code of ours expected: logged without values, and answered like any other fault."""

from __future__ import annotations

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger("allpacs.console")

UNEXPECTED = "an unexpected error occurred here: try again, and tell whoever looks after allpacs"


def log_crash(route: str, fault: BaseException) -> None:
    """Log the type of an exception and the route, nothing that may quote a header or a form.

    Parameters
    ----------
    route:
        The pattern of the address, not the address.
    """
    _log.error("page_crashed", path=route, reason=type(fault).__name__)


class CatchCrashes:
    """ASGI middleware: answers 500 if anything below raises; an answer that has begun is broken off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except HTTPException:
            raise
        except Exception as fault:  # noqa: BLE001 - the server would print its text and its traceback
            route = scope.get("route")
            log_crash(getattr(route, "path", "unknown"), fault)
            if not started:
                await PlainTextResponse(UNEXPECTED, 500)(scope, receive, send)
