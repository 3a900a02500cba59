"""How far read models are over HTTP, live too, and the events that they could not fold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from time import monotonic
from typing import Annotated

import psycopg
from fastapi import Path, Request, Response
from pydantic import BaseModel

from api.dependencies import (
    Credentials,
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    Parts,
    allowed,
    seated,
)
from api.errors import documented
from api.routers import Router
from api.stream import EventStream
from api.tokens import Identity
from api.watch import Watch
from domain.values import Id
from eventstore import LogUnavailable
from projections.dead_letters import DeadLetter
from readmodels.page import Page
from readmodels.positions import ProjectionState

router = Router(tags=["projections"])
#: What asking for them, and following them, hangs on.
PERMISSION = "projections.list"
#: How often the live stream looks, in seconds: a change is sent at most so often.
_LOOK_S = 0.5

#: What is told of an error: its words are for the operator, who has the command line and the logs.
_STANDS_STILL = "it cannot be folded further; the operator sees why"

Name = Annotated[Id, Path(description="A read model's name.")]


class Projections(BaseModel):
    """Every read model and how far it is."""

    items: list[ProjectionState]


@router.get("/projections", summary="How far read models are", responses=documented())
async def list_projections(deps: Parts, _: Annotated[Identity, allowed(PERMISSION)]) -> Projections:
    """Of each read model its position, how far it is behind, how fast it goes, when it will be
    there, its dead letters and what it is doing; the error of one that stands still."""
    return Projections(items=[_told(state) for state in await deps.positions.states()])


@router.get(
    "/projections/stream",
    summary="Follow how far read models are",
    response_class=EventStream,
    status_code=200,  # FastAPI asks the class for it otherwise
    responses=documented(429),
)
async def follow_projections(
    request: Request,
    deps: Parts,
    credentials: Credentials,
    caller: Annotated[Identity, seated(PERMISSION)],
) -> Response:
    """The list of `/projections` as an event `projections`: at once, and whenever it has changed,
    at most twice a second. A comment every 15 seconds where nothing is sent. While the database is
    away the stream waits for it. It ends when the token does, and takes one of the live connections
    that one may have."""
    assert credentials is not None
    recheck_s = deps.live.terms.recheck_s
    watch = Watch(deps, credentials.credentials, caller, recheck_s, PERMISSION)
    return EventStream(deps.live, request.app.state.stopping, watch, _changes(deps))


async def _changes(deps: Dependencies) -> AsyncGenerator[bytes]:
    """The list at first and after each change; a comment where there is none for long."""
    sent: list[ProjectionState] | None = None
    told = monotonic()
    while True:
        with suppress(LogUnavailable, psycopg.OperationalError, psycopg.InterfaceError):
            states = [_told(one) for one in await deps.positions.recent_states(_LOOK_S)]
            if states != sent:
                sent, told = states, monotonic()
                data = Projections(items=states).model_dump_json()
                yield f"event: projections\ndata: {data}\n\n".encode()
        if monotonic() - told >= deps.live.terms.heartbeat_s:
            told = monotonic()
            yield b": nothing has changed\n\n"
        await asyncio.sleep(_LOOK_S)


@router.get("/projections/{name}", summary="How far one read model is", responses=documented(404))
async def get_projection(
    name: Name, deps: Parts, _: Annotated[Identity, allowed(PERMISSION)]
) -> ProjectionState:
    """One line of the list."""
    found = await deps.positions.state(name)
    if found is None:
        raise NotFound("projection", name)
    return _told(found)


@router.get(
    "/projections/{name}/dead-letters",
    summary="Events that a read model could not fold",
    responses=documented(404),
)
async def list_dead_letters(
    name: Name,
    deps: Parts,
    caller: Annotated[Identity, allowed("projections.dead_letters")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DeadLetter]:
    """Those of the organisation, in log order: which event, its keys, why it could not be folded.
    One without an error waits for an earlier one of its keys."""
    if await deps.positions.state(name) is None:
        raise NotFound("projection", name)
    return await deps.positions.dead_letters(
        name, caller.organisation_id, cursor=cursor, limit=limit
    )


def _told(state: ProjectionState) -> ProjectionState:
    """A state without the words of its error: they may hold what another organisation wrote."""
    return state if state.error is None else state.model_copy(update={"error": _STANDS_STILL})
