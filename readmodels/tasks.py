"""Tasks: one, many, and which of the open ones is next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field

from domain.catalogue import decode, type_of
from domain.tasks import (
    FINISHED,
    STREAM,
    TASKS,
    State,
    Task,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
)
from eventstore import StoredEvent
from eventstore.log import Connection
from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.sorting import Column, Sorting

_COLUMNS = """task_id, kind, priority, retry_of, state, version, requested, requested_by,
    requested_at, requested_position, attempt, worker, started_at, done, total, step, ended,
    finished_at, last_position"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.task_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)"""

#: By ``requested_position`` an index serves; by others the organisation's tasks are sorted.
SORTING = Sorting(
    {
        "requested_position": Column(int),
        "requested_at": Column(datetime),
        "priority": Column(int),
        "state": Column(str),
        "kind": Column(str),
        "task_id": Column(str),
        "finished_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="-requested_position",
    key=("requested_position",),
)

# Of all organisations: for workers, which ask the log before they begin.
_OPEN = """SELECT q.organisation_id, q.task_id, q.priority, q.requested_position,
        coalesce((SELECT max(t.started_position) FROM read_models.task_list t
        WHERE t.organisation_id = q.organisation_id), 0), q.kind
    FROM read_models.task_queue q WHERE q.requested_position IS NOT NULL"""

#: What every request has beside what its kind is asked.
_COMMON = frozenset({"task_id", "kind", "priority", "requested_by", "requested_at", "retry_of"})


#: What the last word about a task may hold.
_SAID = ("result", "code", "reason", "cancelled_by", "artifact", "media_type", "file_name")


class TaskSummary(Row):
    """A task as it stands.

    ``arguments``: what was asked of its kind. ``done`` of ``total`` (0: not known) is the progress
    of this attempt, ``step`` says of what; of a completed one, what was counted, and null where
    nothing was. ``result``: figures, when it is completed;
    ``has_file``: there is a file beside, at ``/result``. ``code`` and ``reason``: why it failed or
    was stopped. ``retry_of``: the task whose work is asked for once more.
    """

    task_id: str = Field(examples=["T-1"])
    kind: str = Field(examples=["replay"])
    priority: int
    retry_of: str | None = None
    state: str = Field(examples=["running"])
    arguments: dict[str, Any]
    requested_by: str
    requested_at: datetime
    attempt: int
    worker: str | None = None
    started_at: datetime | None
    done: int | None
    total: int | None
    step: str | None = Field(examples=["deciding again, by log positions"])
    result: dict[str, Any] | None = None
    has_file: bool = False
    code: str | None = None
    reason: str | None = None
    cancelled_by: str | None = None
    finished_at: datetime | None = None
    version: int
    last_position: int

    @property
    def finished(self) -> bool:
        """Whether nothing more comes."""
        return State(self.state) in FINISHED


class TaskDetail(TaskSummary):
    """A task, and where its file is."""

    artifact: str | None = None
    media_type: str | None = None
    file_name: str | None = None


class _Stored(Row):
    task_id: str
    kind: str
    priority: int
    retry_of: str | None
    state: str
    version: int
    requested: dict[str, Any]
    requested_by: str
    requested_at: datetime
    requested_position: int
    attempt: int
    worker: str | None
    started_at: datetime | None
    done: int | None
    total: int | None
    step: str | None
    ended: dict[str, Any] | None
    finished_at: datetime | None
    last_position: int


class OpenTask(NamedTuple):
    """A task that is not finished, as far as the read models know. ``served``: the position at
    which one of its organisation was last begun."""

    organisation_id: UUID
    task_id: str
    priority: int
    position: int
    served: int
    kind: str = ""


def summary(task: TaskDetail) -> TaskSummary:
    """What is shown of a task."""
    return TaskSummary(**task.model_dump(include=set(TaskSummary.model_fields)))


async def get_task(read: ReadModels, task_id: str) -> TaskDetail | None:
    """One task as the log has it, or None: how far it is, is told whatever else the read models
    have to fold."""
    return told_of(await read.stream(STREAM.format(task_id=task_id)))


async def list_tasks(
    read: ReadModels,
    *,
    state: str | None = None,
    kind: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[TaskSummary]:
    """Tasks, the latest requested first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        _Stored, _LIST + by.sql, state=state, kind=kind, limit=limit + 1, **by.parameters
    )
    found = by.page(rows, limit)
    summaries = tuple(summary(_told(row)) for row in found.items)
    return Page[TaskSummary](items=summaries, next_cursor=found.next_cursor)


async def open_tasks(connection: Connection) -> list[OpenTask]:
    """The open tasks of all organisations."""
    return [OpenTask(*row) for row in await (await connection.execute(_OPEN)).fetchall()]


def in_turn(tasks: Sequence[OpenTask], served: Mapping[UUID, int]) -> list[OpenTask]:
    """Tasks in the order in which they are to be begun: by priority; within one, organisations take
    turns (the one whose last turn is longest ago first), and each one's go by age.

    ``served``: what the caller knows of turns beyond the read models.
    """
    queues: dict[tuple[int, UUID], list[OpenTask]] = {}
    for one in sorted(tasks, key=lambda one: one.position):
        queues.setdefault((-one.priority, one.organisation_id), []).append(one)
    last = {
        one.organisation_id: max(one.served, served.get(one.organisation_id, 0)) for one in tasks
    }
    turns = [
        (priority, turn, last[organisation], one)
        for (priority, organisation), mine in queues.items()
        for turn, one in enumerate(mine)
    ]
    turns.sort(key=lambda one: (*one[:3], one[3].position))
    return [one for *_, one in turns]


def task_of(events: Sequence[StoredEvent]) -> Task:
    """A task from its stream, as the rules see it."""
    return TASKS.fold(decode(one.topic, one.state) for one in events if type_of(one.topic))


def told_of(events: Sequence[StoredEvent]) -> TaskDetail | None:
    """A task from its stream, as the read model will tell it; None: there is none."""
    task = task_of(events)
    if task.asked is None:
        return None
    begun, progress, end = task.started, task.progress, task.end
    finished_at = None
    match end:
        case TaskCompleted():
            finished_at = end.completed_at
        case TaskFailed():
            finished_at = end.failed_at
        case TaskCancelled():
            finished_at = end.cancelled_at
    said = end or task.stop
    return _told(
        _Stored(
            task_id=task.asked.task_id,
            kind=task.asked.kind,
            priority=task.priority,
            retry_of=task.asked.retry_of,
            state=task.state.value,
            version=events[-1].version,
            requested=task.asked.model_dump(mode="json"),
            requested_by=task.asked.requested_by,
            requested_at=task.asked.requested_at,
            requested_position=events[0].position,
            attempt=task.attempt,
            worker=None if begun is None else begun.worker,
            started_at=None if begun is None else begun.started_at,
            done=None if begun is None else 0 if progress is None else progress.done,
            total=None if begun is None else 0 if progress is None else progress.total,
            step=None if begun is None else "starting" if progress is None else progress.step,
            ended=None if said is None else said.model_dump(mode="json"),
            finished_at=finished_at,
            last_position=events[-1].position,
        )
    )


def _told(stored: _Stored) -> TaskDetail:
    asked = [
        part for name, part in stored.requested.items() if name not in _COMMON and part is not None
    ]
    ended = stored.ended or {}
    plain = stored.model_dump(exclude={"requested", "requested_position", "ended"})
    if stored.state == State.COMPLETED:
        # The last word on it came before its end; some kinds of work count nothing.
        counted = max(stored.done or 0, stored.total or 0) or None
        plain |= {"done": counted, "total": counted, "step": None}
    said: dict[str, Any] = {name: ended[name] for name in _SAID if name in ended}
    return TaskDetail(
        **plain,
        **said,
        arguments=asked[0] if asked else {},
        has_file=said.get("artifact") is not None,
    )
