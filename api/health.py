"""Health: is it alive, does the database answer, do read models move. Nothing that leaks."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg
from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.dependencies import Parts
from eventstore import LogUnavailable
from readmodels.positions import State

router = APIRouter(tags=["health"])
#: Who asks for health does not wait as long as a query does, in seconds.
_PATIENCE_S = 2.0
#: Read models that somebody has to look after.
_UNWELL = (State.STOPPED, State.STALLED, State.DIVERGED)


class Health(BaseModel):
    """``status``: ok, or what is wrong. ``projections``: ok, or how many do not follow the log, and
    how many events are parked as dead letters. ``behind``: events that the last read model is
    behind."""

    status: str
    database: str
    projections: str
    behind: int | None = None


@router.get("/health", summary="Is it well?", responses={503: {"model": Health}})
async def health(deps: Parts, response: Response) -> Health:
    """Needs no token. 503 where the database is away, or where a read model stands still with an
    error, does not move although there is work, or is rebuilt because a backup was restored. Dead
    letters are named only: the rest of their read model goes on. Nor is it unhealthy to catch up,
    or to be held after a rollback."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            states = await deps.positions.states()
    except (LogUnavailable, TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        found = Health(status="unavailable", database="away", projections="unknown")
    else:
        counts = Counter(state.state for state in states)
        wrong = [f"{counts[state]} {state}" for state in _UNWELL if counts[state]]
        parked = sum(state.dead_letters for state in states)
        named = [f"{parked} dead letter{'s' * (parked > 1)}"] * (parked > 0)
        found = Health(
            status="degraded" if wrong else "ok",
            database="ok",
            projections=", ".join((wrong or ["ok"]) + named),
            behind=max((state.behind for state in states), default=0),
        )
    if found.status != "ok":
        response.status_code = 503
    return found
