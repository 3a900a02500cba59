"""Schedules over HTTP: long work that is asked for again and again."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Dependencies, Limit, NotFound, either, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, choosing, partial, sortable
from api.routers import Router
from api.server_wide import must_be_allowed
from commands import Context
from commands.schedules import schedule_stream
from domain.scheduled_work import ScheduledWork, WorkOfSchedule, request_of
from domain.schedules import (
    SCHEDULES,
    ChangeSchedule,
    MakeSchedule,
    PauseSchedule,
    ResumeSchedule,
    RetireSchedule,
    RunSchedule,
    State,
)
from domain.values import Id
from readmodels import schedules
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.schedules import ScheduleDetail, ScheduleRun, ScheduleSummary

router = Router("/schedules", tags=["schedules"])

_STATES = [state.value for state in State if state is not State.UNKNOWN]
_TASKS = ("training", "inference", "simulation", "tours", "sealing", "archiving")


async def _may_ask_for_it(deps: Dependencies, command: Any, context: Context) -> None:
    """Who has a task asked for may ask for it: for that which a schedule has, and for that which
    it is to have."""
    works: list[tuple[ScheduledWork | WorkOfSchedule, str]] = []
    if isinstance(command, MakeSchedule | ChangeSchedule) and command.work is not None:
        works.append((command.work, "UTC" if command.when is None else command.when.zone))
    if not isinstance(command, MakeSchedule):
        # Not by all that the schedule ever did: each time that it is due is an event of it.
        stream = schedule_stream(command.schedule_id)
        state = await deps.bus.state(context.organisation_id, stream, SCHEDULES)
        if state.work is not None and state.when is not None:
            works.append((state.work, state.when.zone))
    for work, zone in works:
        at = next(value for value in command.model_dump().values() if hasattr(value, "tzinfo"))
        request = request_of(work, str(uuid4()), 5, at, zone)
        await must_be_allowed(deps, request, context)


_EXAMPLE = {
    "schedule_id": "nightly-training",
    "name": "Train at night",
    "when": {"cron": "30 2 * * *", "zone": "Europe/Berlin"},
    "work": {"task": "training", "kind": "fulfilment"},
}

POSTS = (
    Post(
        "",
        MakeSchedule,
        "Make a schedule",
        now=("made_at",),
        made=("schedule_id",),
        status=201,
        guard=_may_ask_for_it,
        example=_EXAMPLE,
    ),
    Post(
        "/{schedule_id}",
        ChangeSchedule,
        "Change a schedule",
        now=("changed_at",),
        guard=_may_ask_for_it,
        example={"when": {"every_s": 3600}},
    ),
    Post(
        "/{schedule_id}/pause",
        PauseSchedule,
        "Pause a schedule",
        now=("paused_at",),
        example={"reason": "the warehouse is being moved"},
    ),
    Post(
        "/{schedule_id}/resume",
        ResumeSchedule,
        "Let a schedule go on",
        now=("resumed_at",),
        guard=_may_ask_for_it,
    ),
    Post(
        "/{schedule_id}/retire",
        RetireSchedule,
        "End a schedule",
        now=("retired_at",),
        example={"reason": "it is done by hand from now on"},
    ),
    Post(
        "/{schedule_id}/run",
        RunSchedule,
        "Ask for a schedule's task now",
        now=("ran_at",),
        made=("task_id",),
        guard=_may_ask_for_it,
    ),
)
mount(router, POSTS)

SchedulePath = Annotated[Id, Path(description="The schedule's id.")]


@router.get(
    "",
    summary="List schedules, the latest made first",
    responses=documented() | partial(ScheduleSummary, page=True),
)
async def list_schedules(
    read: Annotated[ReadModels, reading("schedules.list", "schedule_list")],
    chosen: Annotated[Chosen, choosing(ScheduleSummary)],
    state: Annotated[
        str | None, Query(pattern=either(_STATES), description="In this state only.")
    ] = None,
    task: Annotated[
        str | None, Query(pattern=either(_TASKS), description="For this kind of task only.")
    ] = None,
    search: Annotated[
        str | None, Query(min_length=1, max_length=100, description="In the name or the id.")
    ] = None,
    sort: Annotated[str | None, sortable(schedules.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ScheduleSummary]:
    """What is asked for again and again."""
    found = await schedules.list_schedules(
        read, state=state, task=task, search=search, sort=sort, cursor=cursor, limit=limit
    )
    return chosen.of(found)


@router.get("/{schedule_id}", summary="Get a schedule", responses=documented(404))
async def get_schedule(
    schedule_id: SchedulePath,
    response: Response,
    read: Annotated[ReadModels, reading("schedules.get", "schedule_list")],
) -> ScheduleDetail:
    """A schedule, and the next five times that it is due."""
    found = await schedules.get_schedule(read, schedule_id)
    if found is None:
        raise NotFound("schedule", schedule_id)
    tagged(response, found.version)
    return found


@router.get(
    "/{schedule_id}/runs", summary="What a schedule has asked for", responses=documented(404)
)
async def get_schedule_runs(
    schedule_id: SchedulePath,
    read: Annotated[ReadModels, reading("schedules.runs", "schedule_runs", "task_list")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ScheduleRun]:
    """Its tasks, the latest first, and what became of them."""
    found = await schedules.schedule_runs(read, schedule_id, cursor=cursor, limit=limit)
    if not found.items and cursor is None and not await read.stream(schedule_stream(schedule_id)):
        raise NotFound("schedule", schedule_id)
    return found


@router.get(
    "/{schedule_id}/history", summary="The history of a schedule", responses=documented(404)
)
async def get_schedule_history(
    schedule_id: SchedulePath,
    read: Annotated[ReadModels, reading("schedules.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to it, in words, the oldest first."""
    return await history_of(
        read, schedule_stream(schedule_id), "schedule", schedule_id, cursor, limit
    )
