"""Tours over HTTP: plan a site's day, see and draw the plan, drive it stop by stop."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Annotated

from fastapi import HTTPException, Path, Query, Response

from api.commands import Post, mount
from api.dependencies import (
    Cursor,
    Dependencies,
    Limit,
    NotFound,
    Parts,
    either,
    reading,
    tagged,
)
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from api.tasks import request_post
from commands.tours import plan_stream, tour_stream
from domain.catalogue import decode
from domain.routing import Problem, Solution
from domain.tour_plans import CancelTourPlan
from domain.tours import (
    CancelTour,
    CompleteStop,
    FailStop,
    FinishTour,
    StartTour,
    Status,
    TourCompleted,
    TourPlanned,
)
from domain.values import Id
from domain.work import RequestTours
from eventstore.artifacts import ArtifactCorrupt, Artifacts
from ml.estimates import TOUR_COST
from ml.judging import Judges
from ml.tour_cost import Past, TourCostEstimate, told
from ml.tour_map import tour_map
from ml.touring import Replay, must_be_quick, replay
from readmodels import tours
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.tours import (
    TourDetail,
    TourPlanDetail,
    TourPlanSummary,
    TourStop,
    TourSummary,
)

router = Router("/tours", tags=["tours"])

#: One at a time: the others' requests are answered meanwhile.
_ONE = asyncio.Semaphore(1)
_STATUSES = [status.value for status in Status if status is not Status.UNKNOWN]
_STOPS = ["planned", "completed", "failed", "cancelled"]
_PLANS = ["planned", "cancelled"]
_Day = Annotated[date | None, Query()]

POSTS = (
    request_post(
        "/plan",
        RequestTours,
        "Plan a site's tours of a day, as a task",
        example={"site_id": "S-BER", "day": "2026-03-02", "seed": 1, "priority": "urgent"},
    ),
    Post(
        "/plans/{plan_id}/cancel",
        CancelTourPlan,
        "Give up a plan's tours that have not begun",
        now=("cancelled_at",),
        example={"reason": "roads are closed"},
    ),
    Post("/{tour_id}/start", StartTour, "Leave the depot", now=("started_at",)),
    Post(
        "/{tour_id}/stops/{order_id}/complete",
        CompleteStop,
        "Hand an order over, which delivers it",
        now=("completed_at",),
        errors=(404, 409, 422),
        example={"taken_by": "reception"},
    ),
    Post(
        "/{tour_id}/stops/{order_id}/fail",
        FailStop,
        "Take an order back",
        now=("failed_at",),
        errors=(404, 409, 422),
        example={"reason": "nobody_there", "note": "a card was left"},
    ),
    Post(
        "/{tour_id}/finish",
        FinishTour,
        "Be back at the depot",
        now=("finished_at",),
        errors=(404, 409, 422),
        example={"distance_m": 84200},
    ),
    Post(
        "/{tour_id}/cancel",
        CancelTour,
        "Give up a tour that has not begun",
        now=("cancelled_at",),
        example={"reason": "the van broke down"},
    ),
)
mount(router, POSTS)


@router.get("", summary="List tours", responses=documented() | partial(TourSummary, page=True))
async def list_tours(
    read: Annotated[ReadModels, reading("tours.list", "tour_list")],
    chosen: Annotated[Chosen, choosing(TourSummary)],
    plan_id: Annotated[Id | None, Query()] = None,
    site_id: Annotated[Id | None, Query()] = None,
    vehicle_id: Annotated[Id | None, Query()] = None,
    status: Annotated[str | None, Query(pattern=either(_STATUSES))] = None,
    since: _Day = None,
    until: _Day = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(tours.TOUR_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TourSummary]:
    """Tours, planned beside actual. Of days, `since` is in and `until` is out; `search` looks into
    the ids of tour, plan, site, vehicle and driver."""
    found = await tours.list_tours(
        read,
        plan_id=plan_id,
        site_id=site_id,
        vehicle_id=vehicle_id,
        status=status,
        since=since,
        until=until,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/stops",
    summary="List stops of tours",
    responses=documented() | partial(TourStop, page=True),
)
async def list_stops(
    read: Annotated[ReadModels, reading("tours.stops", "tour_stops")],
    chosen: Annotated[Chosen, choosing(TourStop)],
    tour_id: Annotated[Id | None, Query()] = None,
    order_id: Annotated[Id | None, Query()] = None,
    status: Annotated[str | None, Query(pattern=either(_STOPS))] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(tours.STOP_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TourStop]:
    """Stops of all tours, or of one, or of an order that was tried several times; `search` looks
    into the ids of tour, order, site and vehicle."""
    found = await tours.list_stops(
        read,
        tour_id=tour_id,
        order_id=order_id,
        status=status,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/plans",
    summary="List plans of tours",
    responses=documented() | partial(TourPlanSummary, page=True),
)
async def list_plans(
    read: Annotated[ReadModels, reading("tours.plans", "tour_plan_list")],
    chosen: Annotated[Chosen, choosing(TourPlanSummary)],
    site_id: Annotated[Id | None, Query()] = None,
    status: Annotated[str | None, Query(pattern=either(_PLANS))] = None,
    since: _Day = None,
    until: _Day = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(tours.PLAN_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TourPlanSummary]:
    """Plans, those of the latest day first; `search` looks into the ids of plan and site."""
    found = await tours.list_plans(
        read,
        site_id=site_id,
        status=status,
        since=since,
        until=until,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/plans/{plan_id}", summary="Get a plan of tours", responses=documented(404))
async def get_plan(
    plan_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("tours.plan", "tour_plan_list")],
) -> TourPlanDetail:
    """A plan with its solution, and of each order left behind the constraint that keeps it off."""
    found = await _plan(read, plan_id)
    tagged(response, found.version)
    return found


@router.get(
    "/plans/{plan_id}/map.svg",
    summary="See a plan of tours as a map",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"image/svg+xml": {}}, "description": "A picture."}},
)
async def get_plan_map(
    plan_id: Annotated[Id, Path()],
    response: Response,
    deps: Parts,
    read: Annotated[ReadModels, reading("tours.plan", "tour_plan_list")],
) -> Response:
    """Each tour as a line of its own colour; crosses are orders that were left behind."""
    found = await _plan(read, plan_id)
    problem = Problem.model_validate_json(await _problem(deps, found))
    solution = Solution.model_validate(found.plan["solution"])
    title = f"Tours of site {found.site_id} on {found.day:%-d %B %Y}"
    picture = tour_map(title, problem, solution)
    return Response(picture, media_type="image/svg+xml", headers=dict(response.headers))


@router.get(
    "/plans/{plan_id}/problem",
    summary="Get the problem that a plan solves",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"application/json": {}}, "description": "As it was given to the solver."}},
)
async def get_plan_problem(
    plan_id: Annotated[Id, Path()],
    deps: Parts,
    read: Annotated[ReadModels, reading("tours.plan", "tour_plan_list")],
) -> Response:
    """The artifact whose SHA-256 is the plan's `problem_hash`, to the byte."""
    content = await _problem(deps, await _plan(read, plan_id))
    return Response(content, media_type="application/json")


