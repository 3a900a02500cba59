"""A routing problem as pyvrp takes it, and what a tour costs there.

Its prices are integers. A metre costs ``18 * per_km_minor`` and a second ``5 * per_hour_minor``:
the objective counts in 1/18000 of a minor unit, 18000 being the least number that 1000 and 3600
divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyvrp import Client, ClientGroup, Depot, Location, ProblemData, VehicleType

from domain.routing import Problem, Route, RoutedStop, RoutedVehicle

#: Parts of a minor unit that the objective counts in.
UNIT = 18_000
_PER_METRE, _PER_SECOND = UNIT // 1000, UNIT // 3600
_USUAL_PENALTY = 100_000.0
#: Stands for "not limited": beyond every sum of a problem.
_ENDLESS = 2**50


@dataclass(frozen=True, slots=True)
class SolverData:
    """What the solver is asked. ``stops``: the place in the problem of each of its clients (a stop
    with several windows has several clients, of which one is visited); ``vehicles``: those of each
    of its vehicle types; ``most_penalty``: for a gram, second or metre beyond a limit."""

    data: ProblemData
    stops: tuple[int, ...]
    vehicles: tuple[tuple[RoutedVehicle, ...], ...]
    most_penalty: float


def data_of(problem: Problem, stops: Sequence[RoutedStop], *, eager: bool) -> SolverData:
    """Some stops of a problem and all its vehicles, as the solver takes them.

    No stop must be visited; each has a prize. The search is better at that than at visiting what
    must be visited (benchmarks/routing.py).

    Args:
        eager: prizes are so high that the search goes through plans that break limits to take all
            stops, which leads to better tours where all can be taken. Otherwise they are just
            higher than what a vehicle's whole day costs, and no limit is worth breaking for one:
            as many as possible are taken.
    """
    place = {stop.order_id: number for number, stop in enumerate(problem.stops, start=1)}
    rows = [0, *(place[stop.order_id] for stop in stops)]
    dimensions = [
        (demand, limit)
        for demand, limit in (("weight_g", "max_weight_g"), ("volume_cm3", "max_volume_cm3"))
        if any(getattr(vehicle, limit) is not None for vehicle in problem.vehicles)
        and any(getattr(stop, demand) for stop in stops)
    ]
    prize = _prize(problem) * (len(stops) if eager else 1)
    clients: list[Client] = []
    owners: list[int] = []
    groups: list[ClientGroup] = []
    for number, stop in enumerate(stops, start=1):
        demands = [getattr(stop, demand) for demand, _ in dimensions]
        windows = [(span.from_s, span.to_s) for span in stop.windows] or [(0, _ENDLESS)]
        group = None
        if len(windows) > 1:
            group = len(groups)
            first = len(clients)
            its = [*range(first, first + len(windows))]
            groups.append(ClientGroup(its, required=False))
        for early, late in windows:
            owners.append(rows[number] - 1)
            clients.append(
                Client(
                    number,
                    delivery=demands,
                    service_duration=stop.service_s,
                    tw_early=early,
                    tw_late=late,
                    prize=prize,
                    required=False,
                    group=group,
                )
            )
    kinds = _kinds(problem.vehicles)
    pairs = list(dict.fromkeys((kind[0].profile, kind[0].may_not_serve) for kind in kinds))
    distances: list[Any] = []  # numpy arrays: the solver's stubs name them wrongly
    durations: list[Any] = []
    index = np.ix_(rows, rows)
    for profile, kept_off in pairs:
        distances.append(np.array(problem.profiles[profile].distance_m, dtype=np.int64)[index])
        duration = np.array(problem.profiles[profile].duration_s, dtype=np.int64)[index]
        # A rule is told as a way that takes longer than any shift: pyvrp has no other word for it.
        never = 2 * max((vehicle.to_s for vehicle in problem.vehicles), default=0) + 1
        closed = [n for n, stop in enumerate(stops, start=1) if stop.order_id in set(kept_off)]
        duration[:, closed] = never
        duration[closed, closed] = 0
        durations.append(duration)
    types = [_type(kind, pairs, dimensions) for kind in kinds]
    data = ProblemData(
        locations=[Location(0, 0) for _ in rows],
        clients=clients,
        depots=[Depot(0)],
        vehicle_types=types,
        distance_matrices=distances,
        duration_matrices=durations,
        groups=groups,
    )
    return SolverData(data, tuple(owners), kinds, _penalty(problem, stops, prize, eager))


def price_of(problem: Problem, route: Route) -> int:
    """What the solver counts for a tour, in 1/18000 of a minor unit."""
    rates = next(one for one in problem.vehicles if one.vehicle_id == route.vehicle_id).rates
    return (
        UNIT * rates.fixed_minor
        + _PER_METRE * (rates.per_km_minor + rates.toll_per_km_minor) * route.distance_m
        + _PER_SECOND * rates.per_hour_minor * (route.ends_s - route.starts_s)
    )


def _kinds(vehicles: Sequence[RoutedVehicle]) -> tuple[tuple[RoutedVehicle, ...], ...]:
    """Vehicles that are alike but for their ids: the search need not tell them apart."""
    found: dict[RoutedVehicle, list[RoutedVehicle]] = {}
    for vehicle in vehicles:
        found.setdefault(vehicle.model_copy(update={"vehicle_id": ""}), []).append(vehicle)
    return tuple(tuple(alike) for alike in found.values())


def _type(
    kind: Sequence[RoutedVehicle],
    pairs: Sequence[tuple[int, tuple[str, ...]]],
    dimensions: Sequence[tuple[str, str]],
) -> VehicleType:
    one = kind[0]
    limits = [getattr(one, limit) for _, limit in dimensions]
    return VehicleType(
        num_available=len(kind),
        capacity=[_ENDLESS if limit is None else limit for limit in limits],
        fixed_cost=UNIT * one.rates.fixed_minor,
        tw_early=one.from_s,
        tw_late=one.to_s,
        shift_duration=_ENDLESS if one.max_duration_s is None else one.max_duration_s,
        max_distance=_ENDLESS if one.max_distance_m is None else one.max_distance_m,
        unit_distance_cost=_PER_METRE * (one.rates.per_km_minor + one.rates.toll_per_km_minor),
        unit_duration_cost=_PER_SECOND * one.rates.per_hour_minor,
        profile=pairs.index((one.profile, one.may_not_serve)),
    )


def _prize(problem: Problem) -> int:
    """More than a vehicle's whole day costs, whichever it is."""
    longest = max(max(map(max, profile.distance_m)) for profile in problem.profiles)
    return 1 + max(
        UNIT * one.rates.fixed_minor
        + _PER_METRE * (one.rates.per_km_minor + one.rates.toll_per_km_minor) * 2 * longest
        + _PER_SECOND * one.rates.per_hour_minor * (one.to_s - one.from_s)
        for one in problem.vehicles
    )


def _penalty(problem: Problem, stops: Sequence[RoutedStop], prize: int, eager: bool) -> float:
    """The highest penalty for a unit beyond a limit.

    No less than pyvrp's own (100 000). Where stops have prizes, one unit costs more than the prize:
    else the search would rather overload a van than leave an order behind. All units together stay
    below 64 bits.
    """
    units = (
        sum(stop.weight_g + stop.volume_cm3 for stop in stops)
        + len(stops) * max(one.to_s for one in problem.vehicles)
        + 1
    )
    return float(max(_USUAL_PENALTY, min(3 * prize, 2**60 // units)))
