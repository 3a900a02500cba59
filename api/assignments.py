"""Assignments over HTTP."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from fastapi import Path, Query

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.assignments import assignments_stream
from domain.assignments import AssignVehicle, CancelAssignment, ChangeAssignment, EndAssignment
from domain.values import Id
from readmodels import assignments
from readmodels.assignments import Assignment
from readmodels.database import ReadModels
from readmodels.page import Page

router = Router("/assignments", tags=["assignments"])

_ONE = "/{vehicle_id}/{assignment_id}"

POSTS: tuple[Post, ...] = (
    Post(
        "",
        AssignVehicle,
        "Assign a vehicle to a site for a time",
        now=("assigned_at",),
        named="assignment_id",
        status=201,
        example={
            "vehicle_id": "V-BER-TRUCK",
            "assignment_id": "A-2026-03-02",
            "site_id": "S-BER",
            "window": {"starts_at": "2026-03-02T06:00:00Z", "ends_at": "2026-03-02T14:30:00Z"},
            "driver_id": "D-17",
            "break_window": {
                "starts_at": "2026-03-02T10:00:00Z",
                "ends_at": "2026-03-02T10:45:00Z",
            },
        },
    ),
    Post(
        f"{_ONE}/change",
        ChangeAssignment,
        "Change an assignment",
        now=("changed_at",),
        named="assignment_id",
        example={"driver_id": "D-18"},
    ),
    Post(
        f"{_ONE}/end",
        EndAssignment,
        "End an assignment early",
        now=("ended_at",),
        named="assignment_id",
        example={"reason": "breakdown", "ended_at": "2026-03-02T12:10:00Z"},
    ),
    Post(
        f"{_ONE}/cancel",
        CancelAssignment,
        "Cancel an assignment before it begins",
        now=("cancelled_at",),
        named="assignment_id",
        example={"reason": "no work", "cancelled_at": "2026-03-01T17:00:00Z"},
    ),
)
mount(router, POSTS)


@router.get("", summary="List assignments", responses=documented() | partial(Assignment, page=True))
async def list_assignments(
    read: Annotated[ReadModels, reading("assignments.list", "assignment_list")],
    chosen: Annotated[Chosen, choosing(Assignment)],
    vehicle_id: Annotated[Id | None, Query()] = None,
    site_id: Annotated[Id | None, Query()] = None,
    driver_id: Annotated[Id | None, Query()] = None,
    status: Annotated[Literal["assigned", "ended", "cancelled"] | None, Query()] = None,
    day: Annotated[
        date | None, Query(description="Those that have a part of this day (UTC).")
    ] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(assignments.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Assignment]:
    """Assignments by their start, those that ended or were cancelled too. `search` finds a part of
    an id: the assignment's, its vehicle's, site's or driver's."""
    found = await assignments.list_assignments(
        read,
        vehicle_id=vehicle_id,
        site_id=site_id,
        driver_id=driver_id,
        status=status,
        day=day,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/{vehicle_id}/history",
    summary="Read the history of a vehicle's assignments",
    responses=documented(404),
)
async def get_assignment_history(
    vehicle_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("assignments.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to all assignments of a vehicle, the oldest first: they are one stream."""
    return await history_of(
        read,
        assignments_stream(vehicle_id),
        "assignments of vehicle",
        vehicle_id,
        cursor,
        limit,
    )


@router.get(_ONE, summary="Get an assignment", responses=documented(404) | partial(Assignment))
async def get_assignment(
    vehicle_id: Annotated[Id, Path()],
    assignment_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("assignments.get", "assignment_list")],
    chosen: Annotated[Chosen, choosing(Assignment)],
) -> Assignment:
    """A vehicle's time at a site's disposal."""
    found = await assignments.get_assignment(read, vehicle_id, assignment_id)
    if found is None:
        raise NotFound("assignment", assignment_id)
    return chosen.of(found)
