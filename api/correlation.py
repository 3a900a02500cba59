"""Each request has a correlation id, and each answer says how it may be used."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from uuid import UUID, uuid4

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from api.errors import unexpected

_log = structlog.get_logger(__name__)
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
# Answers are data; pictures bring their own styles.
_NO_CONTENT = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
)
_ASK_AGAIN = (b"cache-control", b"private, no-cache")
_KEEP_NOTHING = (b"cache-control", b"no-store")
_TRACE = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")


class Correlation:
    """Takes the correlation id from ``X-Correlation-ID`` or ``traceparent``, or makes one; tells
    browsers what they may do with an answer. Plain ASGI, so that live streams pass unbuffered."""

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

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                told = MutableHeaders(scope=message)
                told["X-Correlation-ID"] = str(correlation_id)
                _guard(told)
            await send(message)

        try:
            await _until_client_leaves(self._app(scope, receive, send_with_id))
        except Exception as error:
            # Here and not in Starlette's own handler, which answers without the id and raises the
            # error once more: uvicorn would close the connection under the client's next request.
            if started:
                raise
            await unexpected(Request(scope), error)(scope, receive, send_with_id)


def _guard(headers: MutableHeaders) -> None:
    """Nothing is guessed of an answer's type, framed, or handed to other sites; and nothing that an
    endpoint has not said is kept: what has a tag may be, if it is asked for each time."""
    raw = headers.raw
    raw += _ALWAYS
    names = {name for name, _ in raw}
    if b"content-security-policy" not in names:
        raw.append(_NO_CONTENT)
    if b"cache-control" not in names:
        raw.append(_ASK_AGAIN if b"etag" in names else _KEEP_NOTHING)


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
