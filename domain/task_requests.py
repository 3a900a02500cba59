"""What people do with tasks: they ask for them, put them forward, stop them, ask once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.errors import Refused
from domain.tasks import (
    CancelOwnTask,
    CancelTask,
    PrioritiseTask,
    RetryTask,
    State,
    Task,
    TaskCancelled,
    TaskCancelRequested,
    TaskPrioritised,
    TaskRequested,
    unfinished,
)
from domain.values import Event
from domain.work import KINDS, Kind


def request(task: Task, command: Any, actor: str) -> Sequence[Event]:
    """Take a task in."""
    if task.state is not State.UNKNOWN:
        raise Refused("task.already_requested", task_id=command.task_id, state=task.state.value)
    told = command.model_dump(exclude={"task_id", "priority", "requested_at"})
    kind = KINDS[type(command)]
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


def retry(task: Task, command: RetryTask, actor: str, before: Task) -> Sequence[Event]:
    """Ask once more for what another task was to do, as urgently as that."""
    if before.asked is None:
        raise Refused("task.unknown", task_id=command.retry_of)
    if before.state not in (State.FAILED, State.CANCELLED):
        raise Refused("task.not_failed", task_id=command.retry_of, state=before.state.value)
    if task.state is not State.UNKNOWN:
        raise Refused("task.already_requested", task_id=command.task_id, state=task.state.value)
    same = before.asked.model_dump(
        exclude={"task_id", "priority", "requested_by", "requested_at", "retry_of"}
    )
    return [
        TaskRequested(
            **same,
            task_id=command.task_id,
            priority=before.priority,
            requested_by=actor,
            requested_at=command.requested_at,
            retry_of=command.retry_of,
        )
    ]


def prioritise(task: Task, command: PrioritiseTask, actor: str) -> Sequence[Event]:
    """Give a task that waits another priority."""
    asked = unfinished(task, command.task_id)
    if task.state is not State.REQUESTED:
        raise Refused("task.not_waiting", task_id=command.task_id, state=task.state.value)
    if task.priority == command.priority:
        raise Refused("task.same_priority", task_id=command.task_id, priority=task.priority)
    return [
        TaskPrioritised(
            task_id=command.task_id,
            kind=asked.kind,
            priority=command.priority,
            prioritised_by=actor,
            prioritised_at=command.prioritised_at,
        )
    ]


def cancel(task: Task, command: CancelTask | CancelOwnTask, actor: str) -> Sequence[Event]:
    """Stop it: at once where nobody has begun it, else as soon as its worker hears of it."""
    asked = unfinished(task, command.task_id)
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
