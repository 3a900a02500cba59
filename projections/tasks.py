"""Tasks: what was asked for and how far it is; those that are open, for the workers."""

from __future__ import annotations

from polars import lit

from domain.tasks import (
    TaskCancelled,
    TaskCancelRequested,
    TaskCompleted,
    TaskFailed,
    TaskPrioritised,
    TaskProgressed,
    TaskReleased,
    TaskRequested,
    TaskStarted,
)
from domain.values import Event
from projections.fold import first, last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (
    TaskRequested,
    TaskPrioritised,
    TaskStarted,
    TaskProgressed,
    TaskReleased,
    TaskCompleted,
    TaskFailed,
    TaskCancelRequested,
    TaskCancelled,
)
_KEY = dict.fromkeys(_EVENTS, ("task_id",))

TASK_LIST = Table(
    name="task_list",
    key=_KEY,
    columns={
        "kind": first({TaskRequested: "kind"}),
        "priority": last({TaskRequested: "priority", TaskPrioritised: "priority"}),
        "retry_of": first({TaskRequested: "retry_of"}),
        "state": last(
            {
                TaskRequested: lit("requested"),
                TaskStarted: lit("running"),
                TaskReleased: lit("requested"),
                TaskCompleted: lit("completed"),
                TaskFailed: lit("failed"),
                TaskCancelRequested: lit("cancelling"),
                TaskCancelled: lit("cancelled"),
            }
        ),
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "requested": first({TaskRequested: "state"}, json=True),
        "requested_by": first({TaskRequested: "requested_by"}),
        "requested_at": first({TaskRequested: "requested_at"}),
        "requested_position": first({TaskRequested: "position"}),
        "attempt": last({TaskRequested: lit(0), TaskStarted: "attempt"}),
        "worker": last({TaskStarted: "worker"}),
        "started_at": last({TaskStarted: "started_at"}),
        "started_position": last({TaskStarted: "position"}),
        # A new attempt begins from the start.
        "done": last({TaskStarted: lit(0), TaskProgressed: "done"}),
        "total": last({TaskStarted: lit(0), TaskProgressed: "total"}),
        "step": last({TaskStarted: lit("starting"), TaskProgressed: "step"}),
        "ended": last(
            {
                TaskCompleted: "state",
                TaskFailed: "state",
                TaskCancelRequested: "state",
                TaskCancelled: "state",
            },
            json=True,
        ),
        "finished_at": last(
            {
                TaskCompleted: "completed_at",
                TaskFailed: "failed_at",
                TaskCancelled: "cancelled_at",
            }
        ),
    },
    indexes=(("requested_position",), ("started_position",), ("finished_at",)),
)

#: Those that are not finished: what workers look at.
TASK_QUEUE = Table(
    name="task_queue",
    key={event: ("task_id",) for event in _EVENTS if event is not TaskProgressed},
    columns={
        "kind": first({TaskRequested: "kind"}),
        "priority": last({TaskRequested: "priority", TaskPrioritised: "priority"}),
        "requested_position": first({TaskRequested: "position"}),
        "requested_at": first({TaskRequested: "requested_at"}),
        "running": last(
            {TaskRequested: lit(False), TaskStarted: lit(True), TaskReleased: lit(False)}
        ),
    },
    closes=(TaskCompleted, TaskFailed, TaskCancelled),
)

TABLES = (TASK_LIST, TASK_QUEUE)
