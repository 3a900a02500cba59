"""Tours: planned as a plan says, gone stop by stop, reckoned up, and given up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.access import Role
from domain.errors import Refused
from domain.orders import OrderAllocated, OrderDelivered, OrderLine, OrderPlaced, OrderShipped
from domain.places import Point
from domain.routing import (
    Emission,
    Problem,
    Profile,
    Rates,
    RoutedStop,
    RoutedVehicle,
    Solution,
)
from domain.tour_events import (
    OrderShare,
    StopCompleted,
    StopFailed,
    TourCancelled,
    TourCompleted,
    TourPlanned,
    TourStarted,
)
from domain.tour_plans import (
    CancelTourPlan,
    PlanTours,
    TourOrder,
    TourPlanCancelled,
    ToursPlanned,
    TourVehicle,
)
from domain.tours import CancelTour, CompleteStop, FailStop, FinishTour, StartTour
from domain.values import Command, Event
from ml.catalogue import HANDLERS
from ml.routing import solve
from ml.tour_map import tour_map
from ml.touring import must_be_quick
from tests.spec import given, problems

DAY = datetime(2026, 3, 2, tzinfo=UTC)
EIGHT = DAY + timedelta(hours=8)
NOON = DAY + timedelta(hours=12)
RATES = Rates(fixed_minor=1_000, per_km_minor=100, per_hour_minor=3_600)
#: 200 g a kilometre empty, 300 g full.
TRUCK = Emission(empty_mg_per_km=200_000, full_mg_per_km=300_000)
METRES = ((0, 10_000, 20_000), (10_000, 0, 10_000), (20_000, 10_000, 0))
SECONDS = tuple(tuple(value // 10 for value in row) for row in METRES)


def problem() -> Problem:
    """Two orders on one straight road, 10 and 20 km from the depot; 100 s for each kilometre."""
    return Problem(
        site_id="S-BER",
        origin=DAY,
        depot=Point(latitude=52.5, longitude=13.4),
        currency="EUR",
        profiles=(Profile(mode="van", estimate="test", distance_m=METRES, duration_s=SECONDS),),
        vehicles=(
            RoutedVehicle(
                vehicle_id="V-1",
                max_weight_g=1_000,
                from_s=8 * 3600,
                to_s=16 * 3600,
                rates=RATES,
                emission=TRUCK,
            ),
        ),
        stops=(
            RoutedStop(
                order_id="O-1",
                point=Point(latitude=52.59, longitude=13.4),
                weight_g=500,
                service_s=600,
            ),
            RoutedStop(
                order_id="O-2",
                point=Point(latitude=52.68, longitude=13.4),
                weight_g=500,
                service_s=600,
            ),
        ),
    )


def solution() -> Solution:
    found = solve(problem(), iterations=50, seed=1)
    assert found.unserved == ()
    return found


def plan(**changes: Any) -> PlanTours:
    told: dict[str, Any] = {
        "plan_id": "TP-1",
        "site_id": "S-BER",
        "day": date(2026, 3, 2),
        "currency": "EUR",
        "origin": DAY,
        "problem_hash": "a" * 64,
        "estimate": "rule_based",
        "solution": solution(),
        "vehicles": (
            TourVehicle(
                vehicle_id="V-1", mode="van", max_weight_g=1_000, rates=RATES, emission=TRUCK
            ),
        ),
        "orders": (
            TourOrder(order_id="O-1", weight_g=500, direct_m=10_000),
            TourOrder(order_id="O-2", weight_g=500, direct_m=20_000),
        ),
        "planned_at": DAY,
    }
    return PlanTours(**told | changes)


def made() -> tuple[ToursPlanned, TourPlanned]:
    outcome = given().when(plan())
    assert outcome.refusal is None, outcome.refusal
    one, other, *_ = outcome.events
    assert isinstance(one, ToursPlanned)
    assert isinstance(other, TourPlanned)
    return one, other


PLAN, TOUR = made()
OF: dict[str, Any] = {
    "tour_id": "TP-1.1",
    "plan_id": "TP-1",
    "site_id": "S-BER",
    "day": date(2026, 3, 2),
    "vehicle_id": "V-1",
}
started = TourStarted(
    **OF,
    planned_at=TOUR.starts_at,
    started_at=TOUR.starts_at + timedelta(minutes=5),
    delay_s=300,
)


def placed(order_id: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=order_id,
        customer_id="C-1",
        currency="EUR",
        lines=(OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100),),
        lines_known=True,
        units=Decimal(1),
        goods_minor=100,
        freight_minor=0,
        weight_g=500,
        region=None,
        placed_at=DAY,
        promised_at=NOON,
    )


def on_its_way(order_id: str) -> tuple[Event, ...]:
    of: dict[str, Any] = {
        "order_id": order_id,
        "site_id": "S-BER",
        "service_level": "standard",
        "region": None,
    }
    return (
        placed(order_id),
        OrderAllocated(**of, line_sites=(), decision_id=None, allocated_at=DAY),
        OrderShipped(**of, carrier=None, shipped_at=EIGHT, handling_s=0, out_of_order=False),
    )


def done(order_id: str, stop_no: int, at: datetime) -> StopCompleted:
    stop = TOUR.stops[stop_no - 1]
    assert stop.order_id == order_id
    return StopCompleted(
        **OF,
        stop_no=stop_no,
        order_id=order_id,
        proof=None,
        taken_by="reception",
        planned_at=stop.leaves_at,
        arrived_at=None,
        completed_at=at,
        delay_s=int((at - stop.leaves_at).total_seconds()),
    )


FIRST, SECOND = (stop.order_id for stop in TOUR.stops)
COMPLETE = CompleteStop(
    tour_id="TP-1.1", order_id=FIRST, taken_by="reception", completed_at=EIGHT + timedelta(hours=1)
)
FAIL = FailStop(
    tour_id="TP-1.1", order_id=SECOND, reason="nobody_there", failed_at=EIGHT + timedelta(hours=1)
)
FINISH = FinishTour(tour_id="TP-1.1", finished_at=started.started_at + timedelta(hours=2))


# plans


def test_a_plan_makes_a_tour_of_each_route() -> None:
    """40 km at 1.00, 4000 s on the way and 1200 s of service at 36.00 an hour, 10.00 fixed."""
    assert PLAN.tour_ids == ("TP-1.1",)
    assert (PLAN.served, PLAN.unserved, PLAN.distance_m) == (2, 0, 40_000)
    assert (PLAN.solver, PLAN.iterations, PLAN.seed) == ("pyvrp", 50, 1)
    assert TOUR.distance_m == 40_000
    assert TOUR.ends_at - TOUR.starts_at == timedelta(seconds=5_200)
    assert TOUR.cost_minor == PLAN.cost_minor == 1_000 + 4_000 + 5_200
    assert [stop.stop_no for stop in TOUR.stops] == [1, 2]


def test_emissions_fall_as_the_load_does() -> None:
    """Whichever way round: 10 or 20 km full, the next 10 km half full, the rest empty."""
    by_first = {"O-1": 3_000 + 2_500 + 4_000, "O-2": 6_000 + 2_500 + 2_000}
    assert TOUR.carbon_g == PLAN.carbon_g == by_first[FIRST]


def test_parts_of_orders_sum_up_to_the_tour() -> None:
    """The same weight, one twice as far: a third and two thirds."""
    parts = {share.order_id: share for share in TOUR.shares}
    assert sum(share.cost_minor for share in TOUR.shares) == TOUR.cost_minor
    assert sum(share.carbon_g or 0 for share in TOUR.shares) == TOUR.carbon_g
    assert parts["O-1"].cost_minor == 3_400
    assert parts["O-2"].cost_minor == 6_800


def test_a_plan_is_made_once() -> None:
    given(PLAN).when(plan()).refused("tour_plan.already_made", plan_id="TP-1")


def test_emissions_of_which_nothing_is_known_are_not_made_up() -> None:
    unknown = TourVehicle(vehicle_id="V-1", mode="ship", rates=RATES)
    one, other, *_ = given().when(plan(vehicles=(unknown,))).events
    assert one.carbon_g is other.carbon_g is None  # type: ignore[attr-defined]
    assert {share.carbon_g for share in other.shares} == {None}  # type: ignore[attr-defined]


def test_a_plan_is_given_up_with_its_tours_but_for_those_on_the_way() -> None:
    command = CancelTourPlan(plan_id="TP-1", reason="snow", cancelled_at=NOON)
    told: dict[str, Any] = {"reason": "snow", "cancelled_by": "ana", "cancelled_at": NOON}
    given(PLAN).reading(TOUR).when(command).then(
        TourPlanCancelled(
            plan_id="TP-1",
            site_id="S-BER",
            day=date(2026, 3, 2),
            tour_ids=("TP-1.1",),
            **told,
        ),
        TourCancelled(**OF, order_ids=(FIRST, SECOND), **told),
    )
    given(PLAN).reading(TOUR, started).when(command).refused("tour_plan.nothing_left")
    given().when(command).refused("tour_plan.unknown", plan_id="TP-1")
    gone = given(PLAN).reading(TOUR).when(command).events
    given(PLAN, gone[0]).reading(TOUR, gone[1]).when(command).refused("tour_plan.already_cancelled")


# on the way


def test_a_tour_begins_later_than_planned() -> None:
    command = StartTour(tour_id="TP-1.1", started_at=started.started_at)
    given(TOUR).when(command).then(started)
    given(TOUR, started).when(command).refused("tour.other_status", status="started")
    given().when(command).refused("tour.unknown", tour_id="TP-1.1")


def test_an_order_is_handed_over_and_delivered_in_one() -> None:
    outcome = given(TOUR, started).reading(*on_its_way(FIRST)).when(COMPLETE)
    assert outcome.refusal is None, outcome.refusal
    stop, order = outcome.events
    assert stop == done(FIRST, 1, COMPLETE.completed_at)
    assert isinstance(order, OrderDelivered)
    assert (order.order_id, order.delivered_at, order.late) == (FIRST, COMPLETE.completed_at, False)


def test_an_order_that_has_not_left_its_site_is_not_handed_over() -> None:
    """Both happen or none."""
    given(TOUR, started).reading(placed(FIRST)).when(COMPLETE).refused("order.not_shipped")


def test_a_stop_is_done_once_and_on_its_own_tour() -> None:
    over = done(FIRST, 1, COMPLETE.completed_at)
    way = on_its_way(FIRST)
    given(TOUR, started, over).reading(*way).when(COMPLETE).refused(
        "tour.stop_is_done", order_id=FIRST, stop="completed"
    )
    given(TOUR, started).reading(*on_its_way("O-9")).when(
        COMPLETE.model_copy(update={"order_id": "O-9"})
    ).refused("tour.no_such_stop", order_id="O-9")
    given(TOUR).reading(*way).when(COMPLETE).refused("tour.other_status", needed="started")


def test_nothing_happens_on_a_tour_before_it_begins() -> None:
    early = COMPLETE.model_copy(update={"completed_at": DAY})
    given(TOUR, started).reading(*on_its_way(FIRST)).when(early).refused(
        "tour.before_it_began", field="completed_at"
    )
    given(TOUR, started).when(FAIL.model_copy(update={"failed_at": DAY})).refused(
        "tour.before_it_began", field="failed_at"
    )


def test_a_stop_fails_with_its_reason() -> None:
    stop = TOUR.stops[1]
    failed = StopFailed(
        **OF,
        stop_no=2,
        order_id=SECOND,
        reason="nobody_there",
        note=None,
        planned_at=stop.leaves_at,
        arrived_at=None,
        failed_at=FAIL.failed_at,
        delay_s=int((FAIL.failed_at - stop.leaves_at).total_seconds()),
    )
    given(TOUR, started).when(FAIL).then(failed)
    given(TOUR, started, failed).when(FAIL).refused("tour.stop_is_done", stop="failed")


def test_a_tour_is_reckoned_up_by_what_was_driven() -> None:
    """50 km at 1.00, two hours at 36.00, 10.00 fixed; a quarter more on every way."""
    over = done(FIRST, 1, EIGHT + timedelta(hours=1))
    failed = given(TOUR, started, over).when(FAIL).events[0]
    measured = FINISH.model_copy(update={"distance_m": 50_000})
    [end] = given(TOUR, started, over, failed).when(measured).events
    assert isinstance(end, TourCompleted)
    assert (end.completed, end.failed) == (1, 1)
    assert (end.planned_distance_m, end.distance_m, end.measured) == (40_000, 50_000, True)
    assert (end.planned_s, end.duration_s) == (5_200, 7_200)
    assert (end.planned_cost_minor, end.cost_minor) == (10_200, 13_200)
    assert end.planned_carbon_g == TOUR.carbon_g
    assert end.carbon_g == (TOUR.carbon_g or 0) * 5 // 4
    assert sum(share.cost_minor for share in end.shares) == 13_200
    assert {share.order_id: share.cost_minor for share in end.shares} == {
        "O-1": 4_400,
        "O-2": 8_800,
    }
    assert all(isinstance(share, OrderShare) for share in end.shares)


def test_a_distance_that_nobody_measured_is_the_plans() -> None:
    over = done(FIRST, 1, EIGHT + timedelta(hours=1)), done(SECOND, 2, EIGHT + timedelta(hours=1))
    [end] = given(TOUR, started, *over).when(FINISH).events
    assert isinstance(end, TourCompleted)
    assert (end.distance_m, end.measured, end.carbon_g) == (40_000, False, TOUR.carbon_g)


def test_a_tour_with_open_stops_is_not_over() -> None:
    given(TOUR, started).when(FINISH).refused("tour.stops_open", open=2, order_id=FIRST)
    given(TOUR).when(FINISH).refused("tour.other_status", status="planned")


def test_a_tour_is_given_up_before_it_begins_only() -> None:
    command = CancelTour(tour_id="TP-1.1", reason="no driver", cancelled_at=NOON)
    given(TOUR).when(command).then(
        TourCancelled(
            **OF,
            order_ids=(FIRST, SECOND),
            reason="no driver",
            cancelled_by="ana",
            cancelled_at=NOON,
        )
    )
    given(TOUR, started).when(command).refused("tour.other_status", status="started")


# who may, and what is said wrongly


def test_only_the_worker_plans_and_who_operates_drives() -> None:
    assert HANDLERS[PlanTours].roles == {Role.SERVICE}
    for command in (StartTour, CompleteStop, FailStop, FinishTour, CancelTour, CancelTourPlan):
        assert Role.VIEWER not in HANDLERS[command].roles
        assert Role.ADMIN in HANDLERS[command].roles


@pytest.mark.parametrize(
    ("right", "fields", "field", "rule"),
    [
        (COMPLETE, {"taken_by": "Mrs Example"}, "taken_by", "Input should be"),
        (COMPLETE, {"completed_at": "2026-03-02T08:00:00"}, "completed_at", "timezone"),
        (COMPLETE, {"order_id": ""}, "order_id", "match pattern"),
        (FAIL, {"reason": "dog"}, "reason", "Input should be"),
        (FAIL, {"note": ""}, "note", "at least 1 character"),
        (FINISH, {"distance_m": -1}, "distance_m", "greater than or equal to 0"),
        (FINISH, {"distance_m": 10**10}, "distance_m", "less than or equal to"),
        (FINISH, {"driver": "Ada"}, "driver", "Extra inputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    right: Command, fields: dict[str, Any], field: str, rule: str
) -> None:
    assert problems(type(right), **right.model_dump()) == ""
    told = problems(type(right), **(right.model_dump() | fields))
    assert field in told
    assert rule in told


def test_a_plan_knows_the_vehicles_and_orders_of_its_solution() -> None:
    told = plan().model_dump()
    assert "V-1 of the solution is missing" in problems(PlanTours, **told | {"vehicles": ()})
    assert "of the solution is missing" in problems(PlanTours, **told | {"orders": ()})


def test_what_takes_too_long_is_not_solved_again_while_somebody_waits() -> None:
    must_be_quick("TP-1", 20_000, 100)
    with pytest.raises(Refused) as refusal:
        must_be_quick("TP-1", 20_000, 101)
    assert refusal.value.code == "tour_plan.too_large_to_replay"
    assert refusal.value.context == {"plan_id": "TP-1", "size": 2_020_000, "most": 2_000_000}


# the picture


def test_a_map_shows_tours_stops_and_depot() -> None:
    picture = tour_map("Tours of S-BER", problem(), solution())
    assert picture.startswith("<svg ")
    assert picture.count("<polyline") == 1
    assert picture.count("<circle") == 2
    assert "V-1: 2 stops, 40.0 km" in picture
    assert "site S-BER" in picture


def test_a_map_names_what_was_left_behind() -> None:
    small = problem().vehicles[0].model_copy(update={"max_weight_g": 400})
    asked = problem().model_copy(update={"vehicles": (small,)})
    picture = tour_map("Tours", asked, solve(asked, iterations=50, seed=1))
    assert "<polyline" not in picture
    assert "it is too heavy: 500 g, and the largest vehicle takes 400" in picture


def test_a_map_without_places_is_a_list() -> None:
    bare = problem().model_copy(
        update={
            "depot": None,
            "stops": tuple(s.model_copy(update={"point": None}) for s in problem().stops),
        }
    )
    assert "V-1: 2 stops" in tour_map("Tours", bare, solution())
