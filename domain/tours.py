"""Tours: the day of a vehicle, stop by stop, planned and as it went.

A tour is planned as part of a plan (domain/tour_plans.py), begun, gone stop by stop, and finished.
What it will cost and emit is reckoned when it is planned, by rates that its event keeps, and again
when it is finished, by what was driven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from domain import orders
from domain.costing import Leg, carbon_g, cost, shares
from domain.decider import Decider
from domain.errors import Refused
from domain.order_events import Proof
from domain.order_state import Order
from domain.tour_bookings import (
    Bookings,
    leave,
    take_all_off,
    take_order_off,
    take_vehicle_off,
)
from domain.tour_events import (
    EVENTS,
    SENTENCES,
    STREAM,
    STREAMS,
    FailReason,
    OrderShare,
    PlannedStop,
    StopCompleted,
    StopFailed,
    TakenBy,
    TourCancelled,
    TourCompleted,
    TourPlanned,
    TourStarted,
)
from domain.values import Command, Event, Id, Text, UtcTime, seconds


class Status(StrEnum):
    """Where a tour stands."""

    UNKNOWN = "unknown"
    PLANNED = "planned"
    STARTED = "started"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


# commands


class StartTour(Command):
    """Leave the depot. Times of tours are told as they are, and may be told later."""

    tour_id: Id
    started_at: UtcTime


class CompleteStop(Command):
    """Hand an order of a tour over, which delivers it."""

    tour_id: Id
    order_id: Id
    proof: Proof | None = None
    taken_by: TakenBy = "recipient"
    arrived_at: UtcTime | None = None
    completed_at: UtcTime


class FailStop(Command):
    """Say that an order of a tour could not be handed over, and why; the order stays as it is."""

    tour_id: Id
    order_id: Id
    reason: FailReason
    note: Text | None = None
    arrived_at: UtcTime | None = None
    failed_at: UtcTime


class FinishTour(Command):
    """Be back at the depot. ``distance_m``: as driven; None: nobody has measured it, and the plan's
    counts."""

    tour_id: Id
    distance_m: Annotated[int, Field(ge=0, le=10**9)] | None = None
    finished_at: UtcTime


class CancelTour(Command):
    """Give a tour up that has not begun; its orders may be planned again."""

    tour_id: Id
    reason: Text
    cancelled_at: UtcTime


# state


@dataclass(frozen=True, slots=True)
class Tour:
    """What the rules need to know of a tour: its plan, when it began, and the stops that are done
    (True: handed over)."""

    status: Status = Status.UNKNOWN
    planned: TourPlanned | None = None
    started_at: datetime | None = None
    done: dict[str, bool] = field(default_factory=dict)


def evolve(tour: Tour, event: Event) -> Tour:
    """The tour after one more of its events."""
    match event:
        case TourPlanned():
            return Tour(status=Status.PLANNED, planned=event)
        case TourStarted():
            return replace(tour, status=Status.STARTED, started_at=event.started_at)
        case StopCompleted():
            return replace(tour, done={**tour.done, event.order_id: True})
        case StopFailed():
            return replace(tour, done={**tour.done, event.order_id: False})
        case TourCompleted():
            return replace(tour, status=Status.COMPLETED)
        case TourCancelled():
            return replace(tour, status=Status.CANCELLED)
    return tour


TOURS = Decider(initial=Tour(), evolve=evolve)


# decisions


def start(tour: Tour, command: StartTour, bookings: Bookings) -> Sequence[Event]:
    """Begin a planned tour whose vehicle is not on the way."""
    planned = _must_be(tour, command.tour_id, Status.PLANNED)
    left = leave(planned, command.started_at, bookings)
    return [
        TourStarted(
            **_of(planned),
            planned_at=planned.starts_at,
            started_at=command.started_at,
            delay_s=_s(planned.starts_at, command.started_at),
        ),
        *left,
    ]


def complete_stop(
    tour: Tour, command: CompleteStop, order: Order, bookings: Bookings
) -> Sequence[Event]:
    """Hand over what the vehicle has brought of an order; that is delivered by the order's own
    rule, or nothing happens at all."""
    planned, stop = _open_stop(tour, command.tour_id, command.order_id)
    _must_follow(tour, command.tour_id, "completed_at", command.completed_at)
    delivered = orders.hand_over(
        order,
        orders.DeliverOrder(
            order_id=stop.order_id, delivered_at=command.completed_at, proof=command.proof
        ),
        site_id=planned.site_id,
        vehicle_id=planned.vehicle_id,
    )
    return [
        StopCompleted(
            **_of(planned),
            stop_no=stop.stop_no,
            order_id=stop.order_id,
            proof=command.proof,
            taken_by=command.taken_by,
            planned_at=stop.leaves_at,
            arrived_at=command.arrived_at,
            completed_at=command.completed_at,
            delay_s=_s(stop.leaves_at, command.completed_at),
        ),
        *delivered,
        *take_order_off(planned, stop.order_id, "completed", command.completed_at, bookings),
    ]


def fail_stop(tour: Tour, command: FailStop, bookings: Bookings) -> Sequence[Event]:
    """Take an order back."""
    planned, stop = _open_stop(tour, command.tour_id, command.order_id)
    _must_follow(tour, command.tour_id, "failed_at", command.failed_at)
    return [
        StopFailed(
            **_of(planned),
            stop_no=stop.stop_no,
            order_id=stop.order_id,
            reason=command.reason,
            note=command.note,
            planned_at=stop.leaves_at,
            arrived_at=command.arrived_at,
            failed_at=command.failed_at,
            delay_s=_s(stop.leaves_at, command.failed_at),
        ),
        *take_order_off(planned, stop.order_id, "failed", command.failed_at, bookings),
    ]


def finish(tour: Tour, command: FinishTour, bookings: Bookings) -> Sequence[Event]:
    """End a tour whose stops are all done, one way or the other, and reckon it up."""
    planned = _must_be(tour, command.tour_id, Status.STARTED)
    _must_follow(tour, command.tour_id, "finished_at", command.finished_at)
    left = [stop.order_id for stop in planned.stops if stop.order_id not in tour.done]
    if left:
        raise Refused("tour.stops_open", tour_id=command.tour_id, open=len(left), order_id=left[0])
    distance = planned.distance_m if command.distance_m is None else command.distance_m
    took = _s(tour.started_at, command.finished_at)
    spent = cost(
        planned.rates, distance_m=distance, duration_s=took, stops=len(planned.stops)
    ).total
    carbon = tour_carbon_g(planned, distance)
    return [
        TourCompleted(
            **_of(planned),
            currency=planned.currency,
            completed=sum(tour.done.values()),
            failed=len(tour.done) - sum(tour.done.values()),
            weight_g=planned.weight_g,
            max_weight_g=planned.max_weight_g,
            planned_distance_m=planned.distance_m,
            distance_m=distance,
            measured=command.distance_m is not None,
            planned_s=_s(planned.starts_at, planned.ends_at),
            duration_s=took,
            planned_cost_minor=planned.cost_minor,
            cost_minor=spent,
            planned_carbon_g=planned.carbon_g,
            carbon_g=carbon,
            shares=parted(planned.stops, spent, carbon, tour.done),
            finished_at=command.finished_at,
            delay_s=_s(planned.ends_at, command.finished_at),
            volume_cm3=planned.volume_cm3,
            max_volume_cm3=planned.max_volume_cm3,
        ),
        *take_vehicle_off(planned, "completed", command.finished_at, bookings),
    ]


def cancel(tour: Tour, command: CancelTour, actor: str, bookings: Bookings) -> Sequence[Event]:
    """Give a planned tour up."""
    planned = _must_be(tour, command.tour_id, Status.PLANNED)
    return cancelled(planned, command.reason, actor, command.cancelled_at, bookings)


def cancelled(
    planned: TourPlanned, reason: str, actor: str, at: datetime, bookings: Bookings
) -> list[Event]:
    """That a planned tour was given up; its vehicle and its orders are free."""
    told = TourCancelled(
        **_of(planned),
        order_ids=tuple(stop.order_id for stop in planned.stops),
        reason=reason,
        cancelled_by=actor,
        cancelled_at=at,
    )
    return [told, *take_all_off(planned, at, bookings)]


def legs(stops: Sequence[PlannedStop], back_distance_m: int, weight_g: int) -> list[Leg]:
    """The ways of a tour, each with what is still loaded on it."""
    found: list[Leg] = []
    for stop in stops:
        found.append(Leg(distance_m=stop.distance_m, load_g=weight_g))
        weight_g -= stop.weight_g
    return [*found, Leg(distance_m=back_distance_m, load_g=0)]


def tour_carbon_g(planned: TourPlanned, distance_m: int) -> int | None:
    """What a tour emits that was so long in the end: all its ways were longer or shorter alike."""
    if planned.emission is None:
        return None
    ways = legs(planned.stops, planned.back_distance_m, planned.weight_g)
    whole = sum(leg.distance_m for leg in ways)
    if distance_m != whole:
        # The remainder of the division goes to the last way, which is empty: at most some metres.
        scaled = [leg.distance_m * distance_m // whole if whole else 0 for leg in ways]
        scaled[-1] += distance_m - sum(scaled)
        ways = [
            Leg(distance_m=metres, load_g=leg.load_g)
            for metres, leg in zip(scaled, ways, strict=True)
        ]
    return carbon_g(planned.emission, ways, planned.max_weight_g)


def parted(
    stops: Sequence[PlannedStop],
    cost_minor: int,
    carbon: int | None,
    done: Mapping[str, bool] | None = None,
) -> tuple[OrderShare, ...]:
    """A tour's cost and emissions, parted among its orders. ``done``: whether each was handed over,
    once the tour has come back."""
    handed_over = done or {}
    activity = [(stop.weight_g, stop.direct_m) for stop in stops]
    money = shares(cost_minor, activity)
    grams = [None] * len(stops) if carbon is None else shares(carbon, activity)
    return tuple(
        OrderShare(
            order_id=stop.order_id,
            cost_minor=minor,
            carbon_g=g,
            customer_id=stop.customer_id,
            handed_over=handed_over.get(stop.order_id),
        )
        for stop, minor, g in zip(stops, money, grams, strict=True)
    )


def _of(planned: TourPlanned) -> dict[str, Any]:
    names = ("tour_id", "plan_id", "site_id", "day", "vehicle_id")
    return {name: getattr(planned, name) for name in names}


def _must_be(tour: Tour, tour_id: str, status: Status) -> TourPlanned:
    if tour.planned is None:
        raise Refused("tour.unknown", tour_id=tour_id)
    if tour.status is not status:
        raise Refused(
            "tour.other_status", tour_id=tour_id, status=tour.status.value, needed=status.value
        )
    return tour.planned


def _open_stop(tour: Tour, tour_id: str, order_id: str) -> tuple[TourPlanned, PlannedStop]:
    planned = _must_be(tour, tour_id, Status.STARTED)
    stop = next((stop for stop in planned.stops if stop.order_id == order_id), None)
    if stop is None:
        raise Refused("tour.no_such_stop", tour_id=tour_id, order_id=order_id)
    if order_id in tour.done:
        said = "completed" if tour.done[order_id] else "failed"
        raise Refused("tour.stop_is_done", tour_id=tour_id, order_id=order_id, stop=said)
    return planned, stop


def _must_follow(tour: Tour, tour_id: str, name: str, at: datetime) -> None:
    """What happens on a tour does not happen before it begins."""
    if tour.started_at is not None and at < tour.started_at:
        raise Refused(
            "tour.before_it_began",
            tour_id=tour_id,
            field=name,
            at=at.isoformat(),
            started_at=tour.started_at.isoformat(),
        )


def _s(start: datetime | None, end: datetime | None) -> int:
    return seconds(start, end) or 0


__all__ = [
    "EVENTS",
    "SENTENCES",
    "STREAM",
    "STREAMS",
    "TOURS",
    "CancelTour",
    "CompleteStop",
    "FailStop",
    "FinishTour",
    "StartTour",
    "Status",
    "StopCompleted",
    "StopFailed",
    "Tour",
    "TourCancelled",
    "TourCompleted",
    "TourPlanned",
    "TourStarted",
    "cancel",
    "cancelled",
    "complete_stop",
    "fail_stop",
    "finish",
    "legs",
    "parted",
    "start",
]
