"""One call for one screen: from read models only, at most three queries each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from api.commands import IdempotencyKey, Post, asked, only_one
from api.dependencies import (
    Cursor,
    Dependencies,
    Limit,
    NotAllowed,
    NotFound,
    Parts,
    allowed,
    either,
    may_ask,
    reading,
    tagged,
)
from api.errors import documented
from api.routers import Router
from api.times import Day as DayOf
from api.times import Timestamp
from api.tokens import Identity
from commands import Context, command_id
from domain.decisions import RequestDecision, Weights
from domain.values import Id, SubjectId
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.insights import Insights, insights
from ml.simulation_report import SimulationResults
from readmodels import decisions, entities, frontend, kpi_reports, models
from readmodels.database import ReadModels
from readmodels.decisions import DecisionDetail
from readmodels.entities import KINDS, Entities
from readmodels.frontend import DECISION_TABLES, PARTS, Day, Line, SimulationScreen
from readmodels.kpi_reports import KpiTile
from readmodels.kpi_sums import Period
from readmodels.positions import ProjectionState, State

router = Router("/frontend", tags=["frontend"])

#: Days that the dashboard's KPIs are of, up to its day.
KPI_DAYS = 30
#: How old the states of read models may be that health is told from, in seconds.
_RECENT_S = 1.0
#: A read model that is behind by more is told of, in seconds.
_LATE_S = 5.0
_UNWELL: Mapping[State, str] = {
    State.STOPPED: "stands still and has to be looked after",
    State.STALLED: "does not move",
    State.DIVERGED: "belongs to a log that was restored and is made anew",
}


class Screen(Day):
    """The day at a glance, with the KPIs of the thirty days up to it. What the caller may not ask
    for by itself is null."""

    day: date
    kpis: tuple[KpiTile, ...] | None = None


class AllEntities(BaseModel):
    """Every kind that the caller may see, or a page of one."""

    kinds: tuple[Entities, ...]
    next_cursor: str | None = Field(default=None, description="Of a page of one kind.")


class Told(BaseModel):
    """A decision with everything about it."""

    insights: Insights
    timeline: tuple[Line, ...]


class SimulationTold(SimulationScreen):
    """A simulation on one screen; ``results`` is null until it is completed."""

    results: SimulationResults | None = None


class AskedDecision(BaseModel):
    """A decision to ask for. ``requested_at`` is now, ``decision_id`` made up, where left out."""

    model_config = ConfigDict(extra="forbid")

    kind: Id = "fulfilment"
    subject_id: SubjectId = Field(examples=["O-1"])
    decision_id: Id | None = None
    weights: Weights | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    deadline: Timestamp | None = None
    redecides: Id | None = None
    requested_at: Timestamp | None = None


class Answered(BaseModel):
    """What became of a request in time. ``pending``: it has no answer yet; ``look_at`` will."""

    status: Literal["answered", "pending"]
    decision_id: str
    position: int
    look_at: str
    insights: Insights | None = None


class Lag(BaseModel):
    """A read model, and by how much it is behind."""

    name: str
    state: str
    seconds_behind: float
    behind: int


class Worker(BaseModel):
    """A part of the system that works behind the log."""

    name: str
    state: Literal["ok", "late", "unwell"]
    seconds_behind: float


class Condition(BaseModel):
    """How the system is, in words. ``late``: the read models that are behind or unwell."""

    status: Literal["ok", "late", "unwell"]
    sentence: str
    position: int
    seconds_behind: float
    workers: tuple[Worker, ...]
    late: tuple[Lag, ...]


@router.get("/dashboard", summary="The day at a glance", responses=documented())
async def dashboard(
    caller: Annotated[Identity, allowed("frontend.dashboard")],
    read: Annotated[
        ReadModels,
        reading(
            "frontend.dashboard", *(part.table for part in PARTS.values()), *kpi_reports.TABLES
        ),
    ],
    day: Annotated[DayOf | None, Query(description="The day (UTC); today where left out.")] = None,
) -> Screen:
    """Orders of the day by state, open alerts, decisions that wait for people, tours of the day,
    and the KPIs: two queries."""
    today = day or datetime.now(UTC).date()
    if not 1000 <= today.year <= 9000:
        raise kpi_reports.BadReport(f"day: {today} is outside the years 1000 to 9000")
    parts = {name for name, part in PARTS.items() if may_ask(part.permission, caller)}
    found = await frontend.day(read, today, parts)
    tiles = None
    if may_ask("kpis.dashboard", caller):
        period = Period(today - timedelta(days=KPI_DAYS - 1), today)
        tiles = (await kpi_reports.dashboard(read, period)).tiles
    return Screen(**dict(found), day=today, kpis=tiles)


@router.get("/entities", summary="Everything that there is", responses=documented())
async def list_entities(
    caller: Annotated[Identity, allowed("frontend.entities")],
    read: Annotated[
        ReadModels, reading("frontend.entities", *(kind.table for kind in KINDS.values()))
    ],
    kind: Annotated[str | None, Query(pattern=either(list(KINDS)))] = None,
    search: Annotated[
        str | None,
        Query(min_length=1, max_length=100, description="In id or title, of one `kind`."),
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AllEntities:
    """Of each kind that the caller may list how many there are, and the first of them; of one
    `kind` a page, the newest first where they have a time: one query."""
    if kind is None:
        for name, value in (("search", search), ("cursor", cursor)):
            if value is not None:
                told = {"type": "needs_kind", "loc": ("query", name), "input": value}
                rule = f"goes with `kind`, one of {', '.join(KINDS)}"
                raise RequestValidationError([told | {"msg": rule}])
        seen = {name for name, one in KINDS.items() if may_ask(one.permission, caller)}
        return AllEntities(kinds=await entities.overview(read, seen))
    if not may_ask(KINDS[kind].permission, caller):
        raise NotAllowed(KINDS[kind].permission, caller)
    found = await entities.search(read, kind, text=search, cursor=cursor, limit=limit)
    one = Entities(kind=kind, count=None, more=found.next_cursor is not None, items=found.items)
    return AllEntities(kinds=(one,), next_cursor=found.next_cursor)


_REQUEST = Post(
    "/decision",
    RequestDecision,
    "Ask for a decision and wait for it",
    now=("requested_at",),
    made=("decision_id",),
)


@router.post(
    "/decision",
    summary="Ask for a decision and wait for it",
    responses=documented(400, 404, 408, 409, 413, 415, 429)
    | {202: {"model": Answered, "description": "Taken, and not answered in time."}},
)
async def ask_and_wait(
    body: AskedDecision,
    request: Request,
    response: Response,
    deps: Parts,
    caller: Annotated[Identity, allowed("frontend.decision")],
    wait_ms: Annotated[
        int, Query(ge=0, le=30_000, description="How long to wait for the answer.")
    ] = 2_000,
    idempotency_key: IdempotencyKey = None,
) -> Answered:
    """Sends RequestDecision, and answers with the explained decision as soon as it is made: 200. If
    it is not made in time: 202, and where to look for it."""
    if idempotency_key is not None:
        only_one(request, "Idempotency-Key")
    sent = body.model_dump(exclude_unset=True, exclude_none=True, mode="json")
    command, digest = asked(_REQUEST, {}, sent)
    own = caller.organisation_id
    context = Context(
        organisation_id=own,
        actor=caller.actor,
        roles=caller.roles,
        scopes=caller.scopes,
        command_id=command_id(own, f"http:{idempotency_key}") if idempotency_key else uuid4(),
        correlation_id=request.state.correlation_id,
        digest=digest,
    )
    receipt = await deps.bus.execute(command, context)
    decision_id = receipt.stream.partition("/")[2]
    read = ReadModels(deps.log, own)
    found = await _answer(deps, read, decision_id, wait_ms / 1000)
    answered = found is not None and (found.made is not None or found.failed is not None)
    look_at = f"{request.url.path.removesuffix('/decision')}/decision/{decision_id}/insights"
    if not answered:
        response.status_code = 202
        response.headers["Location"] = look_at
    told = await _told_of(read, found) if answered and found is not None else None
    return Answered(
        status="answered" if answered else "pending",
        decision_id=decision_id,
        position=receipt.position,
        look_at=look_at,
        insights=told,
    )


@router.get(
    "/decision/{decision_id}/insights",
    summary="A decision with everything about it",
    responses=documented(404),
)
async def decision_insights(
    decision_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("frontend.insights", *DECISION_TABLES)],
) -> Told:
    """What was decided, why, what pushes the score, the other candidates, what people said and what
    came of it, which features could be changed (`/decisions/{decision_id}/what-if` tries them), and
    the decision's events in words: two queries. A rule's decision says `rule-based`."""
    found = await frontend.decision(read, decision_id)
    if found is None:
        raise NotFound("decision", decision_id)
    tagged(response, found.version)
    told = insights(found.model_dump(), found.features, found.stage, found.approvals_left)
    return Told(insights=told, timeline=await frontend.lines(read, decision_id))


@router.get(
    "/simulation/{simulation_id}/results",
    summary="A simulation on one screen",
    responses=documented(404),
)
async def simulation_results(
    simulation_id: Annotated[Id, Path()],
    deps: Parts,
    response: Response,
    caller: Annotated[Identity, allowed("frontend.simulation")],
    read: Annotated[ReadModels, reading("frontend.simulation", "task_list")],
) -> SimulationTold:
    """How far a simulation is, and what came of it, as soon as it is completed: a query, and one
    for the file of results."""
    found = await frontend.simulation(read, simulation_id)
    if found is None:
        raise NotFound("simulation", simulation_id)
    tagged(response, found.version)
    results = None
    if found.artifact is not None and may_ask("simulations.results", caller):
        try:
            content = await Artifacts(deps.log).get(found.artifact)
        except (KeyError, ArtifactCorrupt) as error:
            raise HTTPException(503, "the file is not stored any more, or not as it was") from error
        results = SimulationResults.model_validate_json(content)
    return SimulationTold(**dict(found), results=results)


@router.get("/health", summary="How the system is", responses=documented())
async def condition(deps: Parts, _: Annotated[Identity, allowed("frontend.health")]) -> Condition:
    """Whether all is well, in words; how many seconds read models and workers are behind: one
    query."""
    states = await deps.positions.recent_states(_RECENT_S)
    return condition_of(states)


def condition_of(states: list[ProjectionState]) -> Condition:
    """What is told of the states of all read models."""
    late = sorted(
        (one for one in states if one.state in _UNWELL or one.seconds_behind > _LATE_S),
        key=lambda one: (one.state not in _UNWELL, -one.seconds_behind, one.name),
    )
    workers = tuple(
        _worker(name, [one for one in states if one.name.startswith("feature_") is features])
        for name, features in (("read models", False), ("decisions", True))
    )
    unwell = [one for one in late if one.state in _UNWELL]
    behind = max((one.seconds_behind for one in states), default=0.0)
    if unwell:
        first, others = unwell[0], len(unwell) - 1
        more = f", and {others} more" if others else ""
        sentence = f"The read model {first.name} {_UNWELL[first.state]}{more}."
    elif late:
        sentence = f"All works; what is shown is up to {behind:.0f} seconds old."
    else:
        sentence = "All is well."
    return Condition(
        status="unwell" if unwell else "late" if late else "ok",
        sentence=sentence,
        position=max((one.head for one in states), default=0),
        seconds_behind=behind,
        workers=workers,
        late=tuple(
            Lag(
                name=one.name,
                state=one.state.value,
                seconds_behind=one.seconds_behind,
                behind=one.behind,
            )
            for one in late
        ),
    )


def _worker(name: str, states: list[ProjectionState]) -> Worker:
    behind = max((one.seconds_behind for one in states), default=0.0)
    unwell = any(one.state in _UNWELL for one in states)
    return Worker(
        name=name,
        state="unwell" if unwell else "late" if behind > _LATE_S else "ok",
        seconds_behind=behind,
    )


async def _answer(
    deps: Dependencies, read: ReadModels, decision_id: str, wait_s: float
) -> DecisionDetail | None:
    """The decision as the log has it, as soon as it has an answer or the time is over."""
    deadline = monotonic() + wait_s
    while True:
        mark = deps.news.mark()
        found = await decisions.evidence(read, decision_id)
        left = deadline - monotonic()
        if left <= 0 or (
            found is not None and (found.made is not None or found.failed is not None)
        ):
            return found
        with suppress(TimeoutError):
            await asyncio.wait_for(deps.news.wait(mark), left)


async def _told_of(read: ReadModels, found: DecisionDetail) -> Insights:
    names: list[str] = []
    if found.made is not None:
        model = await models.get_model(read, found.made["model_hash"])
        names = [] if model is None else list(model.features)
    stage = "failed" if found.failed else "referred" if found.referred else "made"
    waits_for: Any = found.referred["approvals"] if found.referred else None
    return insights(found.model_dump(), names, stage, waits_for)
