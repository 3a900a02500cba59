"""What is said of tours: planned, begun, gone stop by stop, finished or given up."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from domain.order_events import Proof, is_none
from domain.places import Point
from domain.routing import Emission, Rates
from domain.values import Event, Value

#: Who took the goods: never a name, that is personal.
TakenBy = Literal["recipient", "household", "neighbour", "reception", "safe_place"]
#: Why nothing was handed over.
FailReason = Literal[
    "nobody_there", "refused", "wrong_address", "damaged", "no_access", "too_late", "other"
]

# values


class PlannedStop(Value):
    """A stop as it was planned. ``direct_m``: from the depot straight to it, which an order's part
    in cost and emissions goes by."""

    stop_no: int
    order_id: str
    arrives_at: datetime
    begins_at: datetime
    leaves_at: datetime
    distance_m: int
    travel_s: int
    direct_m: int
    weight_g: int
    volume_cm3: int
    point: Point | None
    # Left out where it is not known, so that such an event has the bytes it always had.
    customer_id: Annotated[str | None, Field(exclude_if=is_none)] = None


class OrderShare(Value):
    """An order's part in a tour; parts sum up to the whole. ``handed_over``: None before the tour
    came back."""

    order_id: str
    cost_minor: int
    carbon_g: int | None
    # Left out where they are not known, so that such an event has the bytes it always had.
    customer_id: Annotated[str | None, Field(exclude_if=is_none)] = None
    handed_over: Annotated[bool | None, Field(exclude_if=is_none)] = None


# events


class TourPlanned(Event):
    """A vehicle is to go to some places in this order; ``driver_id``: a token. ``shares``:
    each order's part in what the tour is to cost and emit; ``carbon_g`` None: nothing is known of
    the vehicle's emissions."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    driver_id: str | None
    mode: str
    currency: str
    starts_at: datetime
    ends_at: datetime
    distance_m: int
    back_distance_m: int
    travel_s: int
    waiting_s: int
    service_s: int
    weight_g: int
    volume_cm3: int
    max_weight_g: int | None
    rates: Rates
    emission: Emission | None
    cost_minor: int
    carbon_g: int | None
    stops: tuple[PlannedStop, ...]
    shares: tuple[OrderShare, ...]
    planned_at: datetime
    # Left out where it is not known, so that such an event has the bytes it always had.
    max_volume_cm3: Annotated[int | None, Field(exclude_if=is_none)] = None


class TourStarted(Event):
    """A vehicle has left; ``delay_s`` above 0: later than planned."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    planned_at: datetime
    started_at: datetime
    delay_s: int


class StopCompleted(Event):
    """An order was handed over. ``planned_at``: when its service was to end."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    stop_no: int
    order_id: str
    proof: Proof | None
    taken_by: str
    planned_at: datetime
    arrived_at: datetime | None
    completed_at: datetime
    delay_s: int


class StopFailed(Event):
    """An order could not be handed over and is taken back."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    stop_no: int
    order_id: str
    reason: str
    note: str | None
    planned_at: datetime
    arrived_at: datetime | None
    failed_at: datetime
    delay_s: int


class TourCompleted(Event):
    """A vehicle is back, with what was planned and what came of it. ``measured`` false: the plan's
    distance was taken, nobody has told the real one. ``volume_cm3``, ``max_volume_cm3``: what was
    loaded and what the vehicle holds; None: its plan did not say."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    currency: str
    completed: int
    failed: int
    weight_g: int
    max_weight_g: int | None
    planned_distance_m: int
    distance_m: int
    measured: bool
    planned_s: int
    duration_s: int
    planned_cost_minor: int
    cost_minor: int
    planned_carbon_g: int | None
    carbon_g: int | None
    shares: tuple[OrderShare, ...]
    finished_at: datetime
    delay_s: int
    # Left out where they are not known, so that such an event has the bytes it always had.
    volume_cm3: Annotated[int | None, Field(exclude_if=is_none)] = None
    max_volume_cm3: Annotated[int | None, Field(exclude_if=is_none)] = None


class TourCancelled(Event):
    """A tour was given up before it began."""

    tour_id: str
    plan_id: str
    site_id: str
    day: date
    vehicle_id: str
    order_ids: tuple[str, ...]
    reason: str
    cancelled_by: str
    cancelled_at: datetime


EVENTS = (TourPlanned, TourStarted, StopCompleted, StopFailed, TourCompleted, TourCancelled)

#: The stream that an event belongs to, by its fields.
STREAM = "tours/{tour_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    TourPlanned: "Tour {tour_id} of vehicle {vehicle_id} from site {site_id} was planned for "
    "{day}: {distance_m} m, {cost_minor} {currency} minor units",
    TourStarted: "Vehicle {vehicle_id} began tour {tour_id}, {delay_s} s after the plan",
    StopCompleted: "Order {order_id} was handed over at stop {stop_no} of tour {tour_id}, "
    "{delay_s} s after the plan",
    StopFailed: "Order {order_id} could not be handed over at stop {stop_no} of tour {tour_id}: "
    "{reason}",
    TourCompleted: "Tour {tour_id} is done: {completed} stops, {failed} failed, {distance_m} m "
    "of {planned_distance_m} m planned",
    TourCancelled: "Tour {tour_id} was given up: {reason}",
}
