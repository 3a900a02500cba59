"""A routing problem and its solution as values: what has to go where, by what, and how it goes.

Lengths are whole metres, times whole seconds behind the problem's ``origin``, weights grams,
volumes cubic centimetres, money minor units. All are integers, so that a problem has one JSON text,
that text one SHA-256, and a solver the same numbers on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from domain.places import Point
from domain.values import Value

#: The most stops of one problem: its matrices grow with the square.
MOST_STOPS = 1000
#: What no length, time or amount of a problem may exceed: sums of them fit into 64 bits.
MOST = 10**12

_Count = Annotated[int, Field(ge=0, le=MOST)]


class Constraint(StrEnum):
    """Which constraint keeps an order off every tour."""

    WEIGHT = "tour.too_heavy"
    VOLUME = "tour.too_voluminous"
    WINDOW = "tour.window_closed_before_arrival"
    SHIFT = "tour.window_outside_shift"
    DISTANCE = "tour.too_far"
    LEGAL = "tour.no_vehicle_allowed"
    NO_VEHICLE = "tour.no_vehicle"
    NO_PLACE = "tour.place_unknown"
    NO_WEIGHT = "tour.weight_unknown"
    CLOSED = "tour.closed_that_day"
    ANOTHER_DAY = "tour.window_on_another_day"
    TOTAL_WEIGHT = "tour.weight_of_all_above_capacity"
    TOTAL_VOLUME = "tour.volume_of_all_above_capacity"
    WINDOWS_TOGETHER = "tour.windows_together"
    CAPACITY_TOGETHER = "tour.capacity_together"
    VEHICLES_TOGETHER = "tour.too_few_vehicles"
    TIME_TOGETHER = "tour.shift_too_short"
    TOGETHER = "tour.constraints_together"
    ON_A_TOUR = "tour.order_on_another_tour"
    NOT_READY = "tour.order_not_ready"


class Span(Value):
    """From when to when something may begin, both included."""

    from_s: _Count
    to_s: _Count

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.to_s < self.from_s:
            raise ValueError(f"to_s: {self.to_s} lies before from_s, {self.from_s}")
        return self


class Rates(Value):
    """What a vehicle costs, in minor units of the problem's currency: for each tour, kilometre,
    hour on the way, and stop; ``toll_per_km_minor`` comes on top of the kilometre."""

    fixed_minor: _Count = 0
    per_km_minor: _Count = 0
    per_hour_minor: _Count = 0
    per_stop_minor: _Count = 0
    toll_per_km_minor: _Count = 0


class Emission(Value):
    """What a vehicle emits well to wheel in milligrams of CO2e a kilometre, empty and fully loaded;
    in between it grows with the load. Milligrams keep the sums whole."""

    empty_mg_per_km: _Count
    full_mg_per_km: _Count


class RoutedVehicle(Value):
    """A vehicle that may take one tour.

    ``profile``: which of the problem's matrices it drives by. ``from_s``, ``to_s``: between which
    it leaves the depot and is back. None: not limited. ``may_not_serve``: orders that legal-route
    rules keep from it.
    """

    vehicle_id: str
    profile: Annotated[int, Field(ge=0)] = 0
    max_weight_g: _Count | None = None
    max_volume_cm3: _Count | None = None
    from_s: _Count = 0
    to_s: _Count
    max_duration_s: _Count | None = None
    max_distance_m: _Count | None = None
    rates: Rates = Rates()
    emission: Emission | None = None
    may_not_serve: tuple[str, ...] = ()


class RoutedStop(Value):
    """An order that is to be brought somewhere. ``windows``: when its service may begin, one of
    them; none: at any time. ``forbidden``: why, where rules keep vehicles from it."""

    order_id: str
    point: Point | None = None
    weight_g: _Count = 0
    volume_cm3: _Count = 0
    service_s: _Count = 0
    windows: tuple[Span, ...] = ()
    forbidden: tuple[str, ...] = ()


class Profile(Value):
    """How far and how long it is between places for vehicles of one mode; place 0 is the depot,
    place n the n-th stop. ``estimate``: what the numbers come from."""

    mode: str
    estimate: str
    distance_m: tuple[tuple[_Count, ...], ...]
    duration_s: tuple[tuple[_Count, ...], ...]


class Unserved(Value):
    """An order that no tour takes, and which constraint keeps it off."""

    order_id: str
    code: str
    sentence: str
    values: dict[str, int | float | str]


class Problem(Value):
    """What has to go where from one depot, by which vehicles; ``without``: orders of which it is
    clear before anything is reckoned that they cannot be brought."""

    site_id: str
    origin: datetime
    depot: Point | None = None
    currency: str | None = None
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)]
    vehicles: tuple[RoutedVehicle, ...]
    without: tuple[Unserved, ...] = ()
    stops: Annotated[tuple[RoutedStop, ...], Field(max_length=MOST_STOPS)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        places = len(self.stops) + 1
        for profile in self.profiles:
            for name in ("distance_m", "duration_s"):
                matrix = getattr(profile, name)
                if len(matrix) != places or any(len(row) != places for row in matrix):
                    raise ValueError(f"profiles: {name} must be {places} by {places}")
        for what, ids in (
            ("stops", [stop.order_id for stop in self.stops]),
            ("vehicles", [vehicle.vehicle_id for vehicle in self.vehicles]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{what}: each id once")
        for vehicle in self.vehicles:
            if vehicle.profile >= len(self.profiles):
                raise ValueError(f"vehicles: {vehicle.vehicle_id} has a profile that is not there")
            if vehicle.to_s < vehicle.from_s:
                raise ValueError(f"vehicles: {vehicle.vehicle_id} ends before it starts")
        return self


class Visit(Value):
    """A stop of a tour: when the vehicle comes, when service begins (it may have to wait) and ends,
    and how far it was from the place before."""

    order_id: str
    arrives_s: int
    begins_s: int
    leaves_s: int
    distance_m: int
    travel_s: int


class Route(Value):
    """One vehicle's tour; ``back_distance_m``: from the last stop to the depot."""

    vehicle_id: str
    starts_s: int
    ends_s: int
    distance_m: int
    travel_s: int
    waiting_s: int
    service_s: int
    weight_g: int
    volume_cm3: int
    back_distance_m: int
    back_travel_s: int
    visits: tuple[Visit, ...]


class Solution(Value):
    """The tours, and what they leave behind. ``objective``: what the solver made small, in 1/18000
    of a minor unit: then metres and seconds have whole prices."""

    routes: tuple[Route, ...]
    unserved: tuple[Unserved, ...]
    objective: int
    solver: str
    solver_version: str
    iterations: int
    seed: int

    @property
    def distance_m(self) -> int:
        """Of all tours."""
        return sum(route.distance_m for route in self.routes)


def canonical(value: Value) -> bytes:
    """A value as JSON in one way only: keys sorted, no spaces, UTF-8."""
    return canonical_json(value.model_dump(mode="json"))


def canonical_json(plain: Any) -> bytes:
    """The same of what is JSON already."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def hash_of(value: Value) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def moment(problem_origin: datetime, seconds: int) -> datetime:
    """The time of a problem's second."""
    return problem_origin + timedelta(seconds=seconds)


def rectangle(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Rows as a matrix of a profile."""
    return tuple(tuple(int(value) for value in row) for row in rows)
