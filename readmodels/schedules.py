"""Schedules: one, many, when they are due, and what they have asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from pydantic import Field

from domain.timetable import Timetable, following
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_COLUMNS = """schedule_id, version, state, name, told, made_by, made_at, runs_as, counts_from,
    after, CASE WHEN state = 'paused' THEN paused_by END AS paused_by,
    CASE WHEN state = 'paused' THEN paused_reason END AS paused_reason,
    CASE WHEN state = 'paused' THEN paused_at END AS paused_at,
    retired_at, runs, last_task_id, last_fired_at, last_position"""

_GET = f"""SELECT {_COLUMNS} FROM read_models.schedule_list
    WHERE organisation_id = %(organisation_id)s AND schedule_id = %(schedule_id)s"""

# told says what a page holds: null where only a failure is known of, which cannot be.
_LIST = f"""SELECT {_COLUMNS} FROM read_models.schedule_list
    WHERE organisation_id = %(organisation_id)s AND told IS NOT NULL
        AND (%(state)s::text IS NULL OR state = %(state)s)
        AND (%(task)s::text IS NULL OR told->'work'->>'task' = %(task)s)
        AND (%(search)s::text IS NULL OR name ILIKE %(search)s OR schedule_id ILIKE %(search)s)"""

_RUNS = """SELECT r.task_id, r.fired_position, r.due_at, r.fired_at, r.runs_as,
        coalesce(r.code, t.ended->>'code') AS code,
        coalesce(r.reason, t.ended->>'reason') AS reason,
        CASE WHEN r.code IS NOT NULL THEN 'not_requested' ELSE coalesce(t.state, 'fired')
            END AS state
    FROM read_models.schedule_runs r
    LEFT JOIN read_models.task_list t
        ON t.organisation_id = r.organisation_id AND t.task_id = r.task_id
    WHERE r.organisation_id = %(organisation_id)s AND r.schedule_id = %(schedule_id)s
        AND r.fired_position < %(before)s
    ORDER BY r.fired_position DESC LIMIT %(limit)s"""

SORTING = Sorting(
    {
        "made_at": Column(datetime),
        "name": Column(str),
        "state": Column(str),
        "schedule_id": Column(str),
        "last_fired_at": Column(datetime, nullable=True),
    },
    usual="-made_at",
    key=("schedule_id",),
)
#: So many next times are told.
NEXT = 5


class _Stored(Row):
    schedule_id: str
    version: int
    state: str
    name: str
    told: dict[str, Any]
    made_by: str
    made_at: datetime
    runs_as: str
    counts_from: datetime
    after: datetime
    paused_by: str | None
    paused_reason: str | None
    paused_at: datetime | None
    retired_at: datetime | None
    runs: int
    last_task_id: str | None
    last_fired_at: datetime | None
    last_position: int


class ScheduleSummary(Row):
    """A schedule as it stands. ``runs_as``: in whose name its tasks are asked for. ``runs``: how
    often it has fired."""

    schedule_id: str = Field(examples=["nightly"])
    version: int
    state: str = Field(examples=["active"])
    name: str
    when: dict[str, Any]
    work: dict[str, Any]
    priority: int
    catch_up: str
    made_by: str
    made_at: datetime
    runs_as: str
    paused_by: str | None
    paused_reason: str | None
    paused_at: datetime | None
    retired_at: datetime | None
    runs: int
    last_task_id: str | None
    last_fired_at: datetime | None
    last_position: int


class ScheduleDetail(ScheduleSummary):
    """A schedule, and when it is due next: the next five times, none unless it is active."""

    next_times: tuple[datetime, ...]


class ScheduleRun(Row):
    """A task that a schedule asked for. ``state``: the task's, or ``not_requested`` where it could
    not be asked for, for the ``reason`` that is told."""

    task_id: str
    due_at: datetime | None
    fired_at: datetime
    runs_as: str
    state: str
    code: str | None
    reason: str | None
    fired_position: int


def next_times(stored_when: dict[str, Any], since: datetime, after: datetime) -> list[datetime]:
    """The next times that something is due."""
    return list(islice(following(Timetable(**stored_when), since, after), NEXT))


async def get_schedule(
    read: ReadModels, schedule_id: str, now: datetime | None = None
) -> ScheduleDetail | None:
    """One schedule, with its next times from a moment on, or None."""
    found = await read.one(_Stored, _GET, schedule_id=schedule_id)
    if found is None:
        return None
    times: Sequence[datetime] = ()
    if found.state == "active":
        after = max(found.after, now or datetime.now(UTC))
        times = next_times(found.told["when"], found.counts_from, after)
    return ScheduleDetail(**_summary(found).model_dump(), next_times=tuple(times))


async def list_schedules(
    read: ReadModels,
    *,
    state: str | None = None,
    task: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ScheduleSummary]:
    """Schedules, the latest made first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        _Stored,
        _LIST + by.sql,
        state=state,
        task=task,
        search=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    found = by.page(rows, limit)
    return Page[ScheduleSummary](
        items=tuple(_summary(row) for row in found.items), next_cursor=found.next_cursor
    )


async def schedule_runs(
    read: ReadModels, schedule_id: str, *, cursor: str | None = None, limit: int = 50
) -> Page[ScheduleRun]:
    """What a schedule has asked for, the latest first."""
    (before,) = decode(cursor, int) if cursor else (2**63 - 1,)
    rows = await read.rows(
        ScheduleRun, _RUNS, schedule_id=schedule_id, before=before, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.fired_position,))


def _summary(stored: _Stored) -> ScheduleSummary:
    told = {name: stored.told[name] for name in ("when", "work", "priority", "catch_up")}
    return ScheduleSummary(**told, **stored.model_dump(exclude={"told", "counts_from", "after"}))
