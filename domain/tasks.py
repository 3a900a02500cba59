"""Tasks: long work that is asked for, done by a worker, and told of as it goes on.

A task whose worker died is started again, a few times. Each start has a number, its attempt: who
lost the task without knowing it can say nothing more about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from domain.decider import Decider
from domain.decisions import Weights
from domain.errors import Refused
from domain.models import Hash
from domain.values import Command, Event, Id, Text, UtcTime, Value, Words

#: So often a task is started; if its worker died each time, it fails.
MOST_STARTS = 4
#: Files of one import.
MOST_FILES = 20
_WORDS: Mapping[str, int] = {"low": 1, "normal": 5, "urgent": 9}


class Kind(StrEnum):
    """What is to be done."""

    REPLAY = "replay"
    TRAINING = "training"
    IMPORT = "import"
    BACKTEST = "backtest"
    BUNDLE = "bundle"


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


def _number(priority: object) -> object:
    return _WORDS.get(priority, priority) if isinstance(priority, str) else priority


_Number = Annotated[int, Field(ge=0, le=9)]
#: 9 first; ``urgent`` is 9, ``normal`` 5, ``low`` 1.
Priority = Annotated[
    _Number,
    BeforeValidator(_number, json_schema_input_type=_Number | Literal["low", "normal", "urgent"]),
]
_Position = Annotated[int, Field(ge=0, lt=2**63)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]

# values and commands


class ImportFile(Value):
    """A file that was uploaded, under the name that the mapping has for it."""

    name: Id
    upload_id: Id


class RequestReplay(Command):
    """Decide again from the log, and compare byte for byte: some decisions, or all where
    ``decision_ids`` is left out."""

    task_id: Id
    decision_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1000)] | None = None
    priority: Priority = 5
    requested_at: UtcTime


class RequestTraining(Command):
    """Train a model of a kind of decision from the log and propose it; somebody else approves."""

    task_id: Id
    kind: Id
    priority: Priority = 5
    requested_at: UtcTime


class RequestImport(Command):
    """Bring uploaded files in by a mapping that the installation has."""

    task_id: Id
    mapping: Id
    files: Annotated[tuple[ImportFile, ...], Field(min_length=1, max_length=MOST_FILES)]
    priority: Priority = 5
    requested_at: UtcTime

    @model_validator(mode="after")
    def _files_are_named_once(self) -> Self:
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError(f"files: each name once, got {', '.join(names)}")
        return self


class RequestBacktest(Command):
    """Decide past requests between two log positions again, by another model, other weights or
    both; ``to_position``: the last one where it is left out."""

    task_id: Id
    kind: Id
    model_hash: Hash | None = None
    weights: Weights | None = None
    from_position: _Position = 0
    to_position: _Position | None = None
    priority: Priority = 5
    requested_at: UtcTime

    @model_validator(mode="after")
    def _something_is_otherwise(self) -> Self:
        if self.model_hash is None and self.weights is None:
            raise ValueError("model_hash, weights: one of them, or both")
        if self.to_position is not None and self.to_position < self.from_position:
            raise ValueError(f"to_position: {self.to_position} lies before {self.from_position}")
        return self


class RequestBundle(Command):
    """Put a decision's evidence into one archive; ``day``: prove too that its day had no other
    requests."""

    task_id: Id
    decision_id: Id
    day: bool = True
    priority: Priority = 5
    requested_at: UtcTime


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


class ReplayWork(Value):
    """Which decisions; None: all."""

    decision_ids: tuple[str, ...] | None


class TrainingWork(Value):
    """The kind of decision."""

    kind: str


class FileOfImport(Value):
    """An uploaded file and the mapping's name for it."""

    name: str
    upload_id: str


class ImportWork(Value):
    """The files and the mapping."""

    mapping: str
    files: tuple[FileOfImport, ...]


class BacktestWork(Value):
    """What is decided again, and how."""

    kind: str
    model_hash: str | None
    weights: Weights | None
    from_position: int
    to_position: int | None


class BundleWork(Value):
    """Whose evidence."""

    decision_id: str
    day: bool


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
    requested_by: str
    requested_at: datetime


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

    ``starts``: how often it was begun without being given back. ``asked``: what it is to do.
    """

    state: State = State.UNKNOWN
    asked: TaskRequested | None = None
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
            return replace(task, state=State.REQUESTED, asked=event)
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


def request(task: Task, command: Any, actor: str) -> Sequence[Event]:
    """Take a task in."""
    if task.state is not State.UNKNOWN:
        raise Refused("task.already_requested", task_id=command.task_id, state=task.state.value)
    told = command.model_dump(exclude={"task_id", "priority", "requested_at"})
    kind = _KINDS[type(command)]
    return [
        TaskRequested(
            task_id=command.task_id,
            kind=kind.value,
            priority=command.priority,
            **{"importing" if kind is Kind.IMPORT else kind.value: told},
            requested_by=actor,
            requested_at=command.requested_at,
        )
    ]


#: What each request is for.
_KINDS: Mapping[type[Command], Kind] = {
    RequestReplay: Kind.REPLAY,
    RequestTraining: Kind.TRAINING,
    RequestImport: Kind.IMPORT,
    RequestBacktest: Kind.BACKTEST,
    RequestBundle: Kind.BUNDLE,
}
REQUESTS = tuple(_KINDS)


def start(task: Task, command: StartTask) -> Sequence[Event]:
    """Begin, once more where the last worker died; where that was once too often, or the task was
    told to stop meanwhile, end it instead."""
    asked = _unfinished(task, command.task_id)
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


def cancel(task: Task, command: CancelTask | CancelOwnTask, actor: str) -> Sequence[Event]:
    """Stop it: at once where nobody has begun it, else as soon as its worker hears of it."""
    asked = _unfinished(task, command.task_id)
    if task.state is State.CANCELLING:
        raise Refused("task.cancelling", task_id=command.task_id)
    kind = TaskCancelled if task.state is State.REQUESTED else TaskCancelRequested
    return [
        kind(
            task_id=command.task_id,
            kind=asked.kind,
            reason=command.reason,
            cancelled_by=actor,
            cancelled_at=command.cancelled_at,
        )
    ]


def cancel_own(task: Task, command: CancelOwnTask, actor: str) -> Sequence[Event]:
    """The same, for who has asked for it."""
    if task.asked is not None and task.asked.requested_by != actor:
        raise Refused("task.of_somebody_else", task_id=command.task_id, actor=actor)
    return cancel(task, command, actor)


def _unfinished(task: Task, task_id: str) -> TaskRequested:
    if task.asked is None:
        raise Refused("task.unknown", task_id=task_id)
    if task.state in FINISHED:
        raise Refused("task.already_finished", task_id=task_id, state=task.state.value)
    return task.asked


def _mine(task: Task, task_id: str, attempt: int) -> TaskRequested:
    """What was asked for, if this attempt still runs."""
    asked = _unfinished(task, task_id)
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
