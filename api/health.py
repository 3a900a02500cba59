"""Health: is it alive, can it serve, does the database answer, do models decide. Who asks needs no
token, so nothing is told of any organisation, no address and no error's text."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Literal

import psycopg
from fastapi import Depends, Request, Response
from pydantic import BaseModel, Field

from api.dependencies import Dependencies, Parts
from api.routers import Router
from eventstore import LogUnavailable
from eventstore.artifacts import Artifacts
from eventstore.probe import PATIENCE_S, Recent
from ml.catalogue import FEATURE_TABLES, KINDS
from ml.health import Fitness, Fitnesses, Trained
from readmodels.health import DatabaseState, database_state, deployed, diverged
from readmodels.positions import ProjectionState, State

router = Router(tags=["health"])
#: Where Kubernetes and load balancers look.
probes = Router("/health", tags=["health"], at="")
#: Read models that somebody has to look after.
_UNWELL = (State.STOPPED, State.STALLED, State.DIVERGED)
_AWAY = (LogUnavailable, TimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
_FEATURES = frozenset(table.name for table in FEATURE_TABLES)
#: How old the states of read models may be that health is told from, in seconds.
_RECENT_S = 1.0
#: Loading a model for the first time takes longer than a look at a table, in seconds.
_LOADING_S = 10.0


class Health(BaseModel):
    """``status``: ok, or what is wrong. ``projections``: ok, or how many do not follow the log, and
    how many events are parked as dead letters. ``behind``: events that the last read model is
    behind."""

    status: str
    database: str
    projections: str
    behind: int | None = None


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether requests can be served, and what keeps them from it."""

    status: Literal["ok", "not ready"]
    database: Literal["ok", "away", "read-only"] = Field(
        description="`read-only`: a standby answers, which takes no commands."
    )
    log: Literal["ok", "missing", "unknown"] = Field(
        description="`missing`: the database was not prepared."
    )
    read_models: Literal["ok", "diverged", "unknown"] = Field(
        description="`diverged`: a backup was restored; some are being rebuilt and not served."
    )


class Database(BaseModel):
    """How the database answers."""

    status: Literal["ok", "away", "read-only", "not prepared"]
    latency_ms: float | None = Field(
        default=None, description="Of one question and its answer; null while it is away."
    )


class ModelsOfKind(BaseModel):
    """Whether requests of a kind can be decided. ``faults``: what is wrong with some champion."""

    status: Literal["ok", "none", "broken", "unknown"] = Field(
        description="`none`: no model is deployed. `broken`: some champion cannot decide. "
        "`unknown`: nobody has looked yet."
    )
    faults: list[Fitness] = []


class Deciding(BaseModel):
    """How far the decision consumer is."""

    status: State | Literal["unknown"]
    behind: int | None = Field(default=None, description="Events that it has not seen.")
    behind_s: float | None = Field(
        default=None, description="How long the first of them has been on the log, in seconds."
    )


class Models(BaseModel):
    """Whether decisions are made."""

    status: Literal["ok", "degraded", "unavailable"]
    kinds: dict[str, ModelsOfKind] = {}
    consumer: Deciding
    alerts: int | None = Field(default=None, description="Open alerts on models.")


class Looks:
    """What probes have seen lately: any number of them cost the database as much as one."""

    def __init__(self, deps: Dependencies) -> None:
        self.deps = deps
        self._fitnesses = Fitnesses(Artifacts(deps.log), KINDS)
        self.ready = Recent(self._ready)
        self.database = Recent(self._database)
        self.models = Recent(self._models)
        self.health = Recent(self._health)

    async def _state(self) -> DatabaseState | None:
        try:
            return await self.deps.probe.look(database_state)
        except LogUnavailable:
            return None

    async def _ready(self) -> Ready:
        state = await self._state()
        if state is None:
            return Ready(status="not ready", database="away", log="unknown", read_models="unknown")
        database: Literal["ok", "read-only"] = "ok" if state.writable else "read-only"
        if not state.prepared:
            return Ready(
                status="not ready", database=database, log="missing", read_models="unknown"
            )
        try:
            lost = await self.deps.probe.look(diverged)
        except LogUnavailable:
            return Ready(status="not ready", database="away", log="unknown", read_models="unknown")
        return Ready(
            status="not ready" if lost or not state.writable else "ok",
            database=database,
            log="ok",
            read_models="diverged" if lost else "ok",
        )

    async def _database(self) -> Database:
        state = await self._state()
        if state is None:
            return Database(status="away")
        status: Literal["ok", "read-only", "not prepared"] = "ok"
        if not state.prepared:
            status = "not prepared"
        elif not state.writable:
            status = "read-only"
        return Database(status=status, latency_ms=state.latency_ms)

    async def _health(self) -> Health:
        try:
            states = await self._states()
        except _AWAY:
            return Health(status="unavailable", database="away", projections="unknown")
        counts = Counter(state.state for state in states)
        wrong = [f"{counts[state]} {state}" for state in _UNWELL if counts[state]]
        parked = sum(state.dead_letters for state in states)
        named = [f"{parked} dead letter{'s' * (parked > 1)}"] * (parked > 0)
        return Health(
            status="degraded" if wrong else "ok",
            database="ok",
            projections=", ".join((wrong or ["ok"]) + named),
            behind=max((state.behind for state in states), default=0),
        )

    async def _states(self) -> list[ProjectionState]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.deps.positions.recent_states(_RECENT_S)

    async def _models(self) -> Models:
        try:
            champions, alerts = await self.deps.probe.look(deployed)
            states = [one for one in await self._states() if one.name in _FEATURES]
        except _AWAY:
            return Models(status="unavailable", consumer=Deciding(status="unknown"))
        trained = [Trained(*one) for one in champions]
        try:
            async with asyncio.timeout(_LOADING_S):
                fitness = await self._fitnesses.of(trained)
        except _AWAY:
            return Models(status="unavailable", consumer=Deciding(status="unknown"))
        kinds = {name: _of_kind(name, trained, fitness) for name in KINDS}
        consumer = _deciding(states)
        broken = any(one.status == "broken" for one in kinds.values())
        return Models(
            status="degraded" if broken or consumer.status in (*_UNWELL, State.HELD) else "ok",
            kinds=kinds,
            consumer=consumer,
            alerts=alerts,
        )


