"""Schedules: long work that is asked for again and again, by a timetable.

A schedule is fired once for each time that it is due. What it asks for is done with the rights of
whoever set, changed or resumed it last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from domain.decider import Decider
from domain.errors import Refused
from domain.scheduled_work import ScheduledWork, WorkOfSchedule
from domain.timetable import TimesOfSchedule, Timetable, latest
from domain.values import Command, Event, Id, Text, UtcTime
from domain.work import Priority

#: A time that is later told of than this was missed.
MISSED = timedelta(minutes=5)
#: What is missed is done once, afterwards; or not at all.
CatchUp = Literal["latest", "skip"]


class State(StrEnum):
    """Where a schedule stands."""

    UNKNOWN = "unknown"
    ACTIVE = "active"
    PAUSED = "paused"
    RETIRED = "retired"


# commands


class MakeSchedule(Command):
    """Have a task asked for again and again. ``catch_up``: times that were missed, the server being
    down, are made up for by one task (`latest`) or not at all (`skip`)."""

    schedule_id: Id
    name: Text
    when: Timetable
    work: ScheduledWork
    priority: Priority = 5
    catch_up: CatchUp = "latest"
    made_at: UtcTime


class ChangeSchedule(Command):
    """Change what is given; the rest stays as it is."""

    schedule_id: Id
    name: Text | None = None
    when: Timetable | None = None
    work: ScheduledWork | None = None
    priority: Priority | None = None
    catch_up: CatchUp | None = None
    changed_at: UtcTime


class PauseSchedule(Command):
    """Let nothing become due for now. What would have been due meanwhile is not made up for."""

    schedule_id: Id
    reason: Text | None = None
    paused_at: UtcTime


class ResumeSchedule(Command):
    """Let a paused schedule go on."""

    schedule_id: Id
    resumed_at: UtcTime


class RetireSchedule(Command):
    """End a schedule for good."""

    schedule_id: Id
    reason: Text | None = None
    retired_at: UtcTime


class RunSchedule(Command):
    """Ask for a schedule's task now, whatever its timetable says."""

    schedule_id: Id
    task_id: Id
    ran_at: UtcTime


class FireSchedule(Command):
    """Say that a schedule is due, and under which id its task is asked for."""

    schedule_id: Id
    task_id: Id
    due_at: UtcTime
    fired_at: UtcTime


class FailScheduledRun(Command):
    """Say why a schedule's task could not be asked for; ``pause``: nor will the next one."""

    schedule_id: Id
    task_id: Id
    code: Id
    reason: Text
    pause: bool = False
    failed_at: UtcTime


# events


class ScheduleMade(Event):
    """A task is asked for again and again from now on."""

    schedule_id: str
    name: str
    when: TimesOfSchedule
    work: WorkOfSchedule
    priority: int
    catch_up: str
    made_by: str
    made_at: datetime


class ScheduleChanged(Event):
    """A schedule as it is from now on. ``counts_from``: since when its timetable holds."""

    schedule_id: str
    name: str
    when: TimesOfSchedule
    work: WorkOfSchedule
    priority: int
    catch_up: str
    counts_from: datetime
    changed_by: str
    changed_at: datetime


class SchedulePaused(Event):
    """Nothing becomes due for now."""

    schedule_id: str
    reason: str | None
    paused_by: str
    paused_at: datetime


class ScheduleResumed(Event):
    """A schedule goes on."""

    schedule_id: str
    resumed_by: str
    resumed_at: datetime


class ScheduleRetired(Event):
    """A schedule has ended for good."""

    schedule_id: str
    reason: str | None
    retired_by: str
    retired_at: datetime


class ScheduleFired(Event):
    """A schedule was due, or somebody did not want to wait for that (``due_at`` null): the task is
    asked for in the name of ``runs_as``."""

    schedule_id: str
    task_id: str
    due_at: datetime | None
    work: WorkOfSchedule
    zone: str
    priority: int
    runs_as: str
    fired_at: datetime


