"""Transport: the vehicles that sites send orders with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.loads import Goods
from domain.sites import Site, must_be_open, must_offer
from domain.values import Command, Event, Id, Text, UtcTime
from domain.vehicle_kinds import Build, Built, Mode, contradictions

# values and commands


def _are_unique(levels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(levels)) != len(levels):
        raise ValueError(f"service_levels: must be unique, got {list(levels)}")
    return levels


ServiceLevels = Annotated[
    tuple[Id, ...], Field(min_length=1, max_length=20), AfterValidator(_are_unique)
]
Capacity = Annotated[int, Field(gt=0, le=10**9)]
Surcharge = Annotated[int, Field(ge=-(10**12), le=10**12)]
Carbon = Annotated[int, Field(ge=-(10**9), le=10**9)]


class RegisterVehicle(Build, Command):
    """Put a vehicle at a site's disposal, for some of its service levels.

    ``cost_minor`` and ``carbon_g`` are added to those of the service level, order by order; below
    zero they save. ``daily_capacity``: orders a day; None: not limited or not known.
    ``max_weight_g``, ``max_volume_cm3``: what it may be loaded with.
    """

    vehicle_id: Id
    site_id: Id
    mode: Mode
    service_levels: ServiceLevels
    max_weight_g: Capacity | None = None
    daily_capacity: Capacity | None = None
    cost_minor: Surcharge = 0
    carbon_g: Carbon = 0
    registered_at: UtcTime | None

    @model_validator(mode="after")
    def _build_makes_sense(self) -> Self:
        wrong = contradictions(self)
        if wrong is not None:
            raise ValueError(f"{wrong.field}: {wrong.rule}")
        return self


class ChangeVehicle(Build, Command):
    """Tell what is otherwise than was said of a vehicle; what is left out stays as it is. Its site
    and its service levels are changed by moving it."""

    vehicle_id: Id
    mode: Mode | None = None
    max_weight_g: Capacity | None = None
    daily_capacity: Capacity | None = None
    cost_minor: Surcharge | None = None
    carbon_g: Carbon | None = None
    changed_at: UtcTime


class MoveVehicle(Command):
    """Put a vehicle at another site's disposal, or at its own for other service levels.
    ``service_levels`` None: those that it is for already."""

    vehicle_id: Id
    site_id: Id
    service_levels: ServiceLevels | None = None
    moved_at: UtcTime


class ReinstateVehicle(Command):
    """Take a retired vehicle into use again, at the site that it was of."""

    vehicle_id: Id
    site_id: Id
    reason: Text
    reinstated_at: UtcTime


class RetireVehicle(Command):
    """Take a vehicle out of use, until it is reinstated."""

    vehicle_id: Id
    reason: Text
    retired_at: UtcTime | None


# events


class VehicleRegistered(Built, Event):
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


class VehicleChanged(Built, Event):
    """A vehicle is otherwise than was said: all that may be changed, as it is now; ``changed``
    names what was."""

    vehicle_id: str
    site_id: str
    mode: str
    max_weight_g: int | None
    daily_capacity: int | None
    cost_minor: int
    carbon_g: int
    changed: str
    changed_at: datetime


class VehicleMoved(Built, Event):
    """A vehicle is at another site's disposal, or for other service levels. All that is known of
    it is told again: who looks at the new site alone finds it."""

    vehicle_id: str
    site_id: str
    from_site_id: str
    mode: str
    service_levels: tuple[str, ...]
    max_weight_g: int | None
    daily_capacity: int | None
    cost_minor: int
    carbon_g: int
    moved_at: datetime


class VehicleReinstated(Event):
    """A retired vehicle is in use again."""

    vehicle_id: str
    site_id: str
    reason: str
    reinstated_at: datetime


class VehicleRetired(Event):
    """A vehicle was taken out of use."""

    vehicle_id: str
    site_id: str
    reason: str
    retired_at: datetime | None


EVENTS = (
    VehicleRegistered,
    VehicleChanged,
    VehicleMoved,
    VehicleRetired,
    VehicleReinstated,
)

#: The stream that an event belongs to, by its fields.
VEHICLE_STREAM = "vehicles/{vehicle_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, VEHICLE_STREAM)

SENTENCES: dict[type[Event], str] = {
    VehicleRegistered: "Vehicle {vehicle_id} ({mode}) was registered at site {site_id}",
    VehicleChanged: "Vehicle {vehicle_id} of site {site_id} was changed: {changed}",
    VehicleMoved: "Vehicle {vehicle_id} was moved from site {from_site_id} to site {site_id}",
    VehicleRetired: "Vehicle {vehicle_id} of site {site_id} was retired: {reason}",
    VehicleReinstated: "Vehicle {vehicle_id} of site {site_id} is in use again: {reason}",
}

# state


@dataclass(frozen=True, slots=True)
class Vehicle:
    """What is known of a vehicle; None: not known, or not limited."""

    vehicle_id: str = ""
    site_id: str = ""
    service_levels: frozenset[str] = frozenset()
    is_retired: bool = False
    mode: str = ""
    max_weight_g: int | None = None
    daily_capacity: int | None = None
    cost_minor: int = 0
    carbon_g: int = 0
    max_volume_cm3: int | None = None
    gross_weight_g: int | None = None
    vehicle_class: str | None = None
    emission_class: str | None = None
    fuel: str | None = None
    hazard_permits: tuple[str, ...] | None = None
    cost_per_km_minor: int | None = None
    cost_per_hour_minor: int | None = None
    fixed_cost_minor: int | None = None
    currency: str | None = None


#: What a change may tell.
_CHANGEABLE = (
    *("mode", "max_weight_g", "daily_capacity", "cost_minor", "carbon_g"),
    *Build.model_fields,
)


def evolve_vehicle(vehicle: Vehicle, event: Event) -> Vehicle:
    """The vehicle after one more of its events."""
    match event:
        case VehicleRegistered():
            return Vehicle(
                vehicle_id=event.vehicle_id,
                site_id=event.site_id,
                service_levels=frozenset(event.service_levels),
                **_told(event),
            )
        case VehicleChanged():
            return replace(vehicle, **_told(event))
        case VehicleMoved():
            levels = frozenset(event.service_levels)
            return replace(vehicle, site_id=event.site_id, service_levels=levels, **_told(event))
        case VehicleRetired():
            return replace(vehicle, is_retired=True)
        case VehicleReinstated():
            return replace(vehicle, is_retired=False)
    return vehicle


def _told(of: object) -> dict[str, Any]:
    return {name: getattr(of, name) for name in _CHANGEABLE}


VEHICLES = Decider(initial=Vehicle(), evolve=evolve_vehicle)

# decisions


def register(vehicle: Vehicle, command: RegisterVehicle, site: Site) -> Sequence[Event]:
    """Register a vehicle that does not exist yet, for levels that its open site offers."""
    if vehicle.vehicle_id:
        raise Refused(
            "vehicle.already_registered", vehicle_id=vehicle.vehicle_id, site_id=vehicle.site_id
        )
    _must_suit(site, command.site_id, command.service_levels)
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
            **{name: getattr(command, name) for name in Build.model_fields},
        )
    ]


def change_vehicle(vehicle: Vehicle, command: ChangeVehicle) -> Sequence[Event]:
    """Change what is known of a vehicle in use; nothing where all of it is said already. What is
    told has to fit what stays."""
    must_be_in_use(vehicle, command.vehicle_id)
    told = {name: value for name, value in _told(command).items() if value is not None}
    changed = replace(vehicle, **told)
    names = [name for name in told if getattr(changed, name) != getattr(vehicle, name)]
    if not names:
        return []
    wrong = contradictions(changed)
    if wrong is not None:
        raise Refused(
            "vehicle.contradicts_itself",
            vehicle_id=vehicle.vehicle_id,
            field=wrong.field,
            rule=wrong.rule,
        )
    return [
        VehicleChanged(
            vehicle_id=vehicle.vehicle_id,
            site_id=vehicle.site_id,
            changed=", ".join(names),
            changed_at=command.changed_at,
            **_told(changed),
        )
    ]


def move(vehicle: Vehicle, command: MoveVehicle, site: Site) -> Sequence[Event]:
    """Move a vehicle in use to an open site that offers its service levels; nothing where it is
    there already, for the same ones."""
    must_be_in_use(vehicle, command.vehicle_id)
    levels = tuple(command.service_levels or sorted(vehicle.service_levels))
    if (command.site_id, frozenset(levels)) == (vehicle.site_id, vehicle.service_levels):
        return []
    _must_suit(site, command.site_id, levels)
    return [
        VehicleMoved(
            vehicle_id=vehicle.vehicle_id,
            site_id=command.site_id,
            from_site_id=vehicle.site_id,
            service_levels=levels,
            moved_at=command.moved_at,
            **_told(vehicle),
        )
    ]


def reinstate(vehicle: Vehicle, command: ReinstateVehicle, site: Site) -> Sequence[Event]:
    """Undo a retirement; the site has to be open by now."""
    if not vehicle.vehicle_id:
        raise Refused("vehicle.unknown", vehicle_id=command.vehicle_id)
    if not vehicle.is_retired:
        raise Refused("vehicle.not_retired", vehicle_id=vehicle.vehicle_id)
    _must_be_at(vehicle, command.site_id)
    _must_suit(site, command.site_id, sorted(vehicle.service_levels))
    return [
        VehicleReinstated(
            vehicle_id=vehicle.vehicle_id,
            site_id=vehicle.site_id,
            reason=command.reason,
            reinstated_at=command.reinstated_at,
        )
    ]


def retire(vehicle: Vehicle, command: RetireVehicle) -> Sequence[Event]:
    """Take a vehicle out of use; its site may be closed by then."""
    must_be_in_use(vehicle, command.vehicle_id)
    return [
        VehicleRetired(
            vehicle_id=command.vehicle_id,
            site_id=vehicle.site_id,
            reason=command.reason,
            retired_at=command.retired_at,
        )
    ]


def must_serve(vehicle: Vehicle, vehicle_id: str, site_id: str, service_level: str) -> None:
    """Refuse a vehicle that cannot leave this site for this service level."""
    must_be_in_use(vehicle, vehicle_id)
    _must_be_at(vehicle, site_id)
    if service_level not in vehicle.service_levels:
        raise Refused(
            "vehicle.does_not_serve",
            vehicle_id=vehicle_id,
            service_level=service_level,
            serves=", ".join(sorted(vehicle.service_levels)),
        )


def must_carry(vehicle: Vehicle, goods: Goods) -> None:
    """Refuse goods that are too much for a vehicle or too dangerous; what is not known of either
    does not stand against it, but for permits: without any a vehicle carries no dangerous goods."""
    must_hold(vehicle, goods.weight_g, goods.volume_cm3)
    permits = vehicle.hazard_permits or ()
    for one in goods.hazard_classes:
        if not any(one == permit or one.startswith(f"{permit}.") for permit in permits):
            raise Refused(
                "vehicle.not_permitted_to_carry",
                vehicle_id=vehicle.vehicle_id,
                hazard_class=one,
                permits=", ".join(permits) or "none",
            )


def must_hold(vehicle: Vehicle, weight_g: int | None, volume_cm3: int | None) -> None:
    """Refuse a load that is too heavy or too large for a vehicle; what is not known of either does
    not stand against it."""
    for field, load, most in (
        ("weight_g", weight_g, vehicle.max_weight_g),
        ("volume_cm3", volume_cm3, vehicle.max_volume_cm3),
    ):
        if load is not None and most is not None and load > most:
            raise Refused(
                "vehicle.overloaded",
                vehicle_id=vehicle.vehicle_id,
                field=field,
                load=load,
                most=most,
            )


def must_be_in_use(vehicle: Vehicle, vehicle_id: str) -> None:
    """Refuse what needs a vehicle that is known and was not retired."""
    if not vehicle.vehicle_id:
        raise Refused("vehicle.unknown", vehicle_id=vehicle_id)
    if vehicle.is_retired:
        raise Refused("vehicle.retired", vehicle_id=vehicle_id)


def _must_be_at(vehicle: Vehicle, site_id: str) -> None:
    if vehicle.site_id != site_id:
        raise Refused(
            "vehicle.at_another_site",
            vehicle_id=vehicle.vehicle_id,
            site_id=vehicle.site_id,
            asked=site_id,
        )


def _must_suit(site: Site, site_id: str, service_levels: Sequence[str]) -> None:
    must_be_open(site, site_id)
    for service_level in service_levels:
        must_offer(site, service_level)
