"""Which tour an order of a site is on, and which tours a vehicle has: never two at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import HANDLERS, Bus, Context
from domain.access import Role
from domain.errors import Refused
from domain.order_events import LinePart, LineSite, OrderPartShipped, ShipmentDelivered
from domain.orders import (
    OrderAllocated,
    OrderDelivered,
    OrderLine,
    OrderPlaced,
    OrderShipped,
)
from domain.routing import Route, Solution
from domain.tour_bookings import (
    TOUR_VEHICLES,
    OrderPutOnTour,
    OrderTakenOffTour,
    VehicleLeftOnTour,
    VehiclePutOnTour,
    VehicleTakenOffTour,
    VehicleTours,
)
from domain.tour_events import StopCompleted, TourCancelled
from domain.tour_plans import CancelTourPlan, PlanTours, TourOrder
from domain.tours import CancelTour, StartTour
from domain.values import Command, Event
from eventstore import Log, Writer, prepare_database
from eventstore.streams import Streams
from tests.spec import given
from tests.test_tours import (
    COMPLETE,
    DAY,
    EIGHT,
    FAIL,
    FINISH,
    FIRST,
    NOON,
    PLAN,
    SECOND,
    TOUR,
    done,
    on_its_way,
    plan,
    started,
)


def put(order_id: str, tour_id: str = "TP-1.1") -> OrderPutOnTour:
    return OrderPutOnTour(order_id=order_id, site_id="S-BER", tour_id=tour_id, put_on_at=DAY)


def off(order_id: str, outcome: str, at: Any) -> OrderTakenOffTour:
    return OrderTakenOffTour(
        order_id=order_id, site_id="S-BER", tour_id="TP-1.1", outcome=outcome, taken_off_at=at
    )


def taken(tour_id: str = "TP-1.1", hours: float = 0) -> VehiclePutOnTour:
    later = timedelta(hours=hours)
    return VehiclePutOnTour(
        vehicle_id="V-1",
        tour_id=tour_id,
        starts_at=TOUR.starts_at + later,
        ends_at=TOUR.ends_at + later,
        put_on_at=DAY,
    )


def away(tour_id: str = "TP-1.1") -> VehicleLeftOnTour:
    return VehicleLeftOnTour(vehicle_id="V-1", tour_id=tour_id, left_at=started.started_at)


def back(outcome: str, at: Any, tour_id: str = "TP-1.1") -> VehicleTakenOffTour:
    return VehicleTakenOffTour(vehicle_id="V-1", tour_id=tour_id, outcome=outcome, taken_off_at=at)


BOTH = (put(FIRST), put(SECOND))


# plans


def test_a_plan_takes_its_vehicles_and_orders() -> None:
    given().when(plan()).then(PLAN, TOUR, taken(), put(FIRST), put(SECOND))


def test_an_order_that_is_on_a_tour_is_put_on_no_other() -> None:
    given().reading(put(SECOND, "TP-9.1")).when(plan()).refused(
        "tour.order_on_another_tour", order_id=SECOND, site_id="S-BER", tour_id="TP-9.1"
    )
    elsewhere = put(SECOND, "TP-9.1").model_copy(update={"site_id": "S-ELSE"})
    assert given().reading(elsewhere).when(plan()).refusal is None


def test_a_vehicle_has_no_two_tours_in_the_same_hours() -> None:
    """Nor where the other one is over; one behind the other it may have."""
    for history in (
        (taken("TP-9.1", 1),),
        (taken("TP-9.1"), away("TP-9.1")),
        (taken("TP-9.1"), away("TP-9.1"), back("completed", NOON, "TP-9.1")),
    ):
        given().reading(*history).when(plan()).refused(
            "tour.vehicle_on_another_tour", vehicle_id="V-1", tour_id="TP-9.1"
        )
    for free in (
        (taken("TP-9.1", 2),),
        (taken("TP-9.1"), back("cancelled", NOON, "TP-9.1")),
    ):
        assert given().reading(*free).when(plan()).refusal is None


def test_a_plan_does_not_take_a_vehicle_or_an_order_twice() -> None:
    [route] = plan().solution.routes
    twice = plan().solution.model_copy(update={"routes": (route, route)})
    given().when(plan(solution=twice)).refused("tour.vehicle_on_another_tour", tour_id="TP-1.1")


# on the way


def test_a_vehicle_leaves_on_one_tour_at_a_time() -> None:
    command = StartTour(tour_id="TP-1.1", started_at=started.started_at)
    given(TOUR).reading(taken()).when(command).then(started, away())
    other = taken("TP-9.1", -5), away("TP-9.1")
    given(TOUR).reading(*other, taken()).when(command).refused(
        "tour.vehicle_under_way", vehicle_id="V-1", tour_id="TP-9.1"
    )
    over = *other, back("completed", NOON, "TP-9.1"), taken()
    given(TOUR).reading(*over).when(command).then(started, away())


def test_an_order_is_free_when_its_stop_is_done() -> None:
    outcome = given(TOUR, started).reading(*on_its_way(FIRST), *BOTH).when(COMPLETE)
    assert outcome.events[-1] == off(FIRST, "completed", COMPLETE.completed_at)
    outcome = given(TOUR, started).reading(*BOTH).when(FAIL)
    assert outcome.events[1:] == (off(SECOND, "failed", FAIL.failed_at),)
    freed = off(SECOND, "failed", FAIL.failed_at)
    assert given().reading(put(SECOND), freed).when(plan()).refusal is None


def test_a_vehicle_is_free_when_it_is_back() -> None:
    over = done(FIRST, 1, COMPLETE.completed_at), done(SECOND, 2, COMPLETE.completed_at)
    outcome = given(TOUR, started, *over).reading(taken(), away()).when(FINISH)
    assert outcome.events[1:] == (back("completed", FINISH.finished_at),)


def test_what_is_given_up_is_free() -> None:
    free = back("cancelled", NOON), off(FIRST, "cancelled", NOON), off(SECOND, "cancelled", NOON)
    one = CancelTour(tour_id="TP-1.1", reason="no driver", cancelled_at=NOON)
    outcome = given(TOUR).reading(taken(), *BOTH).when(one)
    assert isinstance(outcome.events[0], TourCancelled)
    assert outcome.events[1:] == free
    whole = CancelTourPlan(plan_id="TP-1", reason="snow", cancelled_at=NOON)
    outcome = given(PLAN).reading(TOUR, taken(), *BOTH).when(whole)
    assert outcome.events[2:] == free


def test_what_went_on_another_tour_since_stays_on_it() -> None:
    """A tour gives free what is on it, and nothing else."""
    one = CancelTour(tour_id="TP-1.1", reason="no driver", cancelled_at=NOON)
    outcome = given(TOUR).reading(put(FIRST, "TP-9.1"), put(SECOND)).when(one)
    assert outcome.events[1:] == (off(SECOND, "cancelled", NOON),)


def test_of_tours_that_are_over_the_last_ones_are_remembered() -> None:
    vehicle = VehicleTours()
    for day in range(40):
        name = f"T-{day}"
        vehicle = TOUR_VEHICLES.fold(
            [taken(name, 24 * day), away(name), back("completed", NOON, name)], vehicle
        )
    assert list(vehicle.bookings) == [f"T-{day}" for day in range(9, 40)]


# what a vehicle brings


def part(shipment_id: str, line_no: int, site_id: str, vehicle_id: str | None) -> OrderPartShipped:
    return OrderPartShipped(
        order_id=FIRST,
        shipment_id=shipment_id,
        site_id=site_id,
        service_level="standard",
        region=None,
        carrier=None,
        vehicle_id=vehicle_id,
        lines=(
            LinePart(line_no=line_no, sku=f"SKU-{line_no}", site_id=site_id, quantity=Decimal(1)),
        ),
        units=Decimal(1),
        reserved=Decimal(0),
        weight_g=None,
        placed_at=DAY,
        promised_at=NOON,
        shipped_at=EIGHT,
        handling_s=0,
        out_of_order=False,
    )


def of_two_sites(vehicle_id: str | None = None) -> tuple[Event, ...]:
    """Lines 1 and 2 from Berlin, line 3 from elsewhere."""
    line = OrderLine(line_no=1, sku="SKU-1", quantity=Decimal(1), unit_price_minor=100)
    lines = tuple(
        line.model_copy(update={"line_no": number, "sku": f"SKU-{number}"}) for number in (1, 2, 3)
    )
    placed = on_its_way(FIRST)[0]
    assert isinstance(placed, OrderPlaced)
    return (
        placed.model_copy(update={"lines": lines}),
        OrderAllocated(
            order_id=FIRST,
            site_id="S-BER",
            service_level="standard",
            line_sites=(
                LineSite(line_no=1, site_id="S-BER"),
                LineSite(line_no=2, site_id="S-BER"),
                LineSite(line_no=3, site_id="S-ELSE"),
            ),
            decision_id=None,
            region=None,
            allocated_at=DAY,
            vehicle_id=vehicle_id,
        ),
    )


def delivered(*order: Event) -> list[str]:
    """The shipments that arrive with the stop; an order as a whole is one by its own name."""
    outcome = given(TOUR, started).reading(*order).when(COMPLETE)
    assert outcome.refusal is None, outcome.refusal
    assert isinstance(outcome.events[0], StopCompleted)
    return [
        one.shipment_id if isinstance(one, ShipmentDelivered) else type(one).__name__
        for one in outcome.events[1:]
    ]


def test_a_stop_delivers_what_its_vehicle_brings_from_its_site() -> None:
    order = of_two_sites()
    here, there = part("A", 1, "S-BER", "V-1"), part("C", 3, "S-ELSE", "V-9")
    assert delivered(*order, here, there) == ["A"]
    assert delivered(*order, part("A", 1, "S-BER", None), there) == ["A"]
    assert delivered(*order, here, part("B", 2, "S-BER", "V-2"), there) == ["A"]
    both = here, part("B", 2, "S-BER", "V-1")
    assert delivered(*order, *both, there) == ["A", "B"]


def test_the_vehicle_of_the_allocation_gives_way_to_the_tours() -> None:
    order = of_two_sites("V-7")
    assert delivered(*order, part("A", 1, "S-BER", "V-7")) == ["A"]
    mixed = part("A", 1, "S-BER", "V-7"), part("B", 2, "S-BER", "V-1")
    assert delivered(*order, *mixed) == ["B"]


def test_the_last_part_delivers_the_order() -> None:
    order = of_two_sites()
    parts = part("B", 2, "S-BER", None), part("C", 3, "S-ELSE", "V-9")
    all_left = OrderShipped(
        order_id=FIRST,
        site_id="S-BER",
        service_level="standard",
        region=None,
        carrier=None,
        shipped_at=EIGHT,
        handling_s=0,
        out_of_order=False,
        parts=3,
    )
    way = *order, part("A", 1, "S-BER", None), *parts, all_left
    assert delivered(*way) == ["A", "B"]
    arrived = [
        one
        for one in given(TOUR, started).reading(*way).when(COMPLETE).events
        if isinstance(one, ShipmentDelivered)
    ]
    last = arrived[0].model_copy(update={"shipment_id": "C", "lines": parts[1].lines})
    assert delivered(*way, last) == ["A", "B", OrderDelivered.__name__]


def test_a_stop_brings_nothing_that_left_from_elsewhere() -> None:
    told = {"order_id": FIRST, "site_id": "S-BER", "vehicle_id": "V-1"}
    tour = given(TOUR, started)
    tour.reading(*of_two_sites(), part("C", 3, "S-ELSE", None)).when(COMPLETE).refused(
        "tour.order_not_on_board", **told
    )
    tour.reading(*of_two_sites(), part("A", 1, "S-BER", "V-2")).when(COMPLETE).refused(
        "tour.order_not_on_board", **told
    )
    placed, at, left = on_its_way(FIRST)
    assert isinstance(at, OrderAllocated)
    elsewhere = at.model_copy(update={"site_id": "S-ELSE"})
    tour.reading(placed, elsewhere, left).when(COMPLETE).refused("tour.order_not_on_board")


# on a real log


@pytest.fixture(scope="module", autouse=True)
def _prepared(database: str) -> None:
    prepare_database(database)


def one_of(number: int, order_ids: Sequence[str], vehicle_id: str) -> PlanTours:
    """A plan of its own with these orders, in whatever order, on one vehicle."""
    found = plan()
    [route] = found.solution.routes
    visit = route.visits[0]
    changed: Route = route.model_copy(
        update={
            "vehicle_id": vehicle_id,
            "visits": tuple(visit.model_copy(update={"order_id": name}) for name in order_ids),
        }
    )
    solution: Solution = found.solution.model_copy(update={"routes": (changed,)})
    return plan(
        plan_id=f"TP-{number}",
        solution=solution,
        vehicles=(found.vehicles[0].model_copy(update={"vehicle_id": vehicle_id}),),
        orders=tuple(TourOrder(order_id=name, weight_g=1, direct_m=1) for name in order_ids),
    )


_LIVE = """
    WITH told AS (
        SELECT topic, convert_from(state, 'UTF8')::jsonb AS e FROM events
        WHERE organisation_id = %(organisation_id)s
    ), tours AS (
        SELECT e FROM told WHERE topic = 'tours.TourPlanned.v1' AND e->>'tour_id' NOT IN
            (SELECT e->>'tour_id' FROM told WHERE topic = 'tours.TourCancelled.v1')
    )
    SELECT (SELECT max(n) FROM (SELECT count(*) AS n FROM tours GROUP BY e->>'vehicle_id') AS v),
        (SELECT max(n) FROM (SELECT count(*) AS n FROM tours, jsonb_array_elements(e->'stops') AS s
            GROUP BY s->>'order_id') AS o),
        (SELECT count(*) FROM tours)"""


def most_at_once(url: str, organisation: UUID) -> tuple[int, int, int]:
    """By the tours' own events: the most tours of a vehicle and of an order, and of all."""
    with psycopg.connect(url) as connection:
        row = connection.execute(_LIVE, {"organisation_id": organisation}).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def at_once(url: str, organisation: UUID, commands: Sequence[Command]) -> list[str]:
    """What becomes of commands that three buses are sent at once, each with a cache and a writer of
    its own as in one process."""

    @asynccontextmanager
    async def process() -> AsyncIterator[Bus]:
        async with (
            AsyncConnectionPool(url, open=False) as pool,
            Streams(url) as streams,
            Writer(url) as writer,
        ):
            yield Bus(Log(pool), streams, writer, HANDLERS)

    async def outcome(bus: Bus, command: Command) -> str:
        roles = frozenset({Role.ADMIN, Role.SERVICE})
        try:
            await bus.execute(command, Context(organisation, "ana", roles))
        except Refused as refusal:
            return refusal.code
        return "ok"

    async def told() -> list[str]:
        async with process() as one, process() as two, process() as three:
            buses = one, two, three
            sent = (outcome(buses[n % 3], command) for n, command in enumerate(commands))
            return list(await asyncio.gather(*sent))

    return asyncio.run(told())


