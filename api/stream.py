"""The organisation's log as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.dependencies import Parts, allowed
from api.errors import documented
from api.tokens import Identity
from domain import catalogue
from eventstore import StoredEvent
from eventstore.subscription import Bell

router = APIRouter(tags=["stream"])
_BATCH = 500


@router.get(
    "/stream",
    summary="Follow the log",
    response_class=EventSourceResponse,
    responses=documented(),
)
async def follow(
    request: Request,
    deps: Parts,
    caller: Annotated[Identity, allowed("stream.events")],
    after: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="From behind this position; from now if left out."),
    ] = None,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63)] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Every event of the organisation, in log order. The id is the log position: a client that
    comes back with `Last-Event-ID` goes on where it was. A slow client is read for only as fast as
    it takes: nothing is kept for it in memory."""
    position = last_event_id if last_event_id is not None else after
    if position is None:
        position = await deps.log.head()
    yield ServerSentEvent(comment=f"following from position {position}")
    while not (request.app.state.stopping.is_set() or await request.is_disconnected()):
        mark = deps.news.mark()
        head = await deps.log.head()
        events = await deps.log.after_of(caller.organisation_id, position, _BATCH, to=head)
        for event in events:
            yield _message(event)
        # Positions of other organisations are passed over, not read again and again.
        position = events[-1].position if len(events) == _BATCH else max(position, head)
        if len(events) < _BATCH and await _stops(deps.news, mark, request):
            return


async def _stops(news: Bell, mark: asyncio.Event, request: Request) -> bool:
    """Wait for news; whether the server stops instead."""
    stopping: asyncio.Event = request.app.state.stopping
    waits = [asyncio.ensure_future(news.wait(mark)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return stopping.is_set()


def _message(event: StoredEvent) -> ServerSentEvent:
    kind = catalogue.type_of(event.topic)
    # What is stored under an older topic goes out by its present name and in its present form.
    name, topic = (kind.__name__, catalogue.TOPICS[kind]) if kind else (event.topic, event.topic)
    head = {
        "position": event.position,
        "stream_id": str(event.stream_id),
        "version": event.version,
        "topic": topic,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "event_id": str(event.event_id),
        "correlation_id": str(event.correlation_id),
        "causation_id": None if event.causation_id is None else str(event.causation_id),
    }
    body = catalogue.as_json(event.topic, event.state)
    return ServerSentEvent(id=str(event.position), event=name, data=head | {"event": body})
