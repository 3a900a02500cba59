"""Simulations: scenarios, which say what goes otherwise than usual for some days.

A scenario is what is to be tried. It is run on a branch of the log by a task (domain/work.py), as
often as one likes; what came of a run is told by the task's own events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Region, Text, UtcTime, Value

#: The longest that is simulated.
MOST_DAYS = 90
MOST_DISTURBANCES = 20
#: Demand is multiplied by no more than this by one disturbance.
MOST_DEMAND = 20.0


class Disturbing(StrEnum):
    """What may go otherwise than usual."""

    DEMAND_SURGE = "demand_surge"
    SITE_CLOSED = "site_closed"
    VEHICLE_LOST = "vehicle_lost"
    SUPPLIER_LATE = "supplier_late"
    PRICE_CHANGE = "price_change"


class _Takes(NamedTuple):
    """Which fields a kind of disturbance needs, and which it may have beside."""

    needed: tuple[str, ...]
    possible: tuple[str, ...] = ()


_FIELDS: Mapping[Disturbing, _Takes] = {
    Disturbing.DEMAND_SURGE: _Takes(("factor",), ("region", "sku", "site_id")),
    Disturbing.SITE_CLOSED: _Takes(("site_id",)),
    Disturbing.VEHICLE_LOST: _Takes(("vehicle_id",)),
    Disturbing.SUPPLIER_LATE: _Takes(("days",), ("sku", "site_id")),
    Disturbing.PRICE_CHANGE: _Takes(("factor", "elasticity"), ("sku",)),
}
_CHOSEN = ("factor", "region", "sku", "site_id", "vehicle_id", "days", "elasticity")

# values and commands


class Disturbance(Value):
    """Something that goes otherwise than usual, from one day of the simulation to another.

    ``demand_surge``: demand times ``factor`` (below 1: a slump), where it is given only of a
    ``region``, a ``sku`` or what a ``site_id`` used to ship. ``site_closed``: ``site_id`` ships
    and takes in nothing. ``vehicle_lost``: ``vehicle_id`` is gone for good. ``supplier_late``:
    goods that are ordered come so many ``days`` later, all or of a ``sku`` or for a ``site_id``.
    ``price_change``: prices, all or of a ``sku``, times ``factor``; demand then goes with
    factor ** ``elasticity`` (constant price elasticity; -1.5: at prices 10 % higher 13 % less).

    Days are counted from 1; without ``to_day`` it lasts to the end.
    """

    kind: Disturbing
    from_day: Annotated[int, Field(ge=1, le=MOST_DAYS)] = 1
    to_day: Annotated[int, Field(ge=1, le=MOST_DAYS)] | None = None
    factor: Annotated[float, Field(gt=0, le=10)] | None = None
    region: Region | None = None
    sku: Id | None = None
    site_id: Id | None = None
    vehicle_id: Id | None = None
    days: Annotated[int, Field(ge=1, le=60)] | None = None
    elasticity: Annotated[float, Field(ge=-10, le=0)] | None = None

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        takes = _FIELDS[self.kind]
        missing = [name for name in takes.needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{missing[0]}: a {self.kind.value} needs it")
        for name in _CHOSEN:
            if getattr(self, name) is not None and name not in (*takes.needed, *takes.possible):
                raise ValueError(f"{name}: a {self.kind.value} has none")
        if self.to_day is not None and self.to_day < self.from_day:
            raise ValueError(f"to_day: {self.to_day} lies before from_day, {self.from_day}")
        if self.kind is Disturbing.VEHICLE_LOST and self.to_day is not None:
            raise ValueError("to_day: a vehicle_lost has none, it is gone for good")
        if self.factor is not None and self.elasticity is not None:
            try:
                demand = self.factor**self.elasticity
            except OverflowError:  # of a factor next to nothing
                demand = math.inf
            if demand > MOST_DEMAND:
                raise ValueError(
                    f"factor, elasticity: demand times {demand:.4g}, at most {MOST_DEMAND:g}"
                )
        return self


class GenerateScenario(Command):
    """Say what is to be tried: for so many days from where a simulation leaves the log, these
    disturbances.

    ``seed``: what chance brings follows from it. ``sample_days``: demand is drawn from that many
    days before.
    """

    scenario_id: Id
    name: Text | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    horizon_days: Annotated[int, Field(ge=1, le=MOST_DAYS)] = 14
    sample_days: Annotated[int, Field(ge=7, le=90)] = 28
    disturbances: Annotated[
        tuple[Disturbance, ...], Field(min_length=1, max_length=MOST_DISTURBANCES)
    ]
    generated_at: UtcTime

    @model_validator(mode="after")
    def _days_lie_within(self) -> Self:
        for number, one in enumerate(self.disturbances):
            last = one.from_day if one.to_day is None else one.to_day
            if last > self.horizon_days:
                raise ValueError(
                    f"disturbances.{number}: day {last} lies behind the horizon of "
                    f"{self.horizon_days} days"
                )
        lost = [one.vehicle_id for one in self.disturbances if one.vehicle_id is not None]
        if len(set(lost)) < len(lost):
            raise ValueError("disturbances: each vehicle is lost once")
        return self


class RetireScenario(Command):
    """Put a scenario away: it is not run any more."""

    scenario_id: Id
    reason: Text
    retired_at: UtcTime


class CancelSimulation(Command):
    """Stop a simulation, whoever asked for it. Nothing of it is left."""

    task_id: Id
    reason: Text | None = None
    cancelled_at: UtcTime


# events


class DisturbanceOfScenario(Value):
    """A disturbance as a scenario has it."""

    kind: str
    from_day: int
    to_day: int | None
    factor: float | None
    region: str | None
    sku: str | None
    site_id: str | None
    vehicle_id: str | None
    days: int | None
    elasticity: float | None


class ScenarioGenerated(Event):
    """It was said what is to be tried."""

    scenario_id: str
    name: str | None
    seed: int
    horizon_days: int
    sample_days: int
    disturbances: tuple[DisturbanceOfScenario, ...]
    generated_by: str
    generated_at: datetime


class ScenarioRetired(Event):
    """A scenario was put away."""

    scenario_id: str
    reason: str
    retired_by: str
    retired_at: datetime


EVENTS: tuple[type[Event], ...] = (ScenarioGenerated, ScenarioRetired)

#: The stream that an event belongs to, by its fields.
STREAM = "scenarios/{scenario_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ScenarioGenerated: "Scenario {scenario_id} was generated by {generated_by}: {horizon_days} "
    "days, seed {seed}",
    ScenarioRetired: "Scenario {scenario_id} was retired by {retired_by}: {reason}",
}


def words(one: Disturbance | DisturbanceOfScenario) -> str:
    """A disturbance in a sentence."""
    until = "to the end" if one.to_day is None else f"to day {one.to_day}"
    days = f"from day {one.from_day} {until}"
    where = "".join(
        told
        for told in (
            one.sku and f" of {one.sku}",
            one.region and f" from region {one.region}",
            one.site_id and f" at site {one.site_id}",
        )
        if told
    )
    match Disturbing(one.kind):
        case Disturbing.DEMAND_SURGE:
            return f"Demand{where or ' of everything'} is {one.factor:g} times the usual {days}"
        case Disturbing.SITE_CLOSED:
            return f"Site {one.site_id} is closed {days}"
        case Disturbing.VEHICLE_LOST:
            return f"Vehicle {one.vehicle_id} is lost from day {one.from_day} on"
        case Disturbing.SUPPLIER_LATE:
            return f"Goods{where or ' of all kinds'} ordered {days} come {one.days} days later"
        case Disturbing.PRICE_CHANGE:
            return (
                f"Prices{where or ' of everything'} are {one.factor:g} times the usual {days}, "
                f"at a price elasticity of {one.elasticity:g}"
            )


# state


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the rules need to know of a scenario."""

    scenario_id: str = ""
    is_retired: bool = False


