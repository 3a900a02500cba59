"""Prohibitions: what is closed to which vehicles and loads, and why it applies to one, in words."""

from __future__ import annotations

from typing import Annotated, Protocol, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from domain.loads import Goods, HazardClasses, TunnelCategory, closed_to, same_class
from domain.values import Value, is_stored
from domain.vehicle_kinds import (
    EMISSION_CLASSES,
    MOST_GROSS_G,
    EmissionClass,
    Fuel,
    VehicleClass,
)

#: What a class of vehicles weighs at the most; an e-bike with its load is not told of by any law,
#: but never comes near what zones are closed to.
_MOST_GROSS_G = MOST_GROSS_G | {"e-bike": 500_000}


def each_once(values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Refuse names of which one stands twice."""
    if len(set(values)) < len(values) and not is_stored(info):
        raise ValueError(f"each is named once, got {', '.join(values)}")
    return values


class Prohibition(Value):
    """What a rule forbids: vehicles and loads to which all that is named here applies. What any of
    several things shall forbid is several rules.

    ``emission_below``: vehicles of a dirtier class. ``gross_weight_above_g``: permissible weight of
    the loaded vehicle. ``hazard_classes``: loads that hold goods of one of them; class 1 holds 1.4.
    ``tunnel_category``: loads that ADR 8.6.4 keeps out of tunnels of this category.
    """

    vehicle_classes: Annotated[
        tuple[VehicleClass, ...], Field(max_length=8), AfterValidator(each_once)
    ] = ()
    fuels: Annotated[tuple[Fuel, ...], Field(max_length=10), AfterValidator(each_once)] = ()
    emission_below: EmissionClass | None = None
    gross_weight_above_g: Annotated[int, Field(ge=0, le=10**9)] | None = None
    hazard_classes: HazardClasses = ()
    tunnel_category: TunnelCategory | None = None

    @model_validator(mode="after")
    def _names_something(self, info: ValidationInfo) -> Self:
        named = any(value not in ((), None) for value in self.__dict__.values())
        if not named and not is_stored(info):
            raise ValueError(f"forbids: must name one of {', '.join(type(self).model_fields)}")
        return self


class Driven(Protocol):
    """What rules of the road ask of a vehicle (a state, or a row of a read model); None: not
    known."""

    @property
    def vehicle_id(self) -> str:
        """Its id."""

    @property
    def mode(self) -> str:
        """How it moves: `van`, `truck`, ..."""

    @property
    def vehicle_class(self) -> str | None:
        """Class of R.E.3."""

    @property
    def fuel(self) -> str | None:
        """What it runs on."""

    @property
    def emission_class(self) -> str | None:
        """Euro class, or `zero`."""

    @property
    def gross_weight_g(self) -> int | None:
        """Permissible weight when loaded, in grams."""


def reasons_against(forbids: Prohibition, vehicle: Driven, goods: Goods) -> list[str] | None:
    """Why a prohibition applies, in words; None where one of the things that it names does not."""
    found: list[str] = []
    for reason in (
        _of_class(forbids, vehicle),
        _of_fuel(forbids, vehicle),
        _of_emission(forbids, vehicle),
        _of_weight(forbids, vehicle),
        _of_hazards(forbids, goods),
        _of_tunnel(forbids, goods),
    ):
        if reason is None:
            return None
        found += [reason] if reason else []
    return found


# Each of these: words where what is named applies, none where nothing is named, None where it does
# not apply.


def _of_class(forbids: Prohibition, vehicle: Driven) -> str | None:
    if not forbids.vehicle_classes:
        return ""
    kind = _class_of(vehicle)
    named = ", ".join(forbids.vehicle_classes)
    if kind is None:
        return f"its class is not known, and closed to {named}"
    return f"class {kind} is forbidden" if kind in forbids.vehicle_classes else None


def _of_fuel(forbids: Prohibition, vehicle: Driven) -> str | None:
    if not forbids.fuels:
        return ""
    if vehicle.fuel is None and _class_of(vehicle) != "e-bike":
        return f"its fuel is not known, and {', '.join(forbids.fuels)} is forbidden"
    return f"fuel {vehicle.fuel} is forbidden" if vehicle.fuel in forbids.fuels else None


def _of_emission(forbids: Prohibition, vehicle: Driven) -> str | None:
    least = forbids.emission_below
    if least is None:
        return ""
    emission = "zero" if _class_of(vehicle) == "e-bike" else vehicle.emission_class
    if emission is None:
        return f"its emission class is not known, and below {least} it is forbidden"
    below = EMISSION_CLASSES.index(emission) < EMISSION_CLASSES.index(least)
    return f"emission class {emission} is below {least}" if below else None


def _of_weight(forbids: Prohibition, vehicle: Driven) -> str | None:
    most = forbids.gross_weight_above_g
    if most is None:
        return ""
    gross = vehicle.gross_weight_g
    if gross is None:
        # A class that must not weigh more than that says enough.
        of_class = _MOST_GROSS_G.get(_class_of(vehicle) or "")
        if of_class is not None and of_class <= most:
            return None
        return f"its permissible weight is not known, and above {most / 1000:,.0f} kg is forbidden"
    if gross <= most:
        return None
    return f"permissible weight {gross / 1000:,.0f} kg is above {most / 1000:,.0f} kg"


def _of_hazards(forbids: Prohibition, goods: Goods) -> str | None:
    if not forbids.hazard_classes:
        return ""
    met = [
        one
        for one in goods.hazard_classes
        if any(same_class(one, other) for other in forbids.hazard_classes)
    ]
    return f"goods of hazard class {', '.join(met)} are forbidden" if met else None


def _of_tunnel(forbids: Prohibition, goods: Goods) -> str | None:
    if forbids.tunnel_category is None:
        return ""
    codes = closed_to(forbids.tunnel_category, goods)
    if not codes:
        return None
    named = ", ".join(codes)
    return f"goods of tunnel code {named} are closed out of category {forbids.tunnel_category}"


def _class_of(vehicle: Driven) -> str | None:
    """A cargo bike of which no class is told is one without a number plate."""
    if vehicle.vehicle_class is None and vehicle.mode == "cargo_bike":
        return "e-bike"
    return vehicle.vehicle_class
