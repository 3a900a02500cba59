"""Health: is it alive, does the database answer, do read models move. Nothing that leaks."""

from __future__ import annotations

import asyncio

import psycopg
from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.dependencies import Parts
from eventstore import LogUnavailable

router = APIRouter(tags=["health"])
#: Who asks for health does not wait as long as a query does, in seconds.
_PATIENCE_S = 2.0


class Health(BaseModel):
    """``status``: ok, or what is wrong. ``behind``: events that the last read model is behind."""

    status: str
    database: str
    projections: str
    behind: int | None = None


@router.get("/health", summary="Is it well?", responses={503: {"model": Health}})
async def health(deps: Parts, response: Response) -> Health:
    """Needs no token. 503 where the database is away, or a read model stands still with an error or
    is rebuilt because a backup was restored."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            states = await deps.positions.states()
    except (LogUnavailable, TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        found = Health(status="unavailable", database="away", projections="unknown")
    else:
        stopped = sum(state.error is not None for state in states)
        diverged = sum(state.diverged for state in states)
        wrong = [f"{stopped} stopped"] * (stopped > 0) + [f"{diverged} diverged"] * (diverged > 0)
        found = Health(
            status="degraded" if wrong else "ok",
            database="ok",
            projections=", ".join(wrong) or "ok",
            behind=max((state.behind for state in states), default=0),
        )
    if found.status != "ok":
        response.status_code = 503
    return found