class ScheduledRunFailed(Event):
    """A schedule's task could not be asked for."""

    schedule_id: str
    task_id: str
    code: str
    reason: str
    failed_at: datetime


EVENTS: tuple[type[Event], ...] = (
    ScheduleMade,
    ScheduleChanged,
    SchedulePaused,
    ScheduleResumed,
    ScheduleRetired,
    ScheduleFired,
    ScheduledRunFailed,
)

#: The stream that an event belongs to, by its fields.
STREAM = "schedules/{schedule_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ScheduleMade: "{made_by} made the schedule {name}",
    ScheduleChanged: "{changed_by} changed the schedule {name}",
    SchedulePaused: "{paused_by} paused the schedule {schedule_id}: {reason}",
    ScheduleResumed: "{resumed_by} let the schedule {schedule_id} go on",
    ScheduleRetired: "{retired_by} ended the schedule {schedule_id}: {reason}",
    ScheduleFired: "The schedule {schedule_id} asks for task {task_id}, in the name of {runs_as}",
    ScheduledRunFailed: "Task {task_id} of schedule {schedule_id} could not be asked for: {reason} "
    "[{code}]",
}


# state


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as its events tell it.

    ``counts_from``: since when its timetable holds. ``after``: only what is later can be due.
    ``runs_as``: in whose name.
    """

    state: State = State.UNKNOWN
    name: str = ""
    when: TimesOfSchedule | None = None
    work: WorkOfSchedule | None = None
    priority: int = 5
    catch_up: str = "latest"
    counts_from: datetime | None = None
    after: datetime | None = None
    runs_as: str = ""


def evolve(schedule: Schedule, event: Event) -> Schedule:
    """The schedule after one more of its events."""
    match event:
        case ScheduleMade():
            return Schedule(
                state=State.ACTIVE,
                **_told(event),
                counts_from=event.made_at,
                after=event.made_at,
                runs_as=event.made_by,
            )
        case ScheduleChanged():
            return replace(
                schedule,
                **_told(event),
                counts_from=event.counts_from,
                after=_later(schedule.after, event.counts_from),
                runs_as=event.changed_by,
            )
        case SchedulePaused():
            return replace(schedule, state=State.PAUSED)
        case ScheduleResumed():
            return replace(
                schedule,
                state=State.ACTIVE,
                after=_later(schedule.after, event.resumed_at),
                runs_as=event.resumed_by,
            )
        case ScheduleRetired():
            return replace(schedule, state=State.RETIRED)
        case ScheduleFired():
            return replace(schedule, after=_later(schedule.after, event.due_at))
    return schedule


SCHEDULES = Decider(initial=Schedule(), evolve=evolve)


def _told(event: ScheduleMade | ScheduleChanged) -> dict[str, Any]:
    names = ("name", "when", "work", "priority", "catch_up")
    return {name: getattr(event, name) for name in names}


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


# decisions


def make(schedule: Schedule, command: MakeSchedule, actor: str) -> Sequence[Event]:
    """Begin a schedule."""
    if schedule.state is not State.UNKNOWN:
        raise Refused("schedule.already_made", schedule_id=command.schedule_id)
    return [ScheduleMade(**command.model_dump(), made_by=actor)]


def change(schedule: Schedule, command: ChangeSchedule, actor: str) -> Sequence[Event]:
    """Change what is given."""
    _known(schedule, command.schedule_id)
    given = command.model_dump(exclude={"schedule_id", "changed_at"})
    given = {name: value for name, value in given.items() if value is not None}
    assert schedule.when is not None
    assert schedule.work is not None
    assert schedule.counts_from is not None
    before: dict[str, Any] = {
        "name": schedule.name,
        "when": schedule.when.model_dump(),
        "work": schedule.work.model_dump(),
        "priority": schedule.priority,
        "catch_up": schedule.catch_up,
    }
    after = before | given
    if after == before:
        raise Refused("schedule.nothing_changed", schedule_id=command.schedule_id)
    moved = after["when"] != before["when"]
    return [
        ScheduleChanged(
            schedule_id=command.schedule_id,
            **after,
            counts_from=command.changed_at if moved else schedule.counts_from,
            changed_by=actor,
            changed_at=command.changed_at,
        )
    ]


def pause(schedule: Schedule, command: PauseSchedule, actor: str) -> Sequence[Event]:
    """Let nothing become due."""
    _known(schedule, command.schedule_id)
    if schedule.state is State.PAUSED:
        raise Refused("schedule.already_paused", schedule_id=command.schedule_id)
    return [SchedulePaused(**command.model_dump(), paused_by=actor)]


def resume(schedule: Schedule, command: ResumeSchedule, actor: str) -> Sequence[Event]:
    """Let it go on."""
    _known(schedule, command.schedule_id)
    if schedule.state is not State.PAUSED:
        raise Refused("schedule.not_paused", schedule_id=command.schedule_id)
    return [ScheduleResumed(**command.model_dump(), resumed_by=actor)]


def retire(schedule: Schedule, command: RetireSchedule, actor: str) -> Sequence[Event]:
    """End it."""
    _known(schedule, command.schedule_id)
    return [ScheduleRetired(**command.model_dump(), retired_by=actor)]


def run(schedule: Schedule, command: RunSchedule, actor: str) -> Sequence[Event]:
    """Ask for its task now, paused or not."""
    _known(schedule, command.schedule_id)
    return [_fired(schedule, command.schedule_id, command.task_id, None, actor, command.ran_at)]


def fire(schedule: Schedule, command: FireSchedule) -> Sequence[Event]:
    """Ask for its task because it is due: once for each time, and never for an earlier one."""
    _known(schedule, command.schedule_id)
    if schedule.state is State.PAUSED:
        raise Refused("schedule.paused", schedule_id=command.schedule_id)
    due = command.due_at
    assert schedule.when is not None
    assert schedule.counts_from is not None
    assert schedule.after is not None
    if due <= schedule.after:
        raise Refused("schedule.already_fired", schedule_id=command.schedule_id, due_at=str(due))
    just_before = due - timedelta(microseconds=1)
    table = Timetable(**schedule.when.model_dump())
    if due > command.fired_at or latest(table, schedule.counts_from, just_before, due) != due:
        raise Refused("schedule.not_due", schedule_id=command.schedule_id, due_at=str(due))
    runs_as = schedule.runs_as
    return [_fired(schedule, command.schedule_id, command.task_id, due, runs_as, command.fired_at)]


def fail(schedule: Schedule, command: FailScheduledRun, actor: str) -> Sequence[Event]:
    """Note that a task could not be asked for; and pause, where the next one cannot either."""
    if schedule.state is State.UNKNOWN:
        raise Refused("schedule.unknown", schedule_id=command.schedule_id)
    told = command.model_dump(exclude={"pause"})
    found: list[Event] = [ScheduledRunFailed(**told)]
    if command.pause and schedule.state is State.ACTIVE:
        found.append(
            SchedulePaused(
                schedule_id=command.schedule_id,
                reason=command.reason,
                paused_by=actor,
                paused_at=command.failed_at,
            )
        )
    return found


def _known(schedule: Schedule, schedule_id: str) -> None:
    if schedule.state is State.UNKNOWN:
        raise Refused("schedule.unknown", schedule_id=schedule_id)
    if schedule.state is State.RETIRED:
        raise Refused("schedule.retired", schedule_id=schedule_id)


def _fired(
    schedule: Schedule,
    schedule_id: str,
    task_id: str,
    due_at: datetime | None,
    runs_as: str,
    fired_at: datetime,
) -> ScheduleFired:
    assert schedule.when is not None
    assert schedule.work is not None
    return ScheduleFired(
        schedule_id=schedule_id,
        task_id=task_id,
        due_at=due_at,
        work=schedule.work,
        zone=schedule.when.zone,
        priority=schedule.priority,
        runs_as=runs_as,
        fired_at=fired_at,
    )