def evolve(scenario: Scenario, event: Event) -> Scenario:
    """The scenario after one more of its events."""
    match event:
        case ScenarioGenerated():
            return Scenario(scenario_id=event.scenario_id)
        case ScenarioRetired():
            return replace(scenario, is_retired=True)
    return scenario


SCENARIOS = Decider(initial=Scenario(), evolve=evolve)


# decisions


def generate(scenario: Scenario, command: GenerateScenario, actor: str) -> Sequence[Event]:
    """Say once what is to be tried."""
    if scenario.scenario_id:
        raise Refused("scenario.already_generated", scenario_id=scenario.scenario_id)
    return [
        ScenarioGenerated(
            **command.model_dump(exclude={"disturbances"}),
            disturbances=tuple(
                DisturbanceOfScenario(**one.model_dump(mode="json")) for one in command.disturbances
            ),
            generated_by=actor,
        )
    ]


def retire(scenario: Scenario, command: RetireScenario, actor: str) -> Sequence[Event]:
    """Put it away, once."""
    must_be_in_use(scenario, command.scenario_id)
    return [ScenarioRetired(**command.model_dump(), retired_by=actor)]


def must_be_in_use(scenario: Scenario, scenario_id: str) -> None:
    """Refuse what needs a scenario that is there and was not put away."""
    if not scenario.scenario_id:
        raise Refused("scenario.unknown", scenario_id=scenario_id)
    if scenario.is_retired:
        raise Refused("scenario.retired", scenario_id=scenario_id)
