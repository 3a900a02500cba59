"""Tours: which rule answers which command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from commands.handler import Handler, Read
from commands.orders import order_stream
from domain import orders, tour_bookings, tour_plans, tours
from domain.access import OPERATE, SERVE
from domain.tour_bookings import TOUR_ORDERS, TOUR_VEHICLES


def tour_stream(tour_id: str) -> str:
    """The stream of a tour."""
    return tours.STREAM.format(tour_id=tour_id)


def plan_stream(plan_id: str) -> str:
    """The stream of a plan of tours."""
    return tour_plans.STREAM.format(plan_id=plan_id)


class _OfStop(Protocol):
    order_id: str


def _orders(order_ids: Iterable[str], site_id: str) -> list[Read]:
    names = (tour_bookings.order_stream(name, site_id) for name in order_ids)
    return [Read(name, TOUR_ORDERS, appends=True) for name in names]


def _vehicles(vehicle_ids: Iterable[str]) -> list[Read]:
    names = (tour_bookings.vehicle_stream(name) for name in vehicle_ids)
    return [Read(name, TOUR_VEHICLES, appends=True) for name in names]


def _new_tours(command: tour_plans.PlanTours) -> list[Read]:
    routes = command.solution.routes
    return [
        *_tours(tour_plans.tour_ids(command)),
        *_vehicles(route.vehicle_id for route in routes),
        *_orders((visit.order_id for one in routes for visit in one.visits), command.site_id),
    ]


def _its_tours(_: tour_plans.CancelTourPlan, plan: tour_plans.TourPlan) -> list[Read]:
    return [
        *_tours(plan.tour_ids),
        *_vehicles(plan.vehicle_ids),
        *_orders(plan.order_ids, plan.site_id),
    ]


def _tours(tour_ids: Iterable[str]) -> list[Read]:
    return [Read(tour_stream(name), tours.TOURS, appends=True) for name in tour_ids]


def _order(command: tours.CompleteStop) -> list[Read]:
    return [Read(order_stream(command.order_id), orders.ORDERS, appends=True)]


def _its_order(command: _OfStop, tour: tours.Tour) -> Sequence[Read]:
    return () if tour.planned is None else _orders([command.order_id], tour.planned.site_id)


def _its_vehicle(_: Any, tour: tours.Tour) -> Sequence[Read]:
    return () if tour.planned is None else _vehicles([tour.planned.vehicle_id])


def _all_of_it(command: tours.CancelTour, tour: tours.Tour) -> Sequence[Read]:
    if tour.planned is None:
        return ()
    of_orders = _orders((stop.order_id for stop in tour.planned.stops), tour.planned.site_id)
    return [*_its_vehicle(command, tour), *of_orders]


HANDLERS = (
    Handler(
        command=tour_plans.PlanTours,
        roles=SERVE,
        stream=lambda command: plan_stream(command.plan_id),
        decider=tour_plans.TOUR_PLANS,
        decide=lambda command, actor, plan, others: tour_plans.plan(plan, command, actor, others),
        reads=_new_tours,
        several=True,
    ),
    Handler(
        command=tour_plans.CancelTourPlan,
        roles=OPERATE,
        stream=lambda command: plan_stream(command.plan_id),
        decider=tour_plans.TOUR_PLANS,
        decide=lambda command, actor, plan, its: tour_plans.cancel(plan, command, actor, its),
        follows=_its_tours,
        several=True,
    ),
    Handler(
        command=tours.CompleteStop,
        roles=OPERATE,
        stream=lambda command: tour_stream(command.tour_id),
        decider=tours.TOURS,
        decide=lambda command, _, tour, others: tours.complete_stop(
            tour, command, others[order_stream(command.order_id)], others
        ),
        reads=_order,
        follows=_its_order,
        several=True,
    ),
    Handler(
        command=tours.StartTour,
        roles=OPERATE,
        stream=lambda command: tour_stream(command.tour_id),
        decider=tours.TOURS,
        decide=lambda command, _, tour, others: tours.start(tour, command, others),
        follows=_its_vehicle,
        several=True,
    ),
    Handler(
        command=tours.FailStop,
        roles=OPERATE,
        stream=lambda command: tour_stream(command.tour_id),
        decider=tours.TOURS,
        decide=lambda command, _, tour, others: tours.fail_stop(tour, command, others),
        follows=_its_order,
        several=True,
    ),
    Handler(
        command=tours.FinishTour,
        roles=OPERATE,
        stream=lambda command: tour_stream(command.tour_id),
        decider=tours.TOURS,
        decide=lambda command, _, tour, others: tours.finish(tour, command, others),
        follows=_its_vehicle,
        several=True,
    ),
    Handler(
        command=tours.CancelTour,
        roles=OPERATE,
        stream=lambda command: tour_stream(command.tour_id),
        decider=tours.TOURS,
        decide=lambda command, actor, tour, others: tours.cancel(tour, command, actor, others),
        follows=_all_of_it,
        several=True,
    ),
)
