"""Plans of tours: which orders of a site go on which tour of a day, and which could not.

A plan keeps the solver's solution, and says by which problem, solver, version, iterations and seed
it was found: whoever solves the same again must come to the same (docs/adr/0041).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain import tours
from domain.costing import carbon_g, cost
from domain.decider import Decider
from domain.errors import Refused
from domain.models import Hash
from domain.places import Point
from domain.routing import Emission, Rates, Route, Solution
from domain.tour_bookings import Bookings, put_on
from domain.tour_events import PlannedStop, TourPlanned
from domain.tours import legs, parted
from domain.values import Command, Currency, Event, Id, Text, UtcTime, Value

# values and commands


class TourVehicle(Value):
    """What of a vehicle a tour's event keeps."""

    vehicle_id: Id
    driver_id: Id | None = None
    mode: str
    max_weight_g: int | None = None
    max_volume_cm3: int | None = None
    rates: Rates = Rates()
    emission: Emission | None = None


class TourOrder(Value):
    """What of an order a tour's event keeps; ``direct_m``: from the depot to it."""

    order_id: Id
    weight_g: int = 0
    volume_cm3: int = 0
    direct_m: int = 0
    point: Point | None = None
    customer_id: Id | None = None


class PlanTours(Command):
    """Put a solution into effect: a tour for each of its routes.

    ``origin``: the time of the solution's second 0. ``problem_hash``: the artifact with the
    problem. ``replaces``: a plan whose tours were given up for this one.
    """

    plan_id: Id
    site_id: Id
    day: date
    currency: Currency
    origin: UtcTime
    problem_hash: Hash
    estimate: Text
    solution: Solution
    vehicles: Annotated[tuple[TourVehicle, ...], Field(max_length=1000)]
    orders: Annotated[tuple[TourOrder, ...], Field(max_length=1000)]
    replaces: Id | None = None
    planned_at: UtcTime

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        vehicles = {one.vehicle_id for one in self.vehicles}
        orders = {one.order_id for one in self.orders}
        for route in self.solution.routes:
            if route.vehicle_id not in vehicles:
                raise ValueError(f"vehicles: {route.vehicle_id} of the solution is missing")
            for visit in route.visits:
                if visit.order_id not in orders:
                    raise ValueError(f"orders: {visit.order_id} of the solution is missing")
        return self


class CancelTourPlan(Command):
    """Give up the tours of a plan that have not begun; those on the way go on."""

    plan_id: Id
    reason: Text
    cancelled_at: UtcTime


# events


class ToursPlanned(Event):
    """A plan was made. ``solution`` says which orders are on which tour, and why others are not."""

    plan_id: str
    site_id: str
    day: date
    currency: str
    origin: datetime
    problem_hash: str
    estimate: str
    solver: str
    solver_version: str
    iterations: int
    seed: int
    solution: Solution
    tour_ids: tuple[str, ...]
    served: int
    unserved: int
    distance_m: int
    cost_minor: int
    carbon_g: int | None
    replaces: str | None
    planned_by: str
    planned_at: datetime


class TourPlanCancelled(Event):
    """A plan was given up, and those of its tours that had not begun."""

    plan_id: str
    site_id: str
    day: date
    tour_ids: tuple[str, ...]
    reason: str
    cancelled_by: str
    cancelled_at: datetime


EVENTS = (ToursPlanned, TourPlanCancelled)

#: The stream that an event belongs to, by its fields.
STREAM = "tour_plans/{plan_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    ToursPlanned: "{planned_by} planned the tours of site {site_id} for {day}: {served} orders on "
    "their way, {unserved} left behind, {distance_m} m, {cost_minor} {currency} minor units",
    TourPlanCancelled: "{cancelled_by} gave up the plan {plan_id} of site {site_id} for {day}: "
    "{reason}",
}

# state


@dataclass(frozen=True, slots=True)
class TourPlan:
    """What the rules need to know of a plan."""

    plan_id: str = ""
    site_id: str = ""
    day: date | None = None
    tour_ids: tuple[str, ...] = ()
    vehicle_ids: tuple[str, ...] = ()
    order_ids: tuple[str, ...] = ()
    is_cancelled: bool = False


def evolve(plan: TourPlan, event: Event) -> TourPlan:
    """The plan after one more of its events."""
    match event:
        case ToursPlanned():
            return TourPlan(
                event.plan_id,
                event.site_id,
                event.day,
                event.tour_ids,
                tuple(route.vehicle_id for route in event.solution.routes),
                tuple(visit.order_id for route in event.solution.routes for visit in route.visits),
            )
        case TourPlanCancelled():
            return replace(plan, is_cancelled=True)
    return plan


TOUR_PLANS = Decider(initial=TourPlan(), evolve=evolve)


# decisions


def tour_ids(command: PlanTours) -> tuple[str, ...]:
    """The tours of a plan, by its own name and a number."""
    return tuple(tour_id(command.plan_id, n) for n in range(1, len(command.solution.routes) + 1))


