"""Tasks: long work that is asked for, done by a worker, and told of as it goes on.

A task whose worker died is started again, a few times. Each start has a number, its attempt: who
lost the task without knowing it can say nothing more about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from domain.decider import Decider
from domain.errors import Refused
from domain.models import Hash
from domain.values import Command, Event, Id, Text, UtcTime, Words
from domain.work import (
    ArchivingWork,
    BacktestWork,
    BundleWork,
    ImportWork,
    InferenceWork,
    Priority,
    ReplayWork,
    SealingWork,
    SimulationWork,
    ToursWork,
    TrainingWork,
)

#: So often a task is started; if its worker died each time, it fails.
MOST_STARTS = 4


class State(StrEnum):
    """Where a task stands. ``cancelling``: told to stop; its worker has yet to say that it has."""

    UNKNOWN = "unknown"
    REQUESTED = "requested"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: States that nothing follows.
FINISHED = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


def _is_none(value: object) -> bool:
    return value is None


_Count = Annotated[int, Field(ge=0, lt=2**63)]

# values and commands


class CancelTask(Command):
    """Stop a task, whoever asked for it. What it has stored stays."""

    task_id: Id
    reason: Text | None = None
    cancelled_at: UtcTime


class CancelOwnTask(Command):
    """Stop a task that one has asked for oneself. What it has stored stays."""

    task_id: Id
    reason: Text | None = None
    cancelled_at: UtcTime


class PrioritiseTask(Command):
    """Have a task that waits begun sooner, or later, than it was asked for."""

    task_id: Id
    priority: Priority
    prioritised_at: UtcTime


class RetryTask(Command):
    """Ask once more for what a task was to do that failed or was stopped: as a task of its own, in
    one's own name."""

    task_id: Id
    retry_of: Id
    requested_at: UtcTime


class StartTask(Command):
    """Take a task on, or end one that is not to be begun again."""

    task_id: Id
    worker: Text
    started_at: UtcTime


class ReportTask(Command):
    """Say how far a task is: ``done`` of ``total`` (0: not known), doing what."""

    task_id: Id
    attempt: int
    done: _Count
    total: _Count
    step: Text
    reported_at: UtcTime


class CompleteTask(Command):
    """Say what came of a task: a few figures, and perhaps the hash of an artifact."""

    task_id: Id
    attempt: int
    result: Annotated[dict[Id, int | float | Words], Field(max_length=30)]
    artifact: Hash | None = None
    media_type: Text | None = None
    file_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    completed_at: UtcTime


class FailTask(Command):
    """Say why a task cannot be done."""

    task_id: Id
    attempt: int
    code: Id
    reason: Text
    failed_at: UtcTime


class ReleaseTask(Command):
    """Give a task back: its worker was told to end, or the task to stop."""

    task_id: Id
    attempt: int
    released_at: UtcTime


# events


class TaskRequested(Event):
    """Long work was asked for; the field of its kind says what exactly, the others are null."""

    task_id: str
    kind: str
    priority: int
    replay: ReplayWork | None = None
    training: TrainingWork | None = None
    importing: ImportWork | None = None
    backtest: BacktestWork | None = None
    bundle: BundleWork | None = None
    simulation: SimulationWork | None = None
    inference: InferenceWork | None = None
    tours: ToursWork | None = None
    sealing: SealingWork | None = None
    archiving: ArchivingWork | None = None
    requested_by: str
    requested_at: datetime
    #: The task whose work is asked for once more.
    retry_of: Annotated[str | None, Field(exclude_if=_is_none)] = None


class TaskPrioritised(Event):
    """A task that waits has another priority."""

    task_id: str
    kind: str
    priority: int
    prioritised_by: str
    prioritised_at: datetime


class TaskStarted(Event):
    """A worker has begun; ``attempt``: for the how many-th time."""

    task_id: str
    attempt: int
    worker: str
    started_at: datetime


class TaskProgressed(Event):
    """A task has come so far; ``total`` 0: nobody knows how far it is."""

    task_id: str
    attempt: int
    done: int
    total: int
    step: str
    progressed_at: datetime


class TaskReleased(Event):
    """A worker has given a task back, which waits for the next one."""

    task_id: str
    attempt: int
    released_at: datetime


class TaskCompleted(Event):
    """A task is done. ``artifact``: the hash of what is too large for the log."""

    task_id: str
    kind: str
    attempt: int
    result: dict[str, int | float | str]
    artifact: str | None
    media_type: str | None
    file_name: str | None
    completed_at: datetime


class TaskFailed(Event):
    """A task cannot be done."""

    task_id: str
    kind: str
    attempt: int
    code: str
    reason: str
    failed_at: datetime


class TaskCancelRequested(Event):
    """A task that runs is to stop."""

    task_id: str
    kind: str
    reason: str | None
    cancelled_by: str
    cancelled_at: datetime


class TaskCancelled(Event):
    """A task was stopped, or never begun; what it had stored stays."""

    task_id: str
    kind: str
    reason: str | None
    cancelled_by: str
    cancelled_at: datetime


