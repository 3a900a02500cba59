"""The organisation's log as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated
from uuid import UUID

import psycopg
import structlog
from fastapi import Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from api.dependencies import Credentials, Parts, seated
from api.errors import documented
from api.live import MOST_NAMES, Area, EventName, Filters, Live, Passed, StreamName
from api.routers import Router
from api.serving import abort
from api.tokens import Identity
from api.watch import PERMISSION, Watch
from eventstore import LogUnavailable
from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable

router = Router(tags=["stream"])
#: How long a client may take for the last words of a stream that ends, in seconds.
GRACE_S = 2.0
#: What ends a stream for now: who comes back goes on where it was.
AWAY = (psycopg.Error, LogUnavailable, ArchiveUnavailable, ArchiveDamaged)
_log = structlog.get_logger(__name__)


class TooSlow(Exception):
    """The client did not take a message in time."""


class EventStream(Response):
    """An answer that goes on until its client leaves, is cut off, or may see no more.

    Args:
        live: says how long a client may take.
        stopping: the server stops.
        watch: whether the client may go on.
        messages: what is sent, as it is written.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        live: Live,
        stopping: asyncio.Event,
        watch: Watch,
        messages: AsyncGenerator[bytes],
    ) -> None:
        self._live = live
        self._stopping = stopping
        self._watch = watch
        self._messages = messages
        super().__init__(
            # A proxy that gathers a page before it passes it on would hold events back.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        # It has no length.
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        writing = asyncio.create_task(self._write(send), name="write a live stream")
        leaving = asyncio.create_task(_left(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        watching = asyncio.create_task(self._watch.ended())
        tasks = (writing, leaving, stopping, watching)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if leaving.done() and not leaving.cancelled():
            return
        why = "the server stops"
        if watching.done() and not watching.cancelled():
            why = watching.result().reason
        elif writing.done() and not writing.cancelled():
            try:
                writing.result()
            except TooSlow:
                _log.info("a slow client is cut off", path=scope["path"])
                await _cut(scope, receive)
                return
            except AWAY as error:
                _log.warning("a live stream ends", error=str(error).strip())
                why = "the log does not answer now"
        await self._end(scope, receive, send, why)

    async def _write(self, send: Send) -> None:
        async with aclosing(self._messages) as messages:
            async for message in messages:
                await self._send(send, message)

    async def _send(self, send: Send, body: bytes) -> None:
        """The server keeps some KB for a client and holds the next message back until they are
        taken: that is how long it may take."""
        try:
            async with asyncio.timeout(self._live.terms.slow_s):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            raise TooSlow from None

    async def _end(self, scope: Scope, receive: Receive, send: Send, why: str) -> None:
        if self._stopping.is_set():
            # Closing waits until all is taken, however long that is.
            asyncio.get_running_loop().call_later(GRACE_S, abort, scope)
        try:
            async with asyncio.timeout(GRACE_S):
                told = f": {' '.join(why.split())}\n\n".encode()
                await send({"type": "http.response.body", "body": told, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            await _cut(scope, receive)


async def _events(
    live: Live, own: UUID, filters: Filters, position: int, watch: Watch
) -> AsyncGenerator[bytes]:
    # The id alone sets where a browser goes on, and shows its page nothing.
    yield _position(f"following from position {position}", position)
    async with aclosing(live.follow(own, filters, position, watch.hidden)) as messages:
        async for message in messages:
            if isinstance(message, Passed):
                yield _position(f"position {message.position}", message.position)
            else:
                yield message.sse


def _position(comment: str, position: int) -> bytes:
    return f": {comment}\nid: {position}\n\n".encode()


async def _cut(scope: Scope, receive: Receive) -> None:
    """Throw the connection away, and wait until it is gone: to return before that is an error."""
    abort(scope)
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await _left(receive)


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get(
    "/stream",
    summary="Follow the log",
    response_class=EventStream,
    status_code=200,  # FastAPI asks the class for it otherwise
    responses=documented(429),
)
async def follow(
    request: Request,
    deps: Parts,
    credentials: Credentials,
    caller: Annotated[Identity, seated(PERMISSION)],
    area: Annotated[
        list[Area] | None,
        Query(max_length=MOST_NAMES, description="Events of this area only; may be repeated."),
    ] = None,
    stream: Annotated[
        list[StreamName] | None,
        Query(
            max_length=MOST_NAMES,
            description="Events of this stream only, as `orders/O-1`; may be repeated.",
        ),
    ] = None,
    type: Annotated[
        list[EventName] | None,
        Query(
            max_length=MOST_NAMES,
            description="Events of this name only, as `OrderPlaced`; may be repeated.",
        ),
    ] = None,
    after: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="From behind this position; from now if left out."),
    ] = None,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63)] = None,
) -> Response:
    """Every event of the organisation, or those that are of one of the areas, in one of the streams
    and of one of the types asked for, in log order. The id is the log position: a client that comes
    back with `Last-Event-ID` goes on where it was. After some seconds of silence there is an id
    without data, so that nothing is looked through again. A client that does not read is cut off;
    the stream ends when its token does. docs/live.md tells more."""
    filters = Filters(area or (), stream or (), type or ())
    filters.check("query")
    if last_event_id is not None:
        position = await deps.live.start(last_event_id, ("header", "last-event-id"))
    else:
        position = await deps.live.start(after, ("query", "after"))
    assert credentials is not None
    watch = Watch(deps, credentials.credentials, caller, deps.live.terms.recheck_s)
    stopping: asyncio.Event = request.app.state.stopping
    messages = _events(deps.live, caller.organisation_id, filters, position, watch)
    return EventStream(deps.live, stopping, watch, messages)