def _of_kind(name: str, champions: list[Trained], fitness: dict[Trained, Fitness]) -> ModelsOfKind:
    mine = [one for one in champions if one.kind == name]
    faults = sorted({fitness[one] for one in mine if one in fitness} - {Fitness.OK})
    if faults:
        return ModelsOfKind(status="broken", faults=faults)
    if not mine:
        return ModelsOfKind(status="none")
    return ModelsOfKind(status="ok" if any(one in fitness for one in mine) else "unknown")


def _deciding(states: list[ProjectionState]) -> Deciding:
    if not states:
        return Deciding(status="unknown")
    worst = min(states, key=lambda one: list(State).index(one.state))
    return Deciding(
        status=worst.state,
        behind=max(one.behind for one in states),
        behind_s=round(max(one.seconds_behind for one in states), 3),
    )


async def looks(request: Request, deps: Parts) -> Looks:
    """What probes have seen of these parts."""
    state = request.app.state
    found: Looks | None = getattr(state, "looks", None)
    if found is None or found.deps is not deps:
        found = state.looks = Looks(deps)
    return found


Seen = Annotated[Looks, Depends(looks)]


def _told(
    model: type[BaseModel], well: dict[str, Any], ill: dict[str, Any]
) -> dict[int | str, dict[str, Any]]:
    """Answers for the documentation."""
    return {
        200: {"content": {"application/json": {"example": well}}},
        503: {
            "model": model,
            "description": "It is not; the same answer says what is wrong.",
            "content": {"application/json": {"example": ill}},
        },
    }


@router.get("/health", summary="Is it well?", responses={503: {"model": Health}})
async def health(seen: Seen, response: Response) -> Health:
    """Needs no token. 503 where the database is away, or where a read model stands still with an
    error, does not move although there is work, or is rebuilt because a backup was restored. Dead
    letters are named only: the rest of their read model goes on. Nor is it unhealthy to catch up,
    or to be held after a rollback."""
    found = await seen.health.get()
    if found.status != "ok":
        response.status_code = 503
    return found


@probes.get(
    "/live",
    summary="Is the process alive?",
    responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
)
async def live() -> Live:
    """Needs no token. Asks nobody: without an answer the process hangs and is to be started
    again. A database that is away is no reason for that."""
    return Live()


_READY = {"status": "ok", "database": "ok", "log": "ok", "read_models": "ok"}
_NOT_READY = {
    "status": "not ready",
    "database": "away",
    "log": "unknown",
    "read_models": "unknown",
}


@probes.get("/ready", summary="Can it serve requests?", responses=_told(Ready, _READY, _NOT_READY))
async def ready(seen: Seen, response: Response) -> Ready:
    """Needs no token; at most a second old. 503 where the database does not answer within two
    seconds, takes no commands, was not prepared, or where read models belong to a log that is no
    longer there. One that is behind or stands still is served as it is, see `/api/v1/health`."""
    found = await seen.ready.get()
    if found.status != "ok":
        response.status_code = 503
    return found


@probes.get(
    "/database",
    summary="Does the database answer?",
    responses=_told(
        Database, {"status": "ok", "latency_ms": 0.42}, {"status": "away", "latency_ms": None}
    ),
)
async def database(seen: Seen, response: Response) -> Database:
    """Needs no token; at most a second old. Asked over a connection of its own: a pool that is
    busy does not make the database look away."""
    found = await seen.database.get()
    if found.status != "ok":
        response.status_code = 503
    return found


_DECIDING = {"status": "live", "behind": 0, "behind_s": 0.0}
_DECIDES = {
    "status": "ok",
    "kinds": {"fulfilment": {"status": "ok", "faults": []}},
    "consumer": _DECIDING,
    "alerts": 0,
}
_BROKEN = {
    "status": "degraded",
    "kinds": {"fulfilment": {"status": "broken", "faults": ["corrupt"]}},
    "consumer": _DECIDING,
    "alerts": 1,
}


@probes.get("/ml", summary="Are decisions made?", responses=_told(Models, _DECIDES, _BROKEN))
async def ml(seen: Seen, response: Response) -> Models:
    """Needs no token; at most a second old, what is said of a model's bytes five minutes. 503 where
    the champion of some organisation is gone, is not what its hash says, cannot be loaded or was
    trained on other features, or where the decision consumer stands still. Alerts are counted
    only."""
    found = await seen.models.get()
    if found.status != "ok":
        response.status_code = 503
    return found