EVENTS = (
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

#: The stream that an event belongs to, by its fields.
STREAM = "tasks/{task_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    TaskRequested: "{requested_by} asked for the {kind} {task_id}, priority {priority}",
    TaskPrioritised: "{prioritised_by} gave the {kind} {task_id} the priority {priority}",
    TaskStarted: "{worker} has begun task {task_id}, attempt {attempt}",
    TaskProgressed: "Task {task_id}: {step}, {done} of {total}",
    TaskReleased: "Task {task_id} was given back in attempt {attempt}",
    TaskCompleted: "The {kind} {task_id} is done",
    TaskFailed: "The {kind} {task_id} failed: {reason} [{code}]",
    TaskCancelRequested: "{cancelled_by} told the {kind} {task_id} to stop",
    TaskCancelled: "The {kind} {task_id} was stopped, told to by {cancelled_by}",
}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its events tell it.

    ``priority``: as it is by now. ``starts``: how often it was begun without being given back.
    ``asked``: what it is to do.
    """

    state: State = State.UNKNOWN
    asked: TaskRequested | None = None
    priority: int = 5
    attempt: int = 0
    starts: int = 0
    started: TaskStarted | None = None
    progress: TaskProgressed | None = None
    stop: TaskCancelRequested | TaskCancelled | None = None
    end: TaskCompleted | TaskFailed | TaskCancelled | None = None


def evolve(task: Task, event: Event) -> Task:
    """The task after one more of its events."""
    match event:
        case TaskRequested():
            return replace(task, state=State.REQUESTED, asked=event, priority=event.priority)
        case TaskPrioritised():
            return replace(task, priority=event.priority)
        case TaskStarted():
            return replace(
                task,
                state=State.RUNNING,
                attempt=event.attempt,
                starts=task.starts + 1,
                started=event,
                progress=None,
            )
        case TaskProgressed():
            return replace(task, progress=event)
        case TaskReleased():
            return replace(task, state=State.REQUESTED, starts=task.starts - 1)
        case TaskCancelRequested():
            return replace(task, state=State.CANCELLING, stop=event)
        case TaskCancelled():
            return replace(task, state=State.CANCELLED, stop=event, end=event)
        case TaskCompleted():
            return replace(task, state=State.COMPLETED, end=event)
        case TaskFailed():
            return replace(task, state=State.FAILED, end=event)
    return task


TASKS = Decider(initial=Task(), evolve=evolve)


def start(task: Task, command: StartTask) -> Sequence[Event]:
    """Begin, once more where the last worker died; where that was once too often, or the task was
    told to stop meanwhile, end it instead."""
    asked = unfinished(task, command.task_id)
    if task.state is State.CANCELLING:
        return [_stopped(task, command.started_at)]
    if task.starts >= MOST_STARTS:
        return [
            TaskFailed(
                task_id=command.task_id,
                kind=asked.kind,
                attempt=task.attempt,
                code="task.worker_lost",
                reason=f"its worker ended unexpectedly {task.starts} times",
                failed_at=command.started_at,
            )
        ]
    return [
        TaskStarted(
            task_id=command.task_id,
            attempt=task.attempt + 1,
            worker=command.worker,
            started_at=command.started_at,
        )
    ]


def report(task: Task, command: ReportTask) -> Sequence[Event]:
    """Note how far it is; of a task that is to stop, no more."""
    _mine(task, command.task_id, command.attempt)
    if task.state is State.CANCELLING:
        raise Refused("task.cancelling", task_id=command.task_id)
    return [
        TaskProgressed(
            task_id=command.task_id,
            attempt=command.attempt,
            done=command.done,
            total=command.total,
            step=command.step,
            progressed_at=command.reported_at,
        )
    ]


def complete(task: Task, command: CompleteTask) -> Sequence[Event]:
    """Note the result. One that was told to stop and was quicker is done all the same."""
    asked = _mine(task, command.task_id, command.attempt)
    return [TaskCompleted(**command.model_dump(), kind=asked.kind)]


def fail(task: Task, command: FailTask) -> Sequence[Event]:
    """Note why it cannot be done."""
    asked = _mine(task, command.task_id, command.attempt)
    return [TaskFailed(**command.model_dump(), kind=asked.kind)]


def release(task: Task, command: ReleaseTask) -> Sequence[Event]:
    """Let somebody else have it, or nobody where it was told to stop."""
    _mine(task, command.task_id, command.attempt)
    if task.state is State.CANCELLING:
        return [_stopped(task, command.released_at)]
    return [TaskReleased(**command.model_dump())]


def unfinished(task: Task, task_id: str) -> TaskRequested:
    """What a task asks for that has not ended.

    Raises:
        Refused: there is none, or it has.
    """
    if task.asked is None:
        raise Refused("task.unknown", task_id=task_id)
    if task.state in FINISHED:
        raise Refused("task.already_finished", task_id=task_id, state=task.state.value)
    return task.asked


def _mine(task: Task, task_id: str, attempt: int) -> TaskRequested:
    """What was asked for, if this attempt still runs."""
    asked = unfinished(task, task_id)
    if task.state is State.REQUESTED or task.attempt != attempt:
        raise Refused(
            "task.not_yours",
            task_id=task_id,
            state=task.state.value,
            attempt=task.attempt,
            yours=attempt,
        )
    return asked


def _stopped(task: Task, at: datetime) -> TaskCancelled:
    assert task.stop is not None
    return TaskCancelled(**task.stop.model_dump(exclude={"cancelled_at"}), cancelled_at=at)
