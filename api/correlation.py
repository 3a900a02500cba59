"""Each request has a correlation id and a bounded body."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from uuid import UUID, uuid4

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from api.errors import http_problem, unexpected

_log = structlog.get_logger(__name__)
MAX_BODY = 1_000_000
_TRACE = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")


class TooLarge(HTTPException):
    """The body went past the limit. FastAPI reads bodies and lets only its own errors through."""

    def __init__(self) -> None:
        super().__init__(413, f"the body is larger than {MAX_BODY:,} bytes")


class Correlation:
    """Takes the correlation id from ``X-Correlation-ID`` or ``traceparent``, or makes one; refuses
    bodies of more than a megabyte. Plain ASGI, so that live streams pass unbuffered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        correlation_id = correlation_of(
            headers.get("traceparent", ""), headers.get("x-correlation-id", "")
        )
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        clear_contextvars()
        bind_contextvars(correlation_id=str(correlation_id))
        started = False
        read = 0

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Correlation-ID"] = str(correlation_id)
            await send(message)

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > MAX_BODY:
                    raise TooLarge
            return message

        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY:
            await http_problem(Request(scope), TooLarge())(scope, receive, send_with_id)
            return
        try:
            await _until_client_leaves(self._app(scope, bounded, send_with_id))
        except Exception as error:
            # Here and not in Starlette's own handler, which answers without the id and raises the
            # error once more: uvicorn would close the connection under the client's next request.
            if started:
                raise
            await unexpected(Request(scope), error)(scope, receive, send_with_id)


async def _until_client_leaves(answer: Awaitable[None]) -> None:
    """A client that leaves in the middle of a live stream is no error: FastAPI's sender finds its
    channel closed, and says so in a group of exceptions."""
    try:
        await answer
    except* anyio.BrokenResourceError:
        _log.debug("client left")


def correlation_of(traceparent: str, named: str) -> UUID:
    """The correlation id of a trace, or the one that is named; where neither is one, a new one."""
    trace = _TRACE.match(traceparent)
    try:
        return UUID(trace.group(1) if trace else named)
    except ValueError:
        return uuid4()
