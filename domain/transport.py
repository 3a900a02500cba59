"""Transport: the vehicles that sites send orders with, and the regions they may not send to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.inventory import Site, must_be_known, must_be_open, must_offer
from domain.values import Command, Event, Id, Region, Text, UtcTime

# values and commands

Mode = Literal["cargo_bike", "van", "truck", "rail", "ship", "plane"]


class RegisterVehicle(Command):
    """Put a vehicle at a site's disposal, for some of its service levels.

    ``cost_minor`` and ``carbon_g`` are added to those of the service level, order by order; below
    zero they save. ``daily_capacity``: orders a day; None: not limited or not known.
    """

    vehicle_id: Id
    site_id: Id
    mode: Mode
    service_levels: Annotated[tuple[Id, ...], Field(min_length=1, max_length=20)]
    max_weight_g: Annotated[int, Field(gt=0, le=10**9)] | None = None
    daily_capacity: Annotated[int, Field(gt=0, le=10**9)] | None = None
    cost_minor: Annotated[int, Field(ge=-(10**12), le=10**12)] = 0
    carbon_g: Annotated[int, Field(ge=-(10**9), le=10**9)] = 0
    registered_at: UtcTime | None

    @model_validator(mode="after")
    def _levels_are_unique(self) -> Self:
        if len(set(self.service_levels)) != len(self.service_levels):
            raise ValueError(f"service_levels: must be unique, got {list(self.service_levels)}")
        return self


class RetireVehicle(Command):
    """Take a vehicle out of use for good."""

    vehicle_id: Id
    reason: Text
    retired_at: UtcTime | None


class ForbidRoute(Command):
    """Forbid a site to send orders to a region. Every route is legal until then."""

    site_id: Id
    region: Region
    reason: Text
    forbidden_at: UtcTime | None


class AllowRoute(Command):
    """Allow again what was forbidden."""

    site_id: Id
    region: Region
    allowed_at: UtcTime | None


# events


class VehicleRegistered(Event):
    """A vehicle was put at a site's disposal."""

    vehicle_id: str
    site_id: str
    mode: str
    service_levels: tuple[str, ...]
    max_weight_g: int | None
    daily_capacity: int | None
    cost_minor: int
    carbon_g: int
    registered_at: datetime | None


class VehicleRetired(Event):
    """A vehicle was taken out of use."""

    vehicle_id: str
    site_id: str
    reason: str
    retired_at: datetime | None


class RouteForbidden(Event):
    """A site may not send orders to a region any more."""

    site_id: str
    region: str
    reason: str
    forbidden_at: datetime | None


class RouteAllowed(Event):
    """A site may send orders to a region again."""

    site_id: str
    region: str
    allowed_at: datetime | None


EVENTS = (VehicleRegistered, VehicleRetired, RouteForbidden, RouteAllowed)

#: The stream that an event belongs to, by its fields.
VEHICLE_STREAM = "vehicles/{vehicle_id}"
ROUTE_STREAM = "routes/{site_id}/{region}"
STREAMS: dict[type[Event], str] = {
    VehicleRegistered: VEHICLE_STREAM,
    VehicleRetired: VEHICLE_STREAM,
    RouteForbidden: ROUTE_STREAM,
    RouteAllowed: ROUTE_STREAM,
}

SENTENCES: dict[type[Event], str] = {
    VehicleRegistered: "Vehicle {vehicle_id} ({mode}) was registered at site {site_id}",
    VehicleRetired: "Vehicle {vehicle_id} of site {site_id} was retired: {reason}",
    RouteForbidden: "Site {site_id} was forbidden to send orders to {region}: {reason}",
    RouteAllowed: "Site {site_id} was allowed again to send orders to {region}",
}

# state