def tour_id(plan_id: str, number: int) -> str:
    """The n-th tour of a plan."""
    return f"{plan_id}.{number}"


def plan(state: TourPlan, command: PlanTours, actor: str, bookings: Bookings) -> Sequence[Event]:
    """Make the tours of a solution, of vehicles and orders that are on no other tour."""
    if state.plan_id:
        raise Refused("tour_plan.already_made", plan_id=command.plan_id)
    planned = [
        _tour(command, number, route)
        for number, route in enumerate(command.solution.routes, start=1)
    ]
    grams = [one.carbon_g for one in planned]
    solution = command.solution
    return [
        ToursPlanned(
            **command.model_dump(
                include={
                    *("plan_id", "site_id", "day", "currency", "origin", "problem_hash"),
                    *("estimate", "replaces", "planned_at"),
                }
            ),
            solver=solution.solver,
            solver_version=solution.solver_version,
            iterations=solution.iterations,
            seed=solution.seed,
            solution=solution,
            tour_ids=tuple(one.tour_id for one in planned),
            served=sum(len(one.stops) for one in planned),
            unserved=len(solution.unserved),
            distance_m=solution.distance_m,
            cost_minor=sum(one.cost_minor for one in planned),
            # A sum without some of its parts would be too small: nobody could tell.
            carbon_g=None if None in grams else sum(g for g in grams if g is not None),
            planned_by=actor,
        ),
        *planned,
        *put_on(planned, bookings),
    ]


def cancel(
    state: TourPlan, command: CancelTourPlan, actor: str, of_plan: Bookings
) -> Sequence[Event]:
    """Give up a plan and its tours, but for those on the way.

    ``of_plan``: its tours, and what is said of their vehicles and orders, by their streams' names.
    """
    if not state.plan_id or state.day is None:
        raise Refused("tour_plan.unknown", plan_id=command.plan_id)
    if state.is_cancelled:
        raise Refused("tour_plan.already_cancelled", plan_id=command.plan_id)
    open_ = [
        tour.planned
        for name in state.tour_ids
        if (tour := of_plan[tours.STREAM.format(tour_id=name)]).status is tours.Status.PLANNED
    ]
    if state.tour_ids and not open_:
        raise Refused("tour_plan.nothing_left", plan_id=command.plan_id)
    return [
        TourPlanCancelled(
            plan_id=state.plan_id,
            site_id=state.site_id,
            day=state.day,
            tour_ids=tuple(one.tour_id for one in open_),
            reason=command.reason,
            cancelled_by=actor,
            cancelled_at=command.cancelled_at,
        ),
        *(
            event
            for one in open_
            for event in tours.cancelled(one, command.reason, actor, command.cancelled_at, of_plan)
        ),
    ]


def _tour(command: PlanTours, number: int, route: Route) -> TourPlanned:
    vehicle = next(one for one in command.vehicles if one.vehicle_id == route.vehicle_id)
    orders = {one.order_id: one for one in command.orders}

    def at(second: int) -> datetime:
        return command.origin + timedelta(seconds=second)

    stops = tuple(
        PlannedStop(
            stop_no=stop_no,
            order_id=visit.order_id,
            arrives_at=at(visit.arrives_s),
            begins_at=at(visit.begins_s),
            leaves_at=at(visit.leaves_s),
            distance_m=visit.distance_m,
            travel_s=visit.travel_s,
            direct_m=orders[visit.order_id].direct_m,
            weight_g=orders[visit.order_id].weight_g,
            volume_cm3=orders[visit.order_id].volume_cm3,
            point=orders[visit.order_id].point,
            customer_id=orders[visit.order_id].customer_id,
        )
        for stop_no, visit in enumerate(route.visits, start=1)
    )
    spent = cost(
        vehicle.rates,
        distance_m=route.distance_m,
        duration_s=route.ends_s - route.starts_s,
        stops=len(stops),
    ).total
    grams = None
    if vehicle.emission is not None:
        ways = legs(stops, route.back_distance_m, route.weight_g)
        grams = carbon_g(vehicle.emission, ways, vehicle.max_weight_g)
    return TourPlanned(
        tour_id=tour_id(command.plan_id, number),
        plan_id=command.plan_id,
        site_id=command.site_id,
        day=command.day,
        vehicle_id=vehicle.vehicle_id,
        driver_id=vehicle.driver_id,
        mode=vehicle.mode,
        currency=command.currency,
        starts_at=at(route.starts_s),
        ends_at=at(route.ends_s),
        distance_m=route.distance_m,
        back_distance_m=route.back_distance_m,
        travel_s=route.travel_s,
        waiting_s=route.waiting_s,
        service_s=route.service_s,
        weight_g=route.weight_g,
        volume_cm3=route.volume_cm3,
        max_weight_g=vehicle.max_weight_g,
        rates=vehicle.rates,
        emission=vehicle.emission,
        cost_minor=spent,
        carbon_g=grams,
        stops=stops,
        shares=parted(stops, spent, grams),
        planned_at=command.planned_at,
        max_volume_cm3=vehicle.max_volume_cm3,
    )
