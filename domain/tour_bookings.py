"""Which tour an order of a site is on, and which tours a vehicle has: never two at once.

Each is a small stream that the rules of plans and tours append to together with their own
(docs/adr/0041), so that of two who plan the same at the same time only one is heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from domain.decider import Decider
from domain.errors import Refused
from domain.tour_events import TourPlanned
from domain.values import Event

#: What became of a tour, or of a stop of it.
Outcome = Literal["completed", "failed", "cancelled"]
#: So many tours that are over a vehicle is remembered to have had: nobody plans so far back.
_REMEMBERED = 31

# events


class OrderPutOnTour(Event):
    """What of an order is to go from a site goes on a tour, and on no other."""

    order_id: str
    site_id: str
    tour_id: str
    put_on_at: datetime


class OrderTakenOffTour(Event):
    """An order waits on its tour no more. ``outcome``: completed, failed or cancelled; what of it
    is still to go from the site may be planned again."""

    order_id: str
    site_id: str
    tour_id: str
    outcome: str
    taken_off_at: datetime


class VehiclePutOnTour(Event):
    """A vehicle has a tour, from when to when by its plan."""

    vehicle_id: str
    tour_id: str
    starts_at: datetime
    ends_at: datetime
    put_on_at: datetime


class VehicleLeftOnTour(Event):
    """A vehicle is on its way."""

    vehicle_id: str
    tour_id: str
    left_at: datetime


class VehicleTakenOffTour(Event):
    """A vehicle is back from its tour, or never leaves on it. ``outcome``: completed or
    cancelled."""

    vehicle_id: str
    tour_id: str
    outcome: str
    taken_off_at: datetime


EVENTS = (
    OrderPutOnTour,
    OrderTakenOffTour,
    VehiclePutOnTour,
    VehicleLeftOnTour,
    VehicleTakenOffTour,
)

#: The streams that the events belong to, by their fields.
ORDER_STREAM = "tour_orders/{order_id}/{site_id}"
VEHICLE_STREAM = "tour_vehicles/{vehicle_id}"
STREAMS: dict[type[Event], str] = {
    **dict.fromkeys((OrderPutOnTour, OrderTakenOffTour), ORDER_STREAM),
    **dict.fromkeys((VehiclePutOnTour, VehicleLeftOnTour, VehicleTakenOffTour), VEHICLE_STREAM),
}

SENTENCES: dict[type[Event], str] = {
    OrderPutOnTour: "Order {order_id} goes from site {site_id} on tour {tour_id}",
    OrderTakenOffTour: "Order {order_id} of site {site_id} is off tour {tour_id}: {outcome}",
    VehiclePutOnTour: "Vehicle {vehicle_id} has tour {tour_id} from {starts_at} to {ends_at}",
    VehicleLeftOnTour: "Vehicle {vehicle_id} is on its way on tour {tour_id}",
    VehicleTakenOffTour: "Vehicle {vehicle_id} is off tour {tour_id}: {outcome}",
}

# state


@dataclass(frozen=True, slots=True)
class OrderOnTour:
    """The tour that an order of a site waits on; None: on none."""

    tour_id: str | None = None


class Booking(NamedTuple):
    """A tour of a vehicle, from when to when by its plan. ``stands``: planned, under_way, over."""

    starts_at: datetime
    ends_at: datetime
    stands: str = "planned"


@dataclass(frozen=True, slots=True)
class VehicleTours:
    """The tours that a vehicle has, and the last ones that it had."""

    bookings: dict[str, Booking] = field(default_factory=dict)

    def clash(self, starts_at: datetime, ends_at: datetime) -> str | None:
        """A tour that the vehicle has at that time, be it over; None: it has none."""
        for tour_id, one in self.bookings.items():
            if one.starts_at < ends_at and starts_at < one.ends_at:
                return tour_id
        return None

    def without(self, tour_ids: Iterable[str]) -> VehicleTours:
        """As if the vehicle did not have these tours."""
        gone = set(tour_ids)
        return VehicleTours({k: one for k, one in self.bookings.items() if k not in gone})


def evolve_order(_: OrderOnTour, event: Event) -> OrderOnTour:
    """Where an order is after one more of the events."""
    return OrderOnTour(event.tour_id if isinstance(event, OrderPutOnTour) else None)


def evolve_vehicle(vehicle: VehicleTours, event: Event) -> VehicleTours:
    """What a vehicle has after one more of the events."""
    bookings = dict(vehicle.bookings)
    match event:
        case VehiclePutOnTour():
            bookings[event.tour_id] = Booking(event.starts_at, event.ends_at)
        case VehicleLeftOnTour():
            bookings[event.tour_id] = bookings[event.tour_id]._replace(stands="under_way")
        case VehicleTakenOffTour(outcome="cancelled"):
            bookings.pop(event.tour_id)
        case VehicleTakenOffTour():
            bookings[event.tour_id] = bookings[event.tour_id]._replace(stands="over")
            over = [(one.ends_at, name) for name, one in bookings.items() if one.stands == "over"]
            for _, name in sorted(over)[:-_REMEMBERED]:
                bookings.pop(name)
    return VehicleTours(bookings)


TOUR_ORDERS = Decider(initial=OrderOnTour(), evolve=evolve_order)
TOUR_VEHICLES = Decider(initial=VehicleTours(), evolve=evolve_vehicle)

#: The states of these streams, by the streams' names.
Bookings = Mapping[str, Any]


def order_stream(order_id: str, site_id: str) -> str:
    """The stream that says which tour an order of a site is on."""
    return ORDER_STREAM.format(order_id=order_id, site_id=site_id)


def vehicle_stream(vehicle_id: str) -> str:
    """The stream that says which tours a vehicle has."""
    return VEHICLE_STREAM.format(vehicle_id=vehicle_id)


# decisions


def put_on(tours: Sequence[TourPlanned], bookings: Bookings) -> list[Event]:
    """Put the orders and the vehicles of new tours on them.

    Raises:
        Refused: one of them is on another tour.
    """
    now = dict(bookings)
    found: list[Event] = []
    for tour in tours:
        name = vehicle_stream(tour.vehicle_id)
        other = now[name].clash(tour.starts_at, tour.ends_at)
        if other is not None:
            raise Refused(
                "tour.vehicle_on_another_tour",
                vehicle_id=tour.vehicle_id,
                tour_id=other,
                starts_at=tour.starts_at.isoformat(),
                ends_at=tour.ends_at.isoformat(),
            )
        taken = VehiclePutOnTour(
            vehicle_id=tour.vehicle_id,
            tour_id=tour.tour_id,
            starts_at=tour.starts_at,
            ends_at=tour.ends_at,
            put_on_at=tour.planned_at,
        )
        now[name] = evolve_vehicle(now[name], taken)
        found.append(taken)
        for stop in tour.stops:
            name = order_stream(stop.order_id, tour.site_id)
            if now[name].tour_id is not None:
                raise Refused(
                    "tour.order_on_another_tour",
                    order_id=stop.order_id,
                    site_id=tour.site_id,
                    tour_id=now[name].tour_id,
                )
            put = OrderPutOnTour(
                order_id=stop.order_id,
                site_id=tour.site_id,
                tour_id=tour.tour_id,
                put_on_at=tour.planned_at,
            )
            now[name] = evolve_order(now[name], put)
            found.append(put)
    return found


def leave(tour: TourPlanned, at: datetime, bookings: Bookings) -> list[Event]:
    """Send a tour's vehicle on its way.

    Raises:
        Refused: it is on the way on another tour.
    """
    vehicle: VehicleTours = bookings[vehicle_stream(tour.vehicle_id)]
    for tour_id, one in vehicle.bookings.items():
        if one.stands == "under_way":
            raise Refused("tour.vehicle_under_way", vehicle_id=tour.vehicle_id, tour_id=tour_id)
    if tour.tour_id not in vehicle.bookings:
        return []
    return [VehicleLeftOnTour(vehicle_id=tour.vehicle_id, tour_id=tour.tour_id, left_at=at)]


def take_order_off(
    tour: TourPlanned, order_id: str, outcome: Outcome, at: datetime, bookings: Bookings
) -> list[Event]:
    """Take an order off a tour, where it is on it."""
    if bookings[order_stream(order_id, tour.site_id)].tour_id != tour.tour_id:
        return []
    return [
        OrderTakenOffTour(
            order_id=order_id,
            site_id=tour.site_id,
            tour_id=tour.tour_id,
            outcome=outcome,
            taken_off_at=at,
        )
    ]


def take_vehicle_off(
    tour: TourPlanned, outcome: Outcome, at: datetime, bookings: Bookings
) -> list[Event]:
    """Take the vehicle off a tour, where it is on it."""
    if tour.tour_id not in bookings[vehicle_stream(tour.vehicle_id)].bookings:
        return []
    return [
        VehicleTakenOffTour(
            vehicle_id=tour.vehicle_id, tour_id=tour.tour_id, outcome=outcome, taken_off_at=at
        )
    ]


def take_all_off(tour: TourPlanned, at: datetime, bookings: Bookings) -> list[Event]:
    """Take everything off a tour that is given up."""
    orders = (
        event
        for stop in tour.stops
        for event in take_order_off(tour, stop.order_id, "cancelled", at, bookings)
    )
    return [*take_vehicle_off(tour, "cancelled", at, bookings), *orders]
