"""Sites: where goods are kept and orders leave from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.places import Point
from domain.time_windows import OpeningHours
from domain.values import Command, Event, Id, Minor, Region, Text, UtcTime, Value


def _whole_minute(moment: time) -> time:
    if moment.tzinfo is not None or moment.second or moment.microsecond:
        raise ValueError("must be HH:MM in UTC, without a zone")
    return moment


#: A minute of the day in UTC, ``HH:MM``.
MinuteOfDay = Annotated[
    time,
    AfterValidator(_whole_minute),
    PlainSerializer(lambda moment: f"{moment:%H:%M}", when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}),
]

# values and commands


class ServiceLevel(Value):
    """A way of shipping that a site offers: its price, carbon and how far it is fit to carry.

    ``transit_s``: within how many seconds from the handover the carrier undertakes to deliver.
    ``cut_off``: orders that are decided later in the day leave a day later.
    """

    code: Id
    cost_minor: Minor = 0
    carbon_g: Annotated[int, Field(ge=0, le=10**9)] = 0
    max_weight_g: Annotated[int, Field(gt=0, le=10**9)] | None = None
    transit_s: Annotated[int, Field(gt=0, le=10**9)] | None = None
    cut_off: MinuteOfDay | None = Field(default=None, examples=["16:00"])


def _codes_once(levels: tuple[ServiceLevel, ...]) -> tuple[ServiceLevel, ...]:
    codes = [level.code for level in levels]
    if len(set(codes)) != len(codes):
        raise ValueError(f"codes must be unique, got {codes}")
    return levels


#: What a site offers, each code once.
ServiceLevels = Annotated[
    tuple[ServiceLevel, ...], Field(min_length=1, max_length=20), AfterValidator(_codes_once)
]
#: What a site is: goods are kept in a warehouse, sold in a store, handed on in a cross dock;
#: vehicles stand in a depot; a supplier sends goods to the others.
Kind = Literal["warehouse", "store", "cross_dock", "depot", "supplier"]
USUAL_KIND: Kind = "warehouse"
#: So many orders, grams, cubic centimetres or docks.
_Orders = Annotated[int, Field(gt=0, le=10**9)]
_Grams = Annotated[int, Field(gt=0, le=10**15)]
_Cm3 = Annotated[int, Field(gt=0, le=10**15)]
_Docks = Annotated[int, Field(gt=0, le=10_000)]


def _is_none(value: object) -> bool:
    return value is None


def _is_usual(kind: str) -> bool:
    return kind == USUAL_KIND


# Left out of the JSON where nothing is said, so that what is without them has the bytes, and the
# digest, that it always had.
_Location = Annotated[Point | None, Field(exclude_if=_is_none)]
_Hours = Annotated[OpeningHours | None, Field(exclude_if=_is_none)]
_Number = Annotated[int | None, Field(exclude_if=_is_none)]


class OpenSite(Command):
    """Open a site. None: not limited or not known.

    ``daily_capacity``: orders a day. ``capacity_weight_g``, ``capacity_volume_cm3``: what it holds.
    ``docks``: vehicles that load at once.
    """

    site_id: Id
    name: Text | None = None
    region: Region | None = None
    service_levels: ServiceLevels = (ServiceLevel(code="standard"),)
    daily_capacity: _Orders | None = None
    opened_at: UtcTime | None
    kind: Annotated[Kind, Field(exclude_if=_is_usual)] = USUAL_KIND
    location: _Location = None
    opening_hours: _Hours = None
    capacity_weight_g: Annotated[_Grams | None, Field(exclude_if=_is_none)] = None
    capacity_volume_cm3: Annotated[_Cm3 | None, Field(exclude_if=_is_none)] = None
    docks: Annotated[_Docks | None, Field(exclude_if=_is_none)] = None


#: What may be known of a site or not, and so can be cleared.
Clearable = Literal[
    "location", "opening_hours", "capacity_weight_g", "capacity_volume_cm3", "docks"
]


class ChangeSite(Command):
    """Change what is said of an open site: what is left out stays as it is, what ``clear`` names is
    not known any more.

    ``service_levels`` replaces all of them. What orders were promised stays promised; a vehicle
    that is for a level which is not offered any more takes no orders of it until it is again.
    """

    site_id: Id
    name: Text | None = None
    region: Region | None = None
    kind: Kind | None = None
    location: Point | None = None
    opening_hours: OpeningHours | None = None
    service_levels: ServiceLevels | None = None
    daily_capacity: _Orders | None = None
    capacity_weight_g: _Grams | None = None
    capacity_volume_cm3: _Cm3 | None = None
    docks: _Docks | None = None
    clear: Annotated[tuple[Clearable, ...], Field(max_length=5)] = ()
    changed_at: UtcTime | None

    @model_validator(mode="after")
    def _clears_nothing_that_is_given(self) -> Self:
        both = sorted({name for name in self.clear if getattr(self, name) is not None})
        if both:
            raise ValueError(f"clear: {', '.join(both)} is given a value as well")
        return self


class CloseSite(Command):
    """Close a site: it ships no more orders."""

    site_id: Id
    reason: Text
    closed_at: UtcTime | None


class ReopenSite(Command):
    """Open a closed site again, as it was."""

    site_id: Id
    reopened_at: UtcTime | None


# events


class SiteOpened(Event):
    """A site started to ship orders."""

    site_id: str
    name: str | None
    region: str | None
    service_levels: tuple[ServiceLevel, ...]
    daily_capacity: int | None
    opened_at: datetime | None
    #: None: a warehouse.
    kind: Annotated[str | None, Field(exclude_if=_is_none)] = None
    location: _Location = None
    opening_hours: _Hours = None
    capacity_weight_g: _Number = None
    capacity_volume_cm3: _Number = None
    docks: _Number = None


class SiteChanged(Event):
    """What is said of a site changed; ``changed`` names the fields, the others are as before."""

    site_id: str
    name: str | None
    region: str | None
    kind: str
    location: Point | None
    opening_hours: OpeningHours | None
    service_levels: tuple[ServiceLevel, ...]
    daily_capacity: int | None
    capacity_weight_g: int | None
    capacity_volume_cm3: int | None
    docks: int | None
    changed: str
    changed_at: datetime | None


class SiteClosed(Event):
    """A site stopped shipping orders."""

    site_id: str
    reason: str
    closed_at: datetime | None


class SiteReopened(Event):
    """A closed site ships orders again."""

    site_id: str
    reopened_at: datetime | None


EVENTS: tuple[type[Event], ...] = (SiteOpened, SiteChanged, SiteClosed, SiteReopened)

#: The stream that an event belongs to, by its fields.
STREAM = "sites/{site_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    SiteOpened: "Site {site_id} was opened",
    SiteChanged: "Site {site_id} was changed: {changed}",
    SiteClosed: "Site {site_id} was closed: {reason}",
    SiteReopened: "Site {site_id} was opened again",
}

# state


@dataclass(frozen=True, slots=True)
class Site:
    """What the rules need to know of a site. ``levels`` is what it offers, ``service_levels`` the
    codes of that."""

    site_id: str = ""
    is_open: bool = False
    service_levels: frozenset[str] = frozenset()
    name: str | None = None
    region: str | None = None
    kind: str = USUAL_KIND
    location: Point | None = None
    opening_hours: OpeningHours | None = None
    levels: tuple[ServiceLevel, ...] = ()
    daily_capacity: int | None = None
    capacity_weight_g: int | None = None
    capacity_volume_cm3: int | None = None
    docks: int | None = None


#: What a change may change, beside the service levels.
_FIELDS = (
    *("name", "region", "kind", "location", "opening_hours", "daily_capacity"),
    *("capacity_weight_g", "capacity_volume_cm3", "docks"),
)


def evolve_site(site: Site, event: Event) -> Site:
    """The site after one more of its events."""
    match event:
        case SiteOpened() | SiteChanged():
            said = {name: getattr(event, name) for name in _FIELDS}
            return replace(
                site,
                **said | {"kind": event.kind or USUAL_KIND},
                site_id=event.site_id,
                is_open=True,
                levels=event.service_levels,
                service_levels=frozenset(level.code for level in event.service_levels),
            )
        case SiteClosed():
            return replace(site, is_open=False)
        case SiteReopened():
            return replace(site, is_open=True)
    return site


SITES = Decider(initial=Site(), evolve=evolve_site)

# decisions


def open_site(site: Site, command: OpenSite) -> Sequence[Event]:
    """Open a site that does not exist yet."""
    if site.site_id:
        raise Refused("site.already_opened", site_id=site.site_id)
    return [
        SiteOpened(
            site_id=command.site_id,
            name=command.name,
            region=command.region,
            service_levels=command.service_levels,
            daily_capacity=command.daily_capacity,
            opened_at=command.opened_at,
            kind=None if command.kind == USUAL_KIND else command.kind,
            location=command.location,
            opening_hours=command.opening_hours,
            capacity_weight_g=command.capacity_weight_g,
            capacity_volume_cm3=command.capacity_volume_cm3,
            docks=command.docks,
        )
    ]


def change_site(site: Site, command: ChangeSite) -> Sequence[Event]:
    """Change what is said of an open site; nothing where all of it is said already."""
    must_be_open(site, command.site_id)
    before = {name: getattr(site, name) for name in _FIELDS} | {"service_levels": site.levels}
    given = {name: getattr(command, name) for name in before}
    after = before | {name: value for name, value in given.items() if value is not None}
    after |= dict.fromkeys(command.clear)
    changed = [name for name in before if after[name] != before[name]]
    if not changed:
        return []
    return [
        SiteChanged(
            site_id=command.site_id,
            **after,
            changed=", ".join(changed),
            changed_at=command.changed_at,
        )
    ]


def close_site(site: Site, command: CloseSite) -> Sequence[Event]:
    """Close an open site."""
    must_be_open(site, command.site_id)
    return [SiteClosed(site_id=command.site_id, reason=command.reason, closed_at=command.closed_at)]


def reopen_site(site: Site, command: ReopenSite) -> Sequence[Event]:
    """Open again what was closed."""
    must_be_known(site, command.site_id)
    if site.is_open:
        raise Refused("site.not_closed", site_id=command.site_id)
    return [SiteReopened(site_id=command.site_id, reopened_at=command.reopened_at)]


def must_be_open(site: Site, site_id: str) -> None:
    """Refuse what needs an open site."""
    must_be_known(site, site_id)
    if not site.is_open:
        raise Refused("site.closed", site_id=site_id)


def must_be_known(site: Site, site_id: str) -> None:
    """Refuse what needs a site, be it closed."""
    if not site.site_id:
        raise Refused("site.unknown", site_id=site_id)


def must_offer(site: Site, service_level: str) -> None:
    """Refuse a service level that the site does not have."""
    if service_level not in site.service_levels:
        raise Refused(
            "site.service_level_not_offered",
            site_id=site.site_id,
            service_level=service_level,
            offered=", ".join(sorted(site.service_levels)),
        )
