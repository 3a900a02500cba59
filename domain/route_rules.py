"""Route rules: which vehicles and goods may go where and when, as data.

A rule names a zone and what it forbids there. The rules of an organisation stand in one stream, so
that a command which has to obey them reads one stream more, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.loads import Goods
from domain.places import Point
from domain.prohibitions import Driven, Prohibition, each_once, reasons_against
from domain.time_windows import OpeningHours
from domain.values import Command, Event, Id, Text, UtcTime, Value
from domain.vehicle_kinds import ON_THE_ROAD
from domain.zones import Zone

#: So many rules hold for an organisation at once: commands that obey them read them all.
MOST_RULES = 500


WebAddress = Annotated[
    str,
    Field(max_length=1000, pattern=r"^https?://[\x21-\x7e]+$", examples=["https://example.org"]),
]
Exempt = Annotated[tuple[Id, ...], Field(max_length=500), AfterValidator(each_once)]


class RouteRule(Value):
    """A rule as it holds.

    ``hours``: when it holds; None: always. ``source``: the law, ordinance or sign that says so.
    ``exempt_vehicles``: those that have a permit.
    """

    rule_id: str
    name: str
    zone: Zone
    forbids: Prohibition
    hours: OpeningHours | None
    valid_from: datetime
    valid_until: datetime | None
    source: str
    source_url: str | None
    exempt_vehicles: tuple[str, ...]


def _ends_after_it_begins(valid_from: datetime, valid_until: datetime | None) -> str | None:
    if valid_until is None or valid_until > valid_from:
        return None
    return f"must be after valid_from, got {valid_until.isoformat()} after {valid_from.isoformat()}"


class SetRouteRule(Command):
    """Write down a rule of the road: a zone, whom it is closed to, when, and which law says so.

    ``hours``: when it holds, by the clock of its zone; None: always. ``exempt_vehicles``: vehicles
    that have a permit.
    """

    rule_id: Id
    name: Text
    zone: Zone
    forbids: Prohibition
    hours: OpeningHours | None = None
    valid_from: UtcTime
    valid_until: UtcTime | None = None
    source: Text = Field(examples=["35. BImSchV"])
    source_url: WebAddress | None = None
    exempt_vehicles: Exempt = ()
    set_at: UtcTime

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        wrong = _ends_after_it_begins(self.valid_from, self.valid_until)
        if wrong is not None:
            raise ValueError(f"valid_until: {wrong}")
        return self


class ChangeRouteRule(Command):
    """Change a rule that holds; what is left out stays as it is. ``always``: without hours from now
    on. ``unlimited``: without an end."""

    rule_id: Id
    name: Text | None = None
    zone: Zone | None = None
    forbids: Prohibition | None = None
    hours: OpeningHours | None = None
    always: bool = False
    valid_from: UtcTime | None = None
    valid_until: UtcTime | None = None
    unlimited: bool = False
    source: Text | None = None
    source_url: WebAddress | None = None
    exempt_vehicles: Exempt | None = None
    changed_at: UtcTime

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> Self:
        if self.always and self.hours is not None:
            raise ValueError("always: does not go together with hours")
        if self.unlimited and self.valid_until is not None:
            raise ValueError("unlimited: does not go together with valid_until")
        return self


class LiftRouteRule(Command):
    """Lift a rule: it forbids nothing any more. It may be set again."""

    rule_id: Id
    reason: Text
    lifted_at: UtcTime


class RouteRuleSet(RouteRule, Event):
    """A rule of the road was written down."""

    set_by: str
    set_at: datetime


class RouteRuleChanged(RouteRule, Event):
    """A rule is another one; all of it, as it holds now."""

    changed_by: str
    changed_at: datetime


class RouteRuleLifted(Event):
    """A rule forbids nothing any more."""

    rule_id: str
    reason: str
    lifted_by: str
    lifted_at: datetime


EVENTS = (RouteRuleSet, RouteRuleChanged, RouteRuleLifted)

#: The one stream of an organisation's rules.
STREAM = "route_rules/own"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    RouteRuleSet: "Route rule {rule_id} ({name}) was set by {set_by}; source: {source}",
    RouteRuleChanged: "Route rule {rule_id} ({name}) was changed by {changed_by}; source: {source}",
    RouteRuleLifted: "Route rule {rule_id} was lifted by {lifted_by}: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class RouteRules:
    """The rules that were set and not lifted, by id."""

    rules: dict[str, RouteRule] = field(default_factory=dict)


def evolve(rules: RouteRules, event: Event) -> RouteRules:
    """The rules after one more event."""
    match event:
        case RouteRuleSet() | RouteRuleChanged():
            return RouteRules(rules.rules | {event.rule_id: _rule(event)})
        case RouteRuleLifted():
            left = {id_: rule for id_, rule in rules.rules.items() if id_ != event.rule_id}
            return RouteRules(left)
    return rules


def _rule(of: RouteRule) -> RouteRule:
    return RouteRule.model_construct(**{name: getattr(of, name) for name in RouteRule.model_fields})


ROUTE_RULES = Decider(initial=RouteRules(), evolve=evolve)

# decisions


def set_rule(rules: RouteRules, command: SetRouteRule, actor: str) -> Sequence[Event]:
    """Write down a rule whose name is free."""
    if command.rule_id in rules.rules:
        raise Refused("route_rule.already_set", rule_id=command.rule_id)
    if len(rules.rules) >= MOST_RULES:
        raise Refused("route_rule.too_many", rule_id=command.rule_id, most=MOST_RULES)
    _must_be_clear(command.rule_id, command.zone)
    told = {name: getattr(command, name) for name in RouteRule.model_fields}
    return [RouteRuleSet(**told, set_by=actor, set_at=command.set_at)]


def change(rules: RouteRules, command: ChangeRouteRule, actor: str) -> Sequence[Event]:
    """Change a rule that holds; nothing where all of it is said already."""
    rule = _known(rules, command.rule_id)
    told = {
        name: value
        for name in RouteRule.model_fields
        if (value := getattr(command, name)) is not None
    }
    told |= {"hours": None} if command.always else {}
    told |= {"valid_until": None} if command.unlimited else {}
    changed = rule.model_copy(update=told)
    if changed == rule:
        return []
    wrong = _ends_after_it_begins(changed.valid_from, changed.valid_until)
    if wrong is not None:
        raise Refused("route_rule.ends_before_it_begins", rule_id=command.rule_id, rule=wrong)
    _must_be_clear(command.rule_id, changed.zone)
    everything = {name: getattr(changed, name) for name in RouteRule.model_fields}
    return [RouteRuleChanged(**everything, changed_by=actor, changed_at=command.changed_at)]


def lift(rules: RouteRules, command: LiftRouteRule, actor: str) -> Sequence[Event]:
    """Lift a rule that holds."""
    _known(rules, command.rule_id)
    return [
        RouteRuleLifted(
            rule_id=command.rule_id,
            reason=command.reason,
            lifted_by=actor,
            lifted_at=command.lifted_at,
        )
    ]


def _known(rules: RouteRules, rule_id: str) -> RouteRule:
    if rule_id not in rules.rules:
        raise Refused("route_rule.unknown", rule_id=rule_id)
    return rules.rules[rule_id]


def _must_be_clear(rule_id: str, zone: Zone) -> None:
    if zone.polygon and zone.crosses_itself():
        raise Refused("route_rule.zone_crosses_itself", rule_id=rule_id, zone=zone.name)


# what rules forbid


class Broken(NamedTuple):
    """A rule that would be broken, in which zone, why in words, and which law says so."""

    rule_id: str
    zone: str
    sentence: str
    source: str


def broken(
    rules: Iterable[RouteRule],
    vehicle: Driven,
    goods: Goods | None,
    points: Point | Sequence[Point],
    at: datetime,
) -> list[Broken]:
    """The rules that a vehicle breaks with goods at one of some points at a moment; empty: it may.

    What is not known of the vehicle or the goods counts as forbidden, and the sentence says so.
    Points are where it stops: which way it takes between them is not looked at. Ships, trains and
    planes break no rule of the road.
    """
    if vehicle.mode not in ON_THE_ROAD:
        return []
    places = [points] if isinstance(points, Point) else points
    found: list[Broken] = []
    for rule in rules:
        if not _holds(rule, at) or vehicle.vehicle_id in rule.exempt_vehicles:
            continue
        reasons = reasons_against(rule.forbids, vehicle, goods or Goods())
        if reasons is not None and any(rule.zone.contains(place) for place in places):
            who = f"Vehicle {vehicle.vehicle_id} may not be in {rule.zone.name}"
            said = f"{who} at {at.isoformat()}: {'; '.join(reasons)} ({rule.name}, {rule.source})"
            found.append(Broken(rule.rule_id, rule.zone.name, said, rule.source))
    return found


def must_be_legal(
    rules: RouteRules,
    vehicle: Driven,
    goods: Goods | None,
    points: Point | Sequence[Point],
    at: datetime,
    *,
    at_any_hour: bool = False,
) -> None:
    """Refuse what breaks a rule; the first one is told. ``at_any_hour``: the day is known and the
    hour is not, so rules with hours do not count."""
    counting = [one for one in rules.rules.values() if not (at_any_hour and one.hours)]
    for one in broken(counting, vehicle, goods, points, at):
        raise Refused("route_rule.broken", vehicle_id=vehicle.vehicle_id, **one._asdict())


def _holds(rule: RouteRule, at: datetime) -> bool:
    begun = rule.valid_from <= at and (rule.valid_until is None or at < rule.valid_until)
    return begun and (rule.hours is None or rule.hours.is_open(at))
