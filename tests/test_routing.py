"""Routing problems: solved alike each time, never against a limit, and refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.vrplib_files import NoData, cvrp, folder, solomon
from domain.routing import (
    MOST_STOPS,
    Constraint,
    Problem,
    Profile,
    Rates,
    RoutedStop,
    RoutedVehicle,
    Solution,
    Span,
    canonical,
    hash_of,
    rectangle,
)
from ml.routing import solve, solver_version, timed, usual_iterations
from ml.solver_data import UNIT, price_of

HOUR = 3600
ORIGIN = datetime(2026, 3, 2, tzinfo=UTC)


def line(
    places: list[int],
    *,
    vehicles: list[RoutedVehicle] | None = None,
    stops: list[RoutedStop] | None = None,
    speed: int = 10,
) -> Problem:
    """Stops on a straight road at so many metres from the depot, driven at 10 m/s."""
    at = [0, *places]
    metres = rectangle([[abs(a - b) for b in at] for a in at])
    seconds = rectangle([[abs(a - b) // speed for b in at] for a in at])
    return Problem(
        site_id="S-BER",
        origin=ORIGIN,
        currency="EUR",
        profiles=(Profile(mode="van", estimate="test", distance_m=metres, duration_s=seconds),),
        vehicles=tuple([van("V-1")] if vehicles is None else vehicles),
        stops=tuple(stops or [RoutedStop(order_id=f"O-{n}") for n in range(1, len(places) + 1)]),
    )


def van(vehicle_id: str, **more: Any) -> RoutedVehicle:
    told: dict[str, Any] = {
        "vehicle_id": vehicle_id,
        "from_s": 8 * HOUR,
        "to_s": 16 * HOUR,
        "rates": Rates(fixed_minor=1_000, per_km_minor=100),
    }
    return RoutedVehicle(**told | more)


def order(order_id: str, **more: Any) -> RoutedStop:
    return RoutedStop(order_id=order_id, **more)


def solved(problem: Problem, iterations: int = 200, seed: int = 1) -> Solution:
    return solve(problem, iterations=iterations, seed=seed)


# what is found


def test_one_van_goes_out_and_back_along_the_road() -> None:
    """20 km there and back: 20.00 for the way and 10.00 for the tour."""
    problem = line([10_000, 4_000, 7_000])
    found = solved(problem)
    [route] = found.routes
    assert route.distance_m == 20_000
    assert found.objective == UNIT * 3_000
    assert price_of(problem, route) == found.objective
    assert [visit.distance_m for visit in route.visits] != []
    assert route.back_distance_m + sum(v.distance_m for v in route.visits) == 20_000
    assert found.unserved == ()


def test_times_add_up_with_waiting_and_service() -> None:
    problem = line(
        [6_000, 12_000],
        stops=[
            order("O-1", service_s=300, windows=(Span(from_s=9 * HOUR, to_s=10 * HOUR),)),
            order("O-2", service_s=600, windows=(Span(from_s=12 * HOUR, to_s=13 * HOUR),)),
        ],
    )
    [route] = solved(problem).routes
    one, two = route.visits
    assert (one.order_id, two.order_id) == ("O-1", "O-2")
    assert one.begins_s >= 9 * HOUR
    assert one.leaves_s == one.begins_s + 300
    assert two.arrives_s == one.leaves_s + 600
    assert two.begins_s == 12 * HOUR
    assert route.ends_s == two.leaves_s + 1_200
    assert route.waiting_s == sum(v.begins_s - v.arrives_s for v in route.visits)
    busy = route.travel_s + route.waiting_s + route.service_s
    assert route.ends_s - route.starts_s == busy


def test_two_dimensions_of_capacity_part_a_load() -> None:
    """Each fits by weight, two by volume do not."""
    stops = [order(f"O-{n}", weight_g=100, volume_cm3=600) for n in (1, 2)]
    vans = [van(name, max_weight_g=1_000, max_volume_cm3=1_000) for name in ("V-1", "V-2")]
    found = solved(line([1_000, 2_000], vehicles=vans, stops=stops))
    assert [len(route.visits) for route in found.routes] == [1, 1]
    assert found.unserved == ()


def test_the_second_opening_of_a_day_is_used() -> None:
    """Closed at noon: whoever cannot come in the morning comes in the afternoon."""
    shut_at_noon = (
        Span(from_s=9 * HOUR, to_s=10 * HOUR),
        Span(from_s=14 * HOUR, to_s=15 * HOUR),
    )
    late = van("V-1", from_s=11 * HOUR)
    problem = line([1_000], vehicles=[late], stops=[order("O-1", windows=shut_at_noon)])
    [route] = solved(problem).routes
    assert route.visits[0].begins_s == 14 * HOUR


def test_a_vehicle_that_may_not_go_there_does_not() -> None:
    """The dearer one does, which may."""
    cheap = van("V-1", may_not_serve=("O-1",))
    dear = van("V-2", rates=Rates(per_km_minor=900))
    found = solved(line([1_000, 1_000], vehicles=[cheap, dear]))
    by = {v.order_id: r.vehicle_id for r in found.routes for v in r.visits}
    assert by["O-1"] == "V-2"
    assert found.unserved == ()


def test_no_orders_no_tours() -> None:
    empty = Problem(
        site_id="S-BER",
        origin=ORIGIN,
        profiles=(Profile(mode="van", estimate="test", distance_m=((0,),), duration_s=((0,),)),),
        vehicles=(van("V-1"),),
        stops=(),
    )
    found = solved(empty)
    assert (found.routes, found.unserved) == ((), ())


def test_a_tour_that_breaks_a_limit_is_never_told() -> None:
    problem = line([1_000, 2_000], stops=[order("O-1", weight_g=10), order("O-2", weight_g=10)])
    small = van("V-1", max_weight_g=15)
    with pytest.raises(ValueError, match="weight_g 20 exceeds 15"):
        timed(problem, small, problem.stops, 8 * HOUR)
    with pytest.raises(ValueError, match="before its shift"):
        timed(problem, van("V-1"), problem.stops, 0)


# what cannot be done


def reason(problem: Problem, order_id: str = "O-1") -> tuple[str, dict[str, int | float | str]]:
    [found] = [one for one in solved(problem).unserved if one.order_id == order_id]
    assert found.sentence.startswith(f"Order {order_id} cannot be brought: ")
    return found.code, found.values


def test_too_heavy_for_every_vehicle() -> None:
    problem = line(
        [1_000], vehicles=[van("V-1", max_weight_g=500)], stops=[order("O-1", weight_g=501)]
    )
    assert reason(problem) == (Constraint.WEIGHT, {"weight_g": 501, "max_weight_g": 500})


def test_too_voluminous_for_every_vehicle() -> None:
    vans = [van("V-1", max_volume_cm3=100), van("V-2", max_volume_cm3=200)]
    problem = line([1_000], vehicles=vans, stops=[order("O-1", volume_cm3=201)])
    assert reason(problem) == (Constraint.VOLUME, {"volume_cm3": 201, "max_volume_cm3": 200})


def test_the_window_closes_before_anybody_can_be_there() -> None:
    """Out at 8:00, an hour on the way; the window closes at 8:30."""
    stop = order("O-1", windows=(Span(from_s=0, to_s=8 * HOUR + 1800),))
    code, values = reason(line([36_000], stops=[stop]))
    assert code == Constraint.WINDOW
    assert values == {
        "closes_at": "2026-03-02 08:30 UTC",
        "earliest_arrival": "2026-03-02 09:00 UTC",
    }


def test_the_window_lies_behind_the_shift() -> None:
    stop = order("O-1", windows=(Span(from_s=17 * HOUR, to_s=18 * HOUR),))
    code, values = reason(line([36_000], stops=[stop]))
    assert code == Constraint.SHIFT
    assert values["opens_at"] == "2026-03-02 17:00 UTC"
    assert values["latest_arrival"] == "2026-03-02 15:00 UTC"


def test_too_far_for_a_shift_and_for_a_charge() -> None:
    code, values = reason(line([180_000]))  # five hours there, five back
    assert code == Constraint.TIME_TOGETHER
    assert values == {"needs_s": 36_000, "shift_s": 28_800}
    electric = van("V-1", max_distance_m=100_000)
    code, values = reason(line([60_000], vehicles=[electric]))
    assert (code, values["distance_m"]) == (Constraint.DISTANCE, 120_000)


def test_rules_keep_every_vehicle_from_it() -> None:
    stop = order("O-1", forbidden=("V-1 may not be in the ring: diesel",))
    problem = line([1_000], vehicles=[van("V-1", may_not_serve=("O-1",))], stops=[stop])
    [found] = solved(problem).unserved
    assert found.code == Constraint.LEGAL
    assert "may not be in the ring" in found.sentence


def test_no_vehicle_at_all() -> None:
    assert reason(line([1_000], vehicles=[]))[0] == Constraint.NO_VEHICLE


def test_all_orders_together_are_too_heavy_and_the_most_are_taken() -> None:
    """Five of 300 g and a van for 1000 g: three go, two are left with the figures."""
    stops = [order(f"O-{n}", weight_g=300) for n in range(1, 6)]
    problem = line([1_000] * 5, vehicles=[van("V-1", max_weight_g=1_000)], stops=stops)
    found = solved(problem)
    assert sum(len(route.visits) for route in found.routes) == 3
    assert {one.code for one in found.unserved} == {Constraint.TOTAL_WEIGHT}
    assert found.unserved[0].values == {"weight_g": 1_500, "capacity": 1_000}


def test_two_windows_at_once_and_one_van() -> None:
    """Ten kilometres to the left and ten to the right at the same minute."""
    nine = (Span(from_s=9 * HOUR, to_s=9 * HOUR + 60),)
    at = [0, 10_000, 10_000]
    metres = rectangle([[0 if a == b else at[a] + at[b] for b in range(3)] for a in range(3)])
    seconds = rectangle([[value // 10 for value in row] for row in metres])
    problem = Problem(
        site_id="S-BER",
        origin=ORIGIN,
        profiles=(Profile(mode="van", estimate="test", distance_m=metres, duration_s=seconds),),
        vehicles=(van("V-1"),),
        stops=(order("O-1", windows=nine), order("O-2", windows=nine)),
    )
    found = solved(problem)
    assert sum(len(route.visits) for route in found.routes) == 1
    assert [one.code for one in found.unserved] == [Constraint.WINDOWS_TOGETHER]


def test_a_shift_that_is_too_short_for_one_more_stop() -> None:
    stops = [order(f"O-{n}", service_s=3 * HOUR) for n in (1, 2, 3)]
    found = solved(line([100, 200, 300], stops=stops))
    assert sum(len(route.visits) for route in found.routes) == 2
    assert [one.code for one in found.unserved] == [Constraint.TIME_TOGETHER]


def test_large_pieces_that_fill_the_vehicles() -> None:
    """Three of 600 g and two vans for 1000 g each: less than both take, and yet one is left."""
    stops = [order(f"O-{n}", weight_g=600) for n in (1, 2, 3)]
    vans = [van(name, max_weight_g=1_000) for name in ("V-1", "V-2")]
    found = solved(line([100, 200, 300], vehicles=vans, stops=stops))
    assert [one.code for one in found.unserved] == [Constraint.CAPACITY_TOGETHER]


# bad input


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stops": [order("O-1"), order("O-1")]}, "stops: each id once"),
        ({"vehicles": [van("V-1"), van("V-1")]}, "vehicles: each id once"),
        ({"vehicles": [van("V-1", profile=1)]}, "a profile that is not there"),
        ({"vehicles": [van("V-1", from_s=9, to_s=8)]}, "ends before it starts"),
        ({"stops": [order("O-1")]}, "distance_m must be 2 by 2"),
    ],
)
def test_a_problem_that_does_not_fit_together(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        line([1_000, 2_000], **changes)


@pytest.mark.parametrize("wrong", [{"from_s": 5, "to_s": 4}, {"from_s": -1, "to_s": 4}])
def test_a_span_that_is_none(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"to_s|from_s"):
        Span(**wrong)


def test_many_stops_get_fewer_iterations() -> None:
    assert usual_iterations(0) == usual_iterations(120) == 6_000
    assert usual_iterations(240) == 3_000
    assert usual_iterations(MOST_STOPS) == 2_000


# again and again

_AGAIN = """
import sys
from domain.routing import Problem, canonical
from ml.routing import solve
problem = Problem.model_validate_json(sys.stdin.buffer.read())
sys.stdout.buffer.write(canonical(solve(problem, iterations=300, seed=7)))
"""


def busy() -> Problem:
    places = [(n * 7919) % 20_000 + 500 for n in range(1, 31)]
    stops = [
        order(
            f"O-{n}",
            weight_g=(n * 37) % 200 + 50,
            service_s=300,
            windows=(Span(from_s=(8 + n % 4) * HOUR, to_s=(10 + n % 4) * HOUR),),
        )
        for n in range(1, 31)
    ]
    vans = [van(f"V-{n}", max_weight_g=1_500) for n in range(1, 6)]
    return line(places, vehicles=vans, stops=stops)


def test_two_processes_come_to_the_same_bytes() -> None:
    content = canonical(busy())
    found = [
        subprocess.run(
            [sys.executable, "-c", _AGAIN], input=content, capture_output=True, check=True
        )
        for _ in range(2)
    ]
    here = canonical(solve(busy(), iterations=300, seed=7))
    assert found[0].stdout == found[1].stdout == here
    assert Solution.model_validate_json(here).solver_version == solver_version()


def test_another_seed_or_other_iterations_are_named_in_the_solution() -> None:
    one, other = solved(busy(), 50, seed=1), solved(busy(), 60, seed=2)
    assert (one.iterations, one.seed) == (50, 1)
    assert (other.iterations, other.seed) == (60, 2)
    assert one.solver == "pyvrp"


def test_a_problem_has_one_hash_whatever_way_it_was_read() -> None:
    problem = busy()
    again = Problem.model_validate_json(problem.model_dump_json(indent=2))
    assert hash_of(again) == hash_of(problem)
    other = problem.model_copy(update={"site_id": "S-AMS"})
    assert hash_of(other) != hash_of(problem)


def test_progress_is_told_and_may_end_the_search() -> None:
    told: list[tuple[int, int]] = []
    solve(busy(), iterations=120, seed=1, progress=lambda *at: told.append(at))
    assert told == [(0, 120), (50, 120), (100, 120)]

    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done:
            raise Enough

    with pytest.raises(Enough):
        solve(busy(), iterations=10**6, seed=1, progress=stop)


# against the best known solutions; all of them: python -m benchmarks routing


def _there(data: str) -> None:
    try:
        folder(data)
    except NoData as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["C101", "R101", "R102"])
def test_solomons_instances_are_within_two_percent(name: str) -> None:
    _there("vrptw_solomon_100")
    instance = solomon(name)
    found = solve(instance.problem, iterations=600, seed=1)
    assert found.unserved == ()
    assert found.distance_m / instance.scale <= instance.best_known * 1.02
    assert found.distance_m / instance.scale >= instance.best_known - 0.1


@pytest.mark.parametrize("name", ["P-n16-k8", "E-n13-k4", "A-n32-k5", "CMT6"])
def test_small_instances_with_capacities_are_within_two_percent(name: str) -> None:
    _there("cvrp_small")
    instance = cvrp(name)
    found = solve(instance.problem, iterations=400, seed=1)
    assert found.unserved == ()
    assert found.distance_m / instance.scale <= instance.best_known * 1.02
    assert found.distance_m / instance.scale >= instance.best_known - 0.1
