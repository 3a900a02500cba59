"""What kinds of vehicles there are: their class, engine, capacities and rates, and what of it goes
together.

Classes: UNECE Consolidated Resolution R.E.3, in the EU Regulations 2018/858 (M, N) and 168/2013
(L). Emission classes: Euro 1 to 6 of light, Euro I to VI of heavy vehicles under one number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field

from domain.loads import HazardClasses
from domain.values import Currency, Minor, Value

Mode = Literal["cargo_bike", "van", "truck", "rail", "ship", "plane"]
#: What rules of the road are about.
ON_THE_ROAD = frozenset({"cargo_bike", "van", "truck"})

#: "e-bike": pedals with help up to 25 km/h and 250 W, which is not of any class of R.E.3.
VehicleClass = Literal["e-bike", "L", "M1", "M2", "M3", "N1", "N2", "N3"]
#: From the dirtiest to the cleanest.
EmissionClass = Literal["euro0", "euro1", "euro2", "euro3", "euro4", "euro5", "euro6", "zero"]
EMISSION_CLASSES: tuple[str, ...] = get_args(EmissionClass)
#: "none": muscles. "hvo": hydrotreated vegetable oil.
Fuel = Literal[
    "diesel", "petrol", "lpg", "cng", "lng", "hvo", "hybrid", "electric", "hydrogen", "none"
]  # fmt: skip
#: Fuels that emit nothing where the vehicle drives.
CLEAN_FUELS = frozenset({"electric", "hydrogen", "none"})

_CLASSES: dict[str, tuple[str, ...]] = {
    "cargo_bike": ("e-bike", "L"),
    "van": ("L", "M1", "N1", "N2"),
    "truck": ("N1", "N2", "N3"),
}
#: The most that vehicles of a class may weigh when loaded, in grams (R.E.3: 2.2, 2.3).
MOST_GROSS_G: dict[str, int] = {
    "M2": 5_000_000,
    "N1": 3_500_000,
    "N2": 12_000_000,
}


def _is_none(value: object) -> bool:
    return value is None


# Left out of JSON where they are not told: vehicles that were registered before there were such
# fields have the bytes that they always had.
_Optional = Field(default=None, exclude_if=_is_none)


class Build(Value):
    """What may be told of a vehicle beside what every vehicle has; None: not known.

    ``gross_weight_g``: the permissible weight of the loaded vehicle, which rules of the road mean.
    ``hazard_permits``: classes of ADR that it may carry. Rates are in minor units of ``currency``.
    """

    max_volume_cm3: Annotated[int, Field(gt=0, le=10**12)] | None = _Optional
    gross_weight_g: Annotated[int, Field(gt=0, le=10**9)] | None = _Optional
    vehicle_class: VehicleClass | None = _Optional
    emission_class: EmissionClass | None = _Optional
    fuel: Fuel | None = _Optional
    hazard_permits: HazardClasses | None = _Optional
    cost_per_km_minor: Minor | None = _Optional
    cost_per_hour_minor: Minor | None = _Optional
    fixed_cost_minor: Minor | None = _Optional
    currency: Currency | None = _Optional


class Built(Value):
    """The same as events tell it: read without rules, which may be stricter by then."""

    max_volume_cm3: int | None = _Optional
    gross_weight_g: int | None = _Optional
    vehicle_class: str | None = _Optional
    emission_class: str | None = _Optional
    fuel: str | None = _Optional
    hazard_permits: tuple[str, ...] | None = _Optional
    cost_per_km_minor: int | None = _Optional
    cost_per_hour_minor: int | None = _Optional
    fixed_cost_minor: int | None = _Optional
    currency: str | None = _Optional


class Contradiction(NamedTuple):
    """A field that does not go together with others, and why."""

    field: str
    rule: str


def contradictions(vehicle: Any) -> Contradiction | None:
    """The first thing said of a vehicle (a command or a state) that cannot be with what else is
    said; None where everything fits."""
    kind, gross = vehicle.vehicle_class, vehicle.gross_weight_g
    classes = _CLASSES.get(vehicle.mode, ())
    if kind is not None and kind not in classes:
        allowed = f"of class {', '.join(classes)}" if classes else "of no class of road vehicles"
        return Contradiction("vehicle_class", f"a {vehicle.mode} is {allowed}, got {kind}")
    if gross is not None and vehicle.max_weight_g is not None and vehicle.max_weight_g >= gross:
        return Contradiction(
            "max_weight_g",
            f"the load, {vehicle.max_weight_g} g, must be less than the permissible weight of the "
            f"loaded vehicle, gross_weight_g {gross}",
        )
    most = MOST_GROSS_G.get(kind or "")
    for field in ("gross_weight_g", "max_weight_g"):
        weight = getattr(vehicle, field)
        if most is not None and weight is not None and weight > most:
            rule = f"class {kind} weighs {most} g at the most when loaded, got {weight}"
            return Contradiction(field, rule)
    if kind == "N3" and gross is not None and gross <= MOST_GROSS_G["N2"]:
        return Contradiction("gross_weight_g", f"class N3 weighs above 12000000 g, got {gross}")
    if kind == "N2" and gross is not None and gross <= MOST_GROSS_G["N1"]:
        return Contradiction("gross_weight_g", f"class N2 weighs above 3500000 g, got {gross}")
    return _engine(vehicle) or _rates(vehicle)


def _engine(vehicle: Any) -> Contradiction | None:
    if None in (vehicle.fuel, vehicle.emission_class):
        return None
    if (vehicle.fuel in CLEAN_FUELS) != (vehicle.emission_class == "zero"):
        rule = f"{vehicle.fuel} does not go together with {vehicle.emission_class}"
        return Contradiction("emission_class", rule)
    return None


def _rates(vehicle: Any) -> Contradiction | None:
    rates = ("cost_per_km_minor", "cost_per_hour_minor", "fixed_cost_minor")
    told = [name for name in rates if getattr(vehicle, name) is not None]
    if told and vehicle.currency is None:
        return Contradiction("currency", f"is needed beside {told[0]}")
    return None
