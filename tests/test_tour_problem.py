"""A site's day as a routing problem: hours, shifts, rules, rates and what cannot be planned."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from domain.factors import RATES, SERVICE_S
from domain.hazards import Hazard
from domain.loads import Goods
from domain.places import Point
from domain.prohibitions import Prohibition
from domain.route_rules import RouteRule
from domain.routing import Constraint, Rates
from domain.sites import Site
from domain.time_windows import OpeningHours, OpenSpan, TimeWindow
from domain.transport import Vehicle
from domain.zones import Zone
from ml.routing import solve
from ml.tour_problem import (
    CurrenciesDiffer,
    OrderToGo,
    Tariffs,
    VehicleAtHand,
    day_of,
    problem_of,
)

MONDAY = date(2026, 3, 2)
DAY = datetime(2026, 3, 2, tzinfo=UTC)
BERLIN = Point(latitude=52.52, longitude=13.405)
NEAR = Point(latitude=52.53, longitude=13.42)
HOURS = OpeningHours(
    zone="Europe/Berlin", spans=(OpenSpan(day="monday", opens="08:00", closes="18:00"),)
)
SITE = Site(site_id="S-BER", is_open=True, location=BERLIN)
VAN = Vehicle(vehicle_id="V-1", site_id="S-BER", mode="van", max_weight_g=1_000_000, fuel="diesel")


def at(hour: float) -> datetime:
    return DAY + timedelta(hours=hour)


def window(start: float, end: float) -> TimeWindow:
    return TimeWindow(starts_at=at(start), ends_at=at(end))


def order(**more: Any) -> OrderToGo:
    told: dict[str, Any] = {
        "order_id": "O-1",
        "point": NEAR,
        "weight_g": 100,
        "volume_cm3": None,
        "window": None,
        "hours": None,
        "service_s": None,
        "goods": Goods(),
    }
    return OrderToGo(**told | more)


def rule(**more: Any) -> RouteRule:
    told: dict[str, Any] = {
        "rule_id": "R-1",
        "name": "no diesel",
        "zone": Zone(name="the ring", centre=BERLIN, radius_m=20_000),
        "forbids": Prohibition(fuels=("diesel",)),
        "hours": None,
        "valid_from": DAY - timedelta(days=1),
        "valid_until": None,
        "source": "sign 251",
        "source_url": None,
        "exempt_vehicles": (),
    }
    return RouteRule(**told | more)


def test_a_day_is_the_sites_own() -> None:
    """Midnight in Berlin is 23:00 UTC of the day before, in winter."""
    there = replace(SITE, opening_hours=HOURS)
    assert day_of(there, MONDAY).starts_at == at(-1)
    assert day_of(SITE, MONDAY).starts_at == DAY


def test_shifts_are_the_assignments_else_the_sites_hours_else_the_usual_ones() -> None:
    assigned = VehicleAtHand(VAN, window(9, 15))
    problem, _ = problem_of(SITE, MONDAY, [order()], [assigned], [])
    assert (problem.vehicles[0].from_s, problem.vehicles[0].to_s) == (9 * 3600, 15 * 3600)
    there = replace(SITE, opening_hours=HOURS)
    problem, _ = problem_of(there, MONDAY, [order()], [VehicleAtHand(VAN)], [])
    assert (problem.vehicles[0].from_s, problem.vehicles[0].to_s) == (8 * 3600, 18 * 3600)
    problem, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [])
    assert (problem.vehicles[0].from_s, problem.vehicles[0].to_s) == (6 * 3600, 20 * 3600)


def test_a_site_that_is_closed_has_no_vehicles_and_every_order_says_so() -> None:
    there = replace(SITE, opening_hours=HOURS)
    problem, at_hand = problem_of(there, date(2026, 3, 3), [order()], [VehicleAtHand(VAN)], [])
    assert at_hand == ()
    [left] = solve(problem, iterations=10, seed=1).unserved
    assert left.code == Constraint.NO_VEHICLE


def test_an_orders_window_counts_before_its_clients_hours() -> None:
    both = order(window=window(9, 10), hours=HOURS)
    problem, _ = problem_of(SITE, MONDAY, [both], [VehicleAtHand(VAN)], [])
    [span] = problem.stops[0].windows
    assert (span.from_s, span.to_s) == (9 * 3600, 10 * 3600 - 1)
    problem, _ = problem_of(SITE, MONDAY, [order(hours=HOURS)], [VehicleAtHand(VAN)], [])
    [span] = problem.stops[0].windows
    assert (span.from_s, span.to_s) == (7 * 3600, 17 * 3600 - 1)


def test_service_takes_the_usual_time_where_nobody_says() -> None:
    problem, _ = problem_of(
        SITE,
        MONDAY,
        [order(), order(order_id="O-2", service_s=0)],
        [VehicleAtHand(VAN)],
        [],
    )
    assert [stop.service_s for stop in problem.stops] == [SERVICE_S, 0]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"point": None}, Constraint.NO_PLACE),
        ({"weight_g": None}, Constraint.NO_WEIGHT),
        ({"window": window(33, 34)}, Constraint.ANOTHER_DAY),
        (
            {
                "hours": OpeningHours(
                    zone="UTC", spans=(OpenSpan(day="sunday", opens="08:00", closes="09:00"),)
                )
            },
            Constraint.CLOSED,
        ),
    ],
)
def test_what_cannot_be_planned_says_why(changes: dict[str, Any], code: str) -> None:
    problem, _ = problem_of(SITE, MONDAY, [order(**changes)], [VehicleAtHand(VAN)], [])
    assert problem.stops == ()
    found = solve(problem, iterations=10, seed=1)
    assert [one.code for one in found.unserved] == [code]
    assert found.unserved[0].sentence.startswith("Order O-1 cannot be brought: ")


def test_a_weight_that_nobody_knows_matters_to_limited_vehicles_only() -> None:
    unlimited = replace(VAN, max_weight_g=None)
    problem, _ = problem_of(SITE, MONDAY, [order(weight_g=None)], [VehicleAtHand(unlimited)], [])
    assert len(problem.stops) == 1


def test_a_rule_of_the_road_keeps_the_diesel_out_and_lets_the_electric_van_in() -> None:
    electric = replace(VAN, vehicle_id="V-2", fuel="electric")
    vans = [VehicleAtHand(VAN), VehicleAtHand(electric)]
    problem, _ = problem_of(SITE, MONDAY, [order()], vans, [rule()])
    assert [v.may_not_serve for v in problem.vehicles] == [("O-1",), ()]
    [route] = solve(problem, iterations=20, seed=1).routes
    assert route.vehicle_id == "V-2"


def test_where_no_vehicle_may_go_the_rule_is_told() -> None:
    problem, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [rule()])
    [left] = solve(problem, iterations=20, seed=1).unserved
    assert left.code == Constraint.LEGAL
    assert "no diesel, sign 251" in left.sentence


def test_a_rule_with_hours_makes_the_window_narrower() -> None:
    """Closed from 8 to 12: the van comes from noon on."""
    morning = OpeningHours(
        zone="UTC", spans=(OpenSpan(day="monday", opens="00:00", closes="12:00"),)
    )
    problem, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [rule(hours=morning)])
    [span] = problem.stops[0].windows
    assert span.from_s == 12 * 3600
    [route] = solve(problem, iterations=20, seed=1).routes
    assert route.visits[0].begins_s >= 12 * 3600


def test_dangerous_goods_go_by_a_vehicle_with_a_permit() -> None:
    paint = Goods(hazards=(Hazard(un_number="UN1263", hazard_class="3", packing_group="II"),))
    permitted = replace(VAN, vehicle_id="V-2", hazard_permits=("3",))
    vans = [VehicleAtHand(VAN), VehicleAtHand(permitted)]
    problem, _ = problem_of(SITE, MONDAY, [order(goods=paint)], vans, [])
    assert [v.may_not_serve for v in problem.vehicles] == [("O-1",), ()]
    problem, _ = problem_of(SITE, MONDAY, [order(goods=paint)], vans[:1], [])
    [left] = solve(problem, iterations=20, seed=1).unserved
    assert left.code == Constraint.LEGAL
    assert "hazard_class=3" in left.sentence


def test_a_rule_elsewhere_changes_nothing() -> None:
    far = Zone(name="Paris", centre=Point(latitude=48.86, longitude=2.35), radius_m=10_000)
    problem, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [rule(zone=far)])
    assert problem.vehicles[0].may_not_serve == ()
    assert problem.stops[0].windows == ()


def test_rates_are_the_vehicles_else_the_tariffs_else_by_default() -> None:
    own = replace(VAN, vehicle_id="V-2", currency="EUR", cost_per_km_minor=77)
    tariff = Tariffs({"van": (Rates(per_km_minor=55), "EUR")}, {})
    vans = [VehicleAtHand(VAN), VehicleAtHand(own)]
    problem, _ = problem_of(SITE, MONDAY, [order()], vans, [], tariff)
    assert [v.rates.per_km_minor for v in problem.vehicles] == [55, 77]
    problem, _ = problem_of(SITE, MONDAY, [order()], vans, [])
    assert problem.vehicles[0].rates == RATES["van"]
    assert problem.currency == "EUR"


def test_two_currencies_cannot_be_weighed() -> None:
    pounds = replace(VAN, vehicle_id="V-2", currency="GBP", cost_per_km_minor=77)
    with pytest.raises(CurrenciesDiffer, match="V-1 in EUR, V-2 in GBP"):
        problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN), VehicleAtHand(pounds)], [])


def test_a_site_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="S-BER has no location"):
        problem_of(replace(SITE, location=None), MONDAY, [order()], [VehicleAtHand(VAN)], [])


def test_the_same_day_is_the_same_problem() -> None:
    one, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [])
    other, _ = problem_of(SITE, MONDAY, [order()], [VehicleAtHand(VAN)], [])
    assert one == other
    assert {profile.estimate for profile in one.profiles} == {"rule_based"}
