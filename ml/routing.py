"""Tours by pyvrp: one problem, one number of iterations and one seed give one solution.

pyvrp (Wouda, Lan & Kool, "PyVRP: a high-performance VRP solver package", INFORMS Journal on
Computing 36(4), 2024) searches by iterated local search. It is stopped by a number of iterations,
never by a clock: a solution can be made again, on any machine, by the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from warnings import filterwarnings

import pyvrp
from pyvrp.exceptions import PenaltyBoundWarning
from pyvrp.stop import MaxIterations

from domain.routing import Problem, Route, RoutedStop, RoutedVehicle, Solution, Unserved, Visit
from ml.feasibility import alone, together
from ml.solver_data import data_of, price_of

# It warns that a search finds nothing feasible; we look, and tell which constraint it is.
filterwarnings("ignore", category=PenaltyBoundWarning)

SOLVER = "pyvrp"
#: Progress is told after so many iterations.
_TELL = 50
#: So many iterations are enough to see whether one more order can be taken.
_SHORT = 500

#: Called with the iterations that are done, of how many. May raise, which ends the search.
Progress = Callable[[int, int], None]


def solver_version() -> str:
    """The installed version, which a solution names."""
    return version(SOLVER)


def usual_iterations(stops: int) -> int:
    """So many iterations where nobody says: fewer for many stops, of whose iterations each takes
    longer. docs/routing.md has the gaps and the seconds."""
    return max(2_000, min(6_000, 720_000 // max(stops, 1)))


class _Counted:
    """Stops as ``MaxIterations`` does, and tells how far it is now and then."""

    def __init__(self, iterations: int, progress: Progress | None) -> None:
        self._stop = MaxIterations(iterations)
        self._iterations, self._progress, self._done = iterations, progress, 0

    def __call__(self, best_cost: int) -> bool:
        if self._progress is not None and self._done % _TELL == 0:
            self._progress(min(self._done, self._iterations), self._iterations)
        self._done += 1
        return self._stop(best_cost)


@dataclass(frozen=True, slots=True)
class Searched:
    """What one search found: tours, their price in 1/18000 of a minor unit, and which orders they
    take."""

    routes: tuple[Route, ...]
    objective: int
    served: frozenset[str]


def solve(
    problem: Problem, *, iterations: int, seed: int, progress: Progress | None = None
) -> Solution:
    """The tours of a problem.

    Orders that cannot be brought are left behind, each with the constraint that keeps it off:
    those that no vehicle could bring even alone are told before anything is searched; of the others
    as many as possible are taken.

    Args:
        problem: what has to go where.
        iterations: of the search; more may be better and take longer.
        seed: of the search.
        progress: told of the search.
    """
    reasons = alone(problem)
    kept = [stop for stop in problem.stops if stop.order_id not in reasons]
    found = Searched((), 0, frozenset())
    if kept and problem.vehicles:
        found = search(problem, kept, iterations, seed, progress)
    unserved: list[Unserved] = list(reasons.values())
    left = [stop for stop in kept if stop.order_id not in found.served]
    if left:

        def fits(other: Problem, stop: RoutedStop) -> bool:
            """Whether all that was taken and this order could be brought under other terms."""
            wanted = [
                one
                for one in other.stops
                if one.order_id in found.served or one.order_id == stop.order_id
            ]
            again = search(other, wanted, min(iterations, _SHORT), seed, None)
            return len(again.served) == len(wanted)

        unserved += together(problem, kept, left, fits)
    place = {stop.order_id: number for number, stop in enumerate(problem.stops)}
    return Solution(
        routes=found.routes,
        unserved=(
            *problem.without,
            *sorted(unserved, key=lambda one: place[one.order_id]),
        ),
        objective=found.objective,
        solver=SOLVER,
        solver_version=solver_version(),
        iterations=iterations,
        seed=seed,
    )


def search(
    problem: Problem,
    stops: Sequence[RoutedStop],
    iterations: int,
    seed: int,
    progress: Progress | None,
) -> Searched:
    """Tours that take as many of some stops as possible, at the least price.

    A first search is out to take them all. Where it does not come to that, a second one of as many
    iterations takes what the limits allow. Who takes more is told, of two alike the cheaper one.
    """
    best = _run(problem, stops, iterations, seed, progress, eager=True)
    if len(best.served) < len(stops):
        other = _run(problem, stops, iterations, seed, progress, eager=False)
        best = min(best, other, key=lambda one: (-len(one.served), one.objective))
    return best


def _run(
    problem: Problem,
    stops: Sequence[RoutedStop],
    iterations: int,
    seed: int,
    progress: Progress | None,
    *,
    eager: bool,
) -> Searched:
    asked = data_of(problem, stops, eager=eager)
    found = pyvrp.solve(
        asked.data,
        _Counted(iterations, progress),
        seed=seed,
        collect_stats=False,
        params=pyvrp.SolveParams(
            penalty=pyvrp.PenaltyParams(max_penalty=asked.most_penalty), display_interval=inf
        ),
    )
    if not found.is_feasible():
        return Searched((), 0, frozenset())
    free = [list(vehicles) for vehicles in asked.vehicles]
    taken = sorted(
        (
            route.vehicle_type(),
            [asked.stops[activity.idx] for activity in route.schedule() if activity.is_client()],
            route.start_time(),
        )
        for route in found.best.routes()
    )
    routes = [
        timed(problem, free[kind].pop(0), [problem.stops[number] for number in numbers], start)
        for kind, numbers, start in taken
    ]
    routes.sort(key=lambda one: one.vehicle_id)
    return Searched(
        tuple(routes),
        sum(price_of(problem, route) for route in routes),
        frozenset(visit.order_id for route in routes for visit in route.visits),
    )


def timed(
    problem: Problem, vehicle: RoutedVehicle, stops: Sequence[RoutedStop], start_s: int
) -> Route:
    """A vehicle's tour with the time of each stop, if it leaves the depot at a given second.

    Raises:
        ValueError: a stop would be too late, or the vehicle overloaded or not back in time.
    """
    place = {stop.order_id: number for number, stop in enumerate(problem.stops, start=1)}
    profile = problem.profiles[vehicle.profile]
    at, now = 0, start_s
    visits: list[Visit] = []
    for stop in stops:
        to = place[stop.order_id]
        travel, distance = profile.duration_s[at][to], profile.distance_m[at][to]
        arrives = now + travel
        begins = arrives
        if stop.windows:
            open_ = [span for span in stop.windows if arrives <= span.to_s]
            if not open_:
                raise ValueError(f"{stop.order_id}: its windows are over at {arrives} s")
            begins = max(arrives, min(span.from_s for span in open_))
        now = begins + stop.service_s
        visits.append(
            Visit(
                order_id=stop.order_id,
                arrives_s=arrives,
                begins_s=begins,
                leaves_s=now,
                distance_m=distance,
                travel_s=travel,
            )
        )
        at = to
    back_s, back_m = profile.duration_s[at][0], profile.distance_m[at][0]
    weight, volume = sum(one.weight_g for one in stops), sum(one.volume_cm3 for one in stops)
    route = Route(
        vehicle_id=vehicle.vehicle_id,
        starts_s=start_s,
        ends_s=now + back_s,
        distance_m=sum(visit.distance_m for visit in visits) + back_m,
        travel_s=sum(visit.travel_s for visit in visits) + back_s,
        waiting_s=sum(visit.begins_s - visit.arrives_s for visit in visits),
        service_s=sum(one.service_s for one in stops),
        weight_g=weight,
        volume_cm3=volume,
        back_distance_m=back_m,
        back_travel_s=back_s,
        visits=tuple(visits),
    )
    _must_keep(vehicle, route)
    return route


def _must_keep(vehicle: RoutedVehicle, route: Route) -> None:
    """What the solver says is checked: a tour that breaks a limit is never told."""
    for what, value, most in (
        ("weight_g", route.weight_g, vehicle.max_weight_g),
        ("volume_cm3", route.volume_cm3, vehicle.max_volume_cm3),
        ("ends_s", route.ends_s, vehicle.to_s),
        ("duration_s", route.ends_s - route.starts_s, vehicle.max_duration_s),
        ("distance_m", route.distance_m, vehicle.max_distance_m),
    ):
        if most is not None and value > most:
            raise ValueError(f"{vehicle.vehicle_id}: {what} {value} exceeds {most}")
    if route.starts_s < vehicle.from_s:
        raise ValueError(f"{vehicle.vehicle_id}: leaves at {route.starts_s} s, before its shift")
    served = {visit.order_id for visit in route.visits}
    if kept_off := served.intersection(vehicle.may_not_serve):
        raise ValueError(f"{vehicle.vehicle_id}: may not serve {', '.join(sorted(kept_off))}")