@dataclass(frozen=True, slots=True)
class Vehicle:
    """What the rules need to know of a vehicle."""

    vehicle_id: str = ""
    site_id: str = ""
    service_levels: frozenset[str] = frozenset()
    is_retired: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Whether a site may send orders to a region."""

    is_forbidden: bool = False


def evolve_vehicle(vehicle: Vehicle, event: Event) -> Vehicle:
    """The vehicle after one more of its events."""
    match event:
        case VehicleRegistered():
            return Vehicle(
                vehicle_id=event.vehicle_id,
                site_id=event.site_id,
                service_levels=frozenset(event.service_levels),
            )
        case VehicleRetired():
            return replace(vehicle, is_retired=True)
    return vehicle


def evolve_route(route: Route, event: Event) -> Route:
    """The route after one more of its events."""
    match event:
        case RouteForbidden():
            return Route(is_forbidden=True)
        case RouteAllowed():
            return Route(is_forbidden=False)
    return route


VEHICLES = Decider(initial=Vehicle(), evolve=evolve_vehicle)
ROUTES = Decider(initial=Route(), evolve=evolve_route)

# decisions


def register(vehicle: Vehicle, command: RegisterVehicle, site: Site) -> Sequence[Event]:
    """Register a vehicle that does not exist yet, for levels that its open site offers."""
    if vehicle.vehicle_id:
        raise Refused(
            "vehicle.already_registered", vehicle_id=vehicle.vehicle_id, site_id=vehicle.site_id
        )
    must_be_open(site, command.site_id)
    for service_level in command.service_levels:
        must_offer(site, service_level)
    return [
        VehicleRegistered(
            vehicle_id=command.vehicle_id,
            site_id=command.site_id,
            mode=command.mode,
            service_levels=command.service_levels,
            max_weight_g=command.max_weight_g,
            daily_capacity=command.daily_capacity,
            cost_minor=command.cost_minor,
            carbon_g=command.carbon_g,
            registered_at=command.registered_at,
        )
    ]


def retire(vehicle: Vehicle, command: RetireVehicle) -> Sequence[Event]:
    """Take a vehicle out of use; its site may be closed by then."""
    _must_be_in_use(vehicle, command.vehicle_id)
    return [
        VehicleRetired(
            vehicle_id=command.vehicle_id,
            site_id=vehicle.site_id,
            reason=command.reason,
            retired_at=command.retired_at,
        )
    ]


def forbid(route: Route, command: ForbidRoute, site: Site) -> Sequence[Event]:
    """Forbid a legal route of a site that is known."""
    must_be_known(site, command.site_id)
    if route.is_forbidden:
        raise Refused("route.already_forbidden", site_id=command.site_id, region=command.region)
    return [
        RouteForbidden(
            site_id=command.site_id,
            region=command.region,
            reason=command.reason,
            forbidden_at=command.forbidden_at,
        )
    ]


def allow(route: Route, command: AllowRoute, site: Site) -> Sequence[Event]:
    """Allow a forbidden route of a site that is known."""
    must_be_known(site, command.site_id)
    if not route.is_forbidden:
        raise Refused("route.not_forbidden", site_id=command.site_id, region=command.region)
    return [
        RouteAllowed(site_id=command.site_id, region=command.region, allowed_at=command.allowed_at)
    ]


def must_serve(vehicle: Vehicle, vehicle_id: str, site_id: str, service_level: str) -> None:
    """Refuse a vehicle that cannot leave this site for this service level."""
    _must_be_in_use(vehicle, vehicle_id)
    if vehicle.site_id != site_id:
        raise Refused(
            "vehicle.at_another_site", vehicle_id=vehicle_id, site_id=vehicle.site_id, asked=site_id
        )
    if service_level not in vehicle.service_levels:
        raise Refused(
            "vehicle.does_not_serve",
            vehicle_id=vehicle_id,
            service_level=service_level,
            serves=", ".join(sorted(vehicle.service_levels)),
        )


def _must_be_in_use(vehicle: Vehicle, vehicle_id: str) -> None:
    if not vehicle.vehicle_id:
        raise Refused("vehicle.unknown", vehicle_id=vehicle_id)
    if vehicle.is_retired:
        raise Refused("vehicle.retired", vehicle_id=vehicle_id)
