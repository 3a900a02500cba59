"""Schedules: as they hold now, those that may become due, what they have asked for."""

from __future__ import annotations

from polars import lit

from domain.schedules import (
    EVENTS,
    ScheduleChanged,
    ScheduledRunFailed,
    ScheduleFired,
    ScheduleMade,
    SchedulePaused,
    ScheduleResumed,
    ScheduleRetired,
)
from domain.tasks import TaskRequested
from projections.fold import count, first, greatest, last
from projections.table import Table

#: Nothing up to then can be due any more.
_AFTER = greatest(
    {
        ScheduleMade: "made_at",
        ScheduleChanged: "counts_from",
        ScheduleResumed: "resumed_at",
        ScheduleFired: "due_at",
    }
)
_STATE = last(
    {
        ScheduleMade: lit("active"),
        SchedulePaused: lit("paused"),
        ScheduleResumed: lit("active"),
        ScheduleRetired: lit("retired"),
    }
)

SCHEDULE_LIST = Table(
    name="schedule_list",
    key=dict.fromkeys(EVENTS, ("schedule_id",)),
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "state": _STATE,
        "name": last({ScheduleMade: "name", ScheduleChanged: "name"}),
        "told": last({ScheduleMade: "state", ScheduleChanged: "state"}, json=True),
        "made_by": first({ScheduleMade: "made_by"}),
        "made_at": first({ScheduleMade: "made_at"}),
        "runs_as": last(
            {ScheduleMade: "made_by", ScheduleChanged: "changed_by", ScheduleResumed: "resumed_by"}
        ),
        "counts_from": last({ScheduleMade: "made_at", ScheduleChanged: "counts_from"}),
        "after": _AFTER,
        "paused_by": last({SchedulePaused: "paused_by"}),
        "paused_reason": last({SchedulePaused: "reason"}),
        "paused_at": last({SchedulePaused: "paused_at"}),
        "retired_at": last({ScheduleRetired: "retired_at"}),
        "runs": count(ScheduleFired),
        "last_task_id": last({ScheduleFired: "task_id"}),
        "last_fired_at": last({ScheduleFired: "fired_at"}),
    },
    indexes=(("made_at", "schedule_id"),),
)

#: Those that have not ended, for the scheduler.
SCHEDULE_CLOCK = Table(
    name="schedule_clock",
    key=dict.fromkeys(EVENTS, ("schedule_id",)),
    columns={
        "active": last(
            {
                ScheduleMade: lit(True),
                SchedulePaused: lit(False),
                ScheduleResumed: lit(True),
            }
        ),
        "told": last({ScheduleMade: "state", ScheduleChanged: "state"}, json=True),
        "counts_from": last({ScheduleMade: "made_at", ScheduleChanged: "counts_from"}),
        "after": _AFTER,
    },
    closes=(ScheduleRetired,),
)

#: What has been fired and is not asked for yet: a row goes when its task is there.
SCHEDULE_FIRED = Table(
    name="schedule_fired",
    key=dict.fromkeys((ScheduleFired, ScheduledRunFailed, TaskRequested), ("task_id",)),
    columns={"fired_position": first({ScheduleFired: "position"})},
    closes=(TaskRequested, ScheduledRunFailed),
)

SCHEDULE_RUNS = Table(
    name="schedule_runs",
    key=dict.fromkeys((ScheduleFired, ScheduledRunFailed), ("schedule_id", "task_id")),
    columns={
        "fired_position": first({ScheduleFired: "position"}),
        "due_at": first({ScheduleFired: "due_at"}),
        "fired_at": first({ScheduleFired: "fired_at"}),
        "runs_as": first({ScheduleFired: "runs_as"}),
        "code": first({ScheduledRunFailed: "code"}),
        "reason": first({ScheduledRunFailed: "reason"}),
    },
    indexes=(("schedule_id", "fired_position"),),
)

TABLES = (SCHEDULE_LIST, SCHEDULE_CLOCK, SCHEDULE_FIRED, SCHEDULE_RUNS)