@router.get("/plans/{plan_id}/history", summary="Read a plan's history", responses=documented(404))
async def get_plan_history(
    plan_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("tours.plan_history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a plan, in words."""
    return await history_of(read, plan_stream(plan_id), "plan of tours", plan_id, cursor, limit)


@router.post(
    "/plans/{plan_id}/replay",
    summary="Solve a plan again and compare",
    responses=documented(404, 409),
)
async def replay_plan(
    plan_id: Annotated[Id, Path()],
    deps: Parts,
    read: Annotated[ReadModels, reading("tours.replay", "tour_plan_list")],
) -> Replay:
    """The same problem, iterations and seed by the installed solver; byte for byte. Changes
    nothing."""
    found = await _plan(read, plan_id)
    content = await _problem(deps, found)
    must_be_quick(plan_id, found.iterations, found.served + found.unserved)
    async with _ONE:
        return await replay(content, found, Judges(Artifacts(deps.log)))


@router.get("/{tour_id}", summary="Get a tour", responses=documented(404) | partial(TourDetail))
async def get_tour(
    tour_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("tours.get", "tour_list")],
    chosen: Annotated[Chosen, choosing(TourDetail)],
) -> TourDetail:
    """A tour with its plan; the ETag is its version."""
    found = await tours.get_tour(read, tour_id)
    if found is None:
        raise NotFound("tour", tour_id)
    tagged(response, found.version)
    return chosen.of(found)


@router.get("/{tour_id}/cost", summary="Estimate what a tour costs", responses=documented(404, 409))
async def get_tour_cost(
    tour_id: Annotated[Id, Path()],
    deps: Parts,
    read: Annotated[ReadModels, reading("tours.cost", "tour_list", "model_list", "model_roles")],
) -> TourCostEstimate:
    """What the deployed model of the kind `tour_cost` says, as it could have said when the tour was
    planned, with what each feature does to it; as planned (`rule-based`) where there is none."""
    events = await read.stream(tour_stream(tour_id))
    planned = decode(events[0].topic, events[0].state) if events else None
    if not isinstance(planned, TourPlanned):
        raise NotFound("tour", tour_id)
    judge = await Judges(Artifacts(deps.log)).now(read, TOUR_COST)
    site, vehicle = await tours.costs_so_far(
        read, planned.site_id, planned.vehicle_id, planned.currency, events[0].position
    )
    ended = decode(events[-1].topic, events[-1].state)
    actual = ended.cost_minor if isinstance(ended, TourCompleted) else None
    return await asyncio.to_thread(told, planned, Past(*site), Past(*vehicle), judge, actual)


@router.get("/{tour_id}/history", summary="Read a tour's history", responses=documented(404))
async def get_tour_history(
    tour_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("tours.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened on a tour, in words."""
    return await history_of(read, tour_stream(tour_id), "tour", tour_id, cursor, limit)


async def _plan(read: ReadModels, plan_id: str) -> TourPlanDetail:
    found = await tours.get_plan(read, plan_id)
    if found is None:
        raise NotFound("plan of tours", plan_id)
    return found


async def _problem(deps: Dependencies, plan: TourPlanDetail) -> bytes:
    try:
        return await Artifacts(deps.log).get(plan.problem_hash)
    except (KeyError, ArtifactCorrupt) as error:
        raise HTTPException(503, "the problem is not stored any more, or not as it was") from error
