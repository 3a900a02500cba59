"""Schedules: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from commands.handler import Handler, Read
from commands.simulations import scenario_stream
from commands.sites import site_stream
from domain import schedules
from domain.access import PLAN, SERVE, Role
from domain.errors import Refused
from domain.simulations import SCENARIOS
from domain.simulations import must_be_in_use as scenario_must_be_in_use
from domain.sites import SITES
from domain.sites import must_be_known as site_must_be_known
from domain.values import Event


def schedule_stream(schedule_id: str) -> str:
    """The stream of a schedule."""
    return schedules.STREAM.format(schedule_id=schedule_id)


def _by_actor(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, actor, schedule: rule(schedule, command, actor)


#: Who may ask for a task may have it asked for again and again: the ports ask for that right too.
_RULES: tuple[tuple[Any, frozenset[Role], Callable[..., Any]], ...] = (
    (schedules.PauseSchedule, PLAN, _by_actor(schedules.pause)),
    (schedules.ResumeSchedule, PLAN, _by_actor(schedules.resume)),
    (schedules.RetireSchedule, PLAN, _by_actor(schedules.retire)),
    (schedules.RunSchedule, PLAN, _by_actor(schedules.run)),
    (schedules.FireSchedule, SERVE, lambda command, _, state: schedules.fire(state, command)),
    (schedules.FailScheduledRun, SERVE, _by_actor(schedules.fail)),
)


def _names(command: Any) -> Sequence[Read]:
    """What the work of a schedule is about: a site, a scenario, or neither."""
    work = command.work
    if work is None:
        return ()
    if work.site_id is not None:
        return (Read(site_stream(work.site_id), SITES),)
    if work.scenario_id is not None:
        return (Read(scenario_stream(work.scenario_id), SCENARIOS),)
    return ()


def _checked(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that takes only work whose site or scenario there is."""

    def decide(command: Any, actor: str, schedule: Any, *read: Any) -> Sequence[Event]:
        events: Sequence[Event] = rule(schedule, command, actor)
        for state in read:
            if command.work.site_id is not None:
                site_must_be_known(state, command.work.site_id)
            else:
                scenario_must_be_in_use(state, command.work.scenario_id)
        return events

    return decide


def handlers(trained: Collection[str], inferred: Collection[str]) -> tuple[Handler, ...]:
    """The handlers that say what a schedule asks for, for the kinds that models are trained of, and
    those that inference is done of."""

    def stream(command: Any) -> str:
        work = command.work
        if work is not None and work.kind is not None:
            known = trained if work.task == "training" else inferred
            if work.kind not in known:
                raise Refused(
                    "decision.unknown_kind", kind=work.kind, known=", ".join(sorted(known))
                )
        return schedule_stream(command.schedule_id)

    rules: tuple[tuple[Any, Callable[..., Any]], ...] = (
        (schedules.MakeSchedule, schedules.make),
        (schedules.ChangeSchedule, schedules.change),
    )
    return tuple(
        Handler(
            command=command,
            roles=PLAN,
            stream=stream,
            decider=schedules.SCHEDULES,
            decide=_checked(rule),
            reads=_names,
        )
        for command, rule in rules
    )


HANDLERS = (
    *handlers((), ()),
    *(
        Handler(
            command=command,
            roles=roles,
            stream=lambda command: schedule_stream(command.schedule_id),
            decider=schedules.SCHEDULES,
            decide=decide,
        )
        for command, roles, decide in _RULES
    ),
)
