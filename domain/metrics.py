"""Metrics: figures that people and machines record, each a fact of its own.

A figure that was wrong is corrected by a later event, or withdrawn; it is never edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from domain.clients import Client
from domain.decider import Decider
from domain.errors import Refused
from domain.products import Product, must_be_registered
from domain.sites import Site, must_be_known
from domain.transport import Vehicle
from domain.values import Change, Command, Event, Id, Text, UtcTime

#: What a figure is of, as "dock.temperature": lower case, parts with dots between them.
MetricName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=64, examples=["dock.wait"])
]
#: Its unit as it is written, by preference a UCUM code: "min", "Cel", "%", "EUR/km".
UnitName = Annotated[str, Field(pattern=r"^\S{1,32}$", examples=["min"])]

#: Ids that addresses of the API have already: a figure of such an id could not be asked for.
RESERVED_IDS = ("dashboard", "kpi")

# commands


class RecordMetric(Command):
    """Record a figure: an exact number with its unit, of a moment, and perhaps of a site, a client,
    a vehicle or a SKU. ``source``: who or what measured it."""

    metric_id: Id
    name: MetricName
    value: Change = Field(examples=["12.5"])
    unit: UnitName
    measured_at: UtcTime
    site_id: Id | None = None
    client_id: Id | None = None
    vehicle_id: Id | None = None
    sku: Id | None = None
    source: Id | None = None


class CorrectMetric(Command):
    """Correct a figure; what is left out stays as it is."""

    metric_id: Id
    value: Change | None = None
    unit: UnitName | None = None
    measured_at: UtcTime | None = None
    reason: Text
    corrected_at: UtcTime


class WithdrawMetric(Command):
    """Withdraw a figure that should not be there."""

    metric_id: Id
    reason: Text
    withdrawn_at: UtcTime


# events


class MetricRecorded(Event):
    """Somebody recorded a figure."""

    metric_id: str
    name: str
    value: Decimal
    unit: str
    measured_at: datetime
    site_id: str | None
    client_id: str | None
    vehicle_id: str | None
    sku: str | None
    source: str | None


class MetricCorrected(Event):
    """A figure as it holds from now on; ``was`` is the one before."""

    metric_id: str
    name: str
    value: Decimal
    unit: str
    measured_at: datetime
    was: Decimal
    reason: str
    corrected_by: str
    corrected_at: datetime


class MetricWithdrawn(Event):
    """A figure does not count any more."""

    metric_id: str
    name: str
    reason: str
    withdrawn_by: str
    withdrawn_at: datetime


EVENTS: tuple[type[Event], ...] = (MetricRecorded, MetricCorrected, MetricWithdrawn)

#: The stream that an event belongs to, by its fields.
STREAM = "metrics/{metric_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    MetricRecorded: "{name} was {value} {unit} at {measured_at}",
    MetricCorrected: "{name} was corrected from {was} to {value} {unit} by {corrected_by}: "
    "{reason}",
    MetricWithdrawn: "A figure of {name} was withdrawn by {withdrawn_by}: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Metric:
    """What the rules need to know of a figure."""

    metric_id: str = ""
    name: str = ""
    value: Decimal = Decimal(0)
    unit: str = ""
    measured_at: datetime | None = None
    is_withdrawn: bool = False


def evolve(metric: Metric, event: Event) -> Metric:
    """The figure after one more of its events."""
    match event:
        case MetricRecorded() | MetricCorrected():
            return Metric(
                metric_id=event.metric_id,
                name=event.name,
                value=event.value,
                unit=event.unit,
                measured_at=event.measured_at,
            )
        case MetricWithdrawn():
            return replace(metric, is_withdrawn=True)
    return metric


METRICS = Decider(initial=Metric(), evolve=evolve)

# decisions


def record(metric: Metric, command: RecordMetric, *about: object) -> Sequence[Event]:
    """Record a figure once, of what is known; what was closed or retired may have figures, too.

    ``about``: the states of what the command names.
    """
    if command.metric_id in RESERVED_IDS:
        raise Refused(
            "metric.reserved_id",
            field="metric_id",
            metric_id=command.metric_id,
            reserved=", ".join(RESERVED_IDS),
        )
    if metric.metric_id:
        raise Refused("metric.already_recorded", metric_id=metric.metric_id, name=metric.name)
    for one in about:
        match one:
            case Site():
                must_be_known(one, command.site_id or "")
            case Vehicle() if not one.vehicle_id:
                raise Refused("vehicle.unknown", vehicle_id=command.vehicle_id)
            case Client() if not one.client_id:
                raise Refused("client.unknown", client_id=command.client_id)
            case Product():
                must_be_registered(one, command.sku or "")
    return [MetricRecorded(**command.model_dump())]


def correct(metric: Metric, command: CorrectMetric, actor: str) -> Sequence[Event]:
    """Put another value, unit or moment in place of what was recorded."""
    _must_count(metric, command.metric_id)
    assert metric.measured_at is not None
    value = metric.value if command.value is None else command.value
    unit = command.unit or metric.unit
    measured_at = command.measured_at or metric.measured_at
    if (value, unit, measured_at) == (metric.value, metric.unit, metric.measured_at):
        raise Refused("metric.unchanged", metric_id=metric.metric_id, value=value, unit=unit)
    return [
        MetricCorrected(
            metric_id=metric.metric_id,
            name=metric.name,
            value=value,
            unit=unit,
            measured_at=measured_at,
            was=metric.value,
            reason=command.reason,
            corrected_by=actor,
            corrected_at=command.corrected_at,
        )
    ]


def withdraw(metric: Metric, command: WithdrawMetric, actor: str) -> Sequence[Event]:
    """Let a figure count no more."""
    _must_count(metric, command.metric_id)
    return [
        MetricWithdrawn(
            metric_id=metric.metric_id,
            name=metric.name,
            reason=command.reason,
            withdrawn_by=actor,
            withdrawn_at=command.withdrawn_at,
        )
    ]


def _must_count(metric: Metric, metric_id: str) -> None:
    if not metric.metric_id:
        raise Refused("metric.unknown", metric_id=metric_id)
    if metric.is_withdrawn:
        raise Refused("metric.withdrawn", metric_id=metric_id)