def test_of_twelve_plans_of_the_same_orders_one_is_made(database: str) -> None:
    """In either order of the orders: nobody waits for who waits for him."""
    organisation = uuid4()
    names = [f"O-{number}" for number in range(20)]
    plans = [
        one_of(number, names if number % 2 else names[::-1], f"V-{number}") for number in range(12)
    ]
    outcomes = at_once(database, organisation, plans)
    assert sorted(outcomes) == ["ok", *["tour.order_on_another_tour"] * 11]
    assert most_at_once(database, organisation) == (1, 1, 1)


def test_of_twelve_plans_of_the_same_vehicle_one_is_made(database: str) -> None:
    organisation = uuid4()
    plans = [one_of(number, [f"O-{number}"], "V-1") for number in range(12)]
    outcomes = at_once(database, organisation, plans)
    assert sorted(outcomes) == ["ok", *["tour.vehicle_on_another_tour"] * 11]
    assert most_at_once(database, organisation) == (1, 1, 1)


def test_of_two_tours_of_a_vehicle_one_is_begun(database: str) -> None:
    organisation = uuid4()
    one, other = one_of(1, ["O-1"], "V-1"), one_of(2, ["O-2"], "V-1")
    other = other.model_copy(update={"origin": other.origin + timedelta(hours=6)})
    assert at_once(database, organisation, [one]) == ["ok"]
    assert at_once(database, organisation, [other]) == ["ok"]
    starts = [StartTour(tour_id=f"TP-{1 + n % 2}.1", started_at=EIGHT) for n in range(6)]
    outcomes = at_once(database, organisation, starts)
    assert outcomes.count("ok") == 1
    assert set(outcomes) == {"ok", "tour.vehicle_under_way", "tour.other_status"}


def test_what_a_plan_gave_up_is_planned_again_by_one(database: str) -> None:
    organisation = uuid4()
    assert at_once(database, organisation, [one_of(0, ["O-1"], "V-1")]) == ["ok"]
    gone = CancelTourPlan(plan_id="TP-0", reason="snow", cancelled_at=NOON)
    assert at_once(database, organisation, [gone]) == ["ok"]
    outcomes = at_once(database, organisation, [one_of(n, ["O-1"], f"V-{n}") for n in range(1, 7)])
    assert outcomes.count("ok") == 1
    assert most_at_once(database, organisation)[2] == 1
