"""Shipments: parts of orders on their way, and the proof that they arrived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.errors import Refused
from domain.filled import filled
from domain.order_events import (
    LinePart,
    OrderDelivered,
    OrderPartShipped,
    OrderShipped,
    Proof,
    ShipmentDelivered,
)
from domain.order_state import (
    ORDERS,
    Order,
    Part,
    Status,
    must_be,
    must_be_in_steps,
    reserved,
    units,
)
from domain.places import Point
from domain.reservations import Shelves, Stocks, part_of
from domain.values import Command, Event, Id, Quantity, UtcTime, Value, seconds

#: How exactly it may be said where a person lives: about a kilometre.
PLACES_OF_PERSONS = 2

# values and commands


class LineQuantity(Value):
    """So much of a line."""

    line_no: Annotated[int, Field(ge=1, le=10_000)]
    quantity: Quantity = Field(examples=["1"])


def once(lines: Sequence[LineQuantity]) -> None:
    """Each line is named once.

    Raises:
        ValueError: one is named twice.
    """
    numbers = [line.line_no for line in lines]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"lines: line_no must be unique, got {numbers}")


Lines = Annotated[tuple[LineQuantity, ...], Field(min_length=1, max_length=1000)]


class ShipPart(Command):
    """Hand a part of an order to a carrier, from one site; what is reserved of it is picked."""

    order_id: Id
    shipment_id: Id
    lines: Lines
    carrier: Id | None = None
    vehicle_id: Id | None = None
    shipped_at: UtcTime | None

    @model_validator(mode="after")
    def _lines_are_named_once(self) -> Self:
        once(self.lines)
        return self


class DeliverShipment(Command):
    """Hand a shipment to the customer. An order that left as a whole is its own shipment ``1``."""

    order_id: Id
    shipment_id: Id
    delivered_at: UtcTime | None
    proof: Proof | None = None


# decisions


def ship_part(order: Order, command: ShipPart, stocks: Stocks) -> Sequence[Event]:
    """Ship some of what is open; of an order that was reserved, of what is reserved."""
    _must_be_on_its_way(order, command.order_id)
    if any(part.shipment_id == command.shipment_id for part in order.parts):
        raise Refused(
            "shipment.already_shipped", order_id=order.order_id, shipment_id=command.shipment_id
        )
    parts: list[LinePart] = []
    for asked in command.lines:
        line = order.line(asked.line_no)
        if asked.quantity > line.open:
            raise not_open(order, asked.line_no, line.open, asked.quantity)
        must_be_in_steps(order.order_id, line, line.step, asked.quantity)
        picked = min(line.picked, asked.quantity)
        if order.is_reserved and asked.quantity - picked > line.reserved:
            raise Refused(
                "order.backordered",
                order_id=order.order_id,
                line_no=line.line_no,
                reserved=line.reserved,
                backordered=line.backordered,
                asked=asked.quantity,
            )
        # What is off the shelf already leaves first.
        own = asked.quantity - picked if order.is_reserved else Decimal(0)
        parts.append(part_of(line, asked.quantity, own, picked=picked))
    sites = sorted({part.site_id or "" for part in parts})
    if len(sites) > 1:
        raise Refused(
            "shipment.of_several_sites",
            order_id=order.order_id,
            shipment_id=command.shipment_id,
            sites=", ".join(sites),
        )
    vehicle_id = command.vehicle_id or order.vehicle_id
    return _shipped(
        order,
        [(command.shipment_id, vehicle_id, parts)],
        command.carrier,
        command.shipped_at,
        stocks,
    )


def ship_rest(
    order: Order, carrier: str | None, shipped_at: datetime | None, stocks: Stocks
) -> list[Event]:
    """Ship all that is open, a shipment from each site, under the next free numbers."""
    for line in order.lines:
        if line.backordered:
            raise Refused(
                "order.backordered",
                order_id=order.order_id,
                line_no=line.line_no,
                reserved=line.reserved,
                backordered=line.backordered,
                asked=line.open,
            )
    open_ = sorted((line for line in order.lines if line.open), key=lambda line: line.site_id or "")
    taken = {part.shipment_id for part in order.parts}
    numbers = (str(n) for n in range(1, len(taken) + len(open_) + 1) if str(n) not in taken)
    shipments = [
        (
            next(numbers),
            order.vehicle_id,
            [part_of(line, line.open, line.reserved, picked=line.picked) for line in lines],
        )
        for _, lines in groupby(open_, key=lambda line: line.site_id or "")
    ]
    return _shipped(order, shipments, carrier, shipped_at, stocks)


def deliver_shipment(order: Order, command: DeliverShipment) -> Sequence[Event]:
    """Hand a part over that left; the order is delivered when all that is to come has."""
    must_have_left(order, command.order_id)
    must_not_be_a_home(order, command.proof)
    part = next((one for one in order.parts if one.shipment_id == command.shipment_id), None)
    if part is None:
        raise Refused("shipment.unknown", order_id=order.order_id, shipment_id=command.shipment_id)
    if part.is_delivered:
        raise Refused(
            "shipment.already_delivered", order_id=order.order_id, shipment_id=part.shipment_id
        )
    event = _handed_over(order, part, command.delivered_at, command.proof)
    return [event, *_finished(ORDERS.fold([event], order))]


def deliver_rest(order: Order, delivered_at: datetime | None, proof: Proof | None) -> list[Event]:
    """Hand all parts over that are still on their way."""
    return deliver_parts(order, on_their_way(order), delivered_at, proof)


def deliver_parts(
    order: Order, parts: Sequence[Part], delivered_at: datetime | None, proof: Proof | None
) -> list[Event]:
    """Hand some parts over; the order is delivered when all that is to come has."""
    events: list[Event] = [_handed_over(order, part, delivered_at, proof) for part in parts]
    return [*events, *_finished(ORDERS.fold(events, order))]


def on_their_way(order: Order) -> list[Part]:
    """The parts that left and have not arrived."""
    return [part for part in order.parts if not part.is_delivered]


def aboard(order: Order, site_id: str, vehicle_id: str) -> list[Part]:
    """The parts that a vehicle brings from a site: those that say so, or no vehicle. Where there
    are none, those of the vehicle that the order was allocated to: the plan came after that."""
    here = [part for part in on_their_way(order) if part.site_id == site_id]
    own = [part for part in here if part.vehicle_id in (None, vehicle_id)]
    return own or [part for part in here if part.vehicle_id == order.vehicle_id]


def closed(order: Order) -> list[Event]:
    """What says that no more of a partly shipped order will leave; and that all of it arrived,
    where it has."""
    assert order.parts
    shipped = OrderShipped(
        order_id=order.order_id,
        site_id=order.site_id or "",
        service_level=order.service_level,
        region=order.region,
        carrier=None,
        shipped_at=order.shipped_at,
        handling_s=seconds(order.allocated_at, order.shipped_at),
        out_of_order=_is_before(order.allocated_at, order.shipped_at),
        vehicle_id=order.vehicle_id,
        parts=len(order.parts),
    )
    return [shipped, *_finished(ORDERS.fold([shipped], order))]


def must_have_left(order: Order, order_id: str) -> None:
    """Refuse what needs something of the order to have left its site, and not all to have
    arrived."""
    if order.status in (Status.PLACED, Status.ALLOCATED):
        raise Refused("order.not_shipped", order_id=order.order_id, status=order.status)
    must_be(order, order_id, Status.PARTLY_SHIPPED, Status.SHIPPED)


def must_not_be_a_home(order: Order, proof: Proof | None) -> None:
    """Refuse to keep where a person was met more exactly than a district: it may be a home."""
    point = None if proof is None else proof.location
    if point is not None and order.person is not None and is_exact(point):
        raise Refused(
            "order.location_too_exact",
            order_id=order.order_id,
            field="proof.location",
            most=f"{PLACES_OF_PERSONS} decimal places",
        )


def is_exact(point: Point) -> bool:
    """Whether a point is told more exactly than it may be of a person."""
    return any(
        value != round(value, PLACES_OF_PERSONS) for value in (point.latitude, point.longitude)
    )


def not_open(order: Order, line_no: int, open_: Decimal, asked: Decimal) -> Refused:
    """The refusal of more than is open of a line."""
    return Refused(
        "order.not_open", order_id=order.order_id, line_no=line_no, open=open_, asked=asked
    )


def _must_be_on_its_way(order: Order, order_id: str) -> None:
    if order.status is Status.PLACED:
        raise Refused("order.not_allocated", order_id=order.order_id, status=order.status)
    must_be(order, order_id, Status.ALLOCATED, Status.PARTLY_SHIPPED)


def _shipped(
    order: Order,
    shipments: Sequence[tuple[str, str | None, list[LinePart]]],
    carrier: str | None,
    shipped_at: datetime | None,
    stocks: Stocks,
) -> list[Event]:
    assert order.placed_at is not None
    assert order.promised_at is not None
    shelves = Shelves(stocks)
    left: list[Event] = []
    for shipment_id, vehicle_id, parts in shipments:
        for part in parts:
            shelves.pick(order.order_id, part, shipped_at)
        left.append(
            OrderPartShipped(
                order_id=order.order_id,
                shipment_id=shipment_id,
                site_id=parts[0].site_id or "",
                service_level=order.service_level,
                region=order.region,
                carrier=carrier,
                vehicle_id=vehicle_id,
                lines=tuple(parts),
                units=units(parts),
                reserved=reserved(parts),
                weight_g=_weight_g(order, parts),
                placed_at=order.placed_at,
                promised_at=order.promised_at,
                shipped_at=shipped_at,
                handling_s=seconds(order.allocated_at, shipped_at),
                out_of_order=_is_before(order.allocated_at, shipped_at),
            )
        )
    now = ORDERS.fold(left, order)
    # Nothing of it is open any more: the order itself has left.
    whole = [] if any(line.open for line in now.lines) else closed(now)
    return [*shelves.events, *left, *whole]


def _handed_over(
    order: Order, part: Part, delivered_at: datetime | None, proof: Proof | None
) -> ShipmentDelivered:
    assert order.placed_at is not None
    assert order.promised_at is not None
    parts = tuple(part_of(order.line(line_no), quantity) for line_no, quantity in part.lines)
    behind = seconds(order.promised_at, delivered_at)
    return ShipmentDelivered(
        order_id=order.order_id,
        shipment_id=part.shipment_id,
        site_id=part.site_id,
        service_level=order.service_level,
        region=order.region,
        vehicle_id=part.vehicle_id,
        lines=parts,
        units=units(parts),
        placed_at=order.placed_at,
        promised_at=order.promised_at,
        delivered_at=delivered_at,
        late=None if delivered_at is None else delivered_at > order.promised_at,
        late_s=behind,
        transit_s=seconds(part.shipped_at, delivered_at),
        out_of_order=_is_before(part.shipped_at, delivered_at),
        proof=proof,
    )


def _finished(order: Order) -> list[Event]:
    """What says that all of the order arrived, where it has: when the last of it did."""
    if order.status is not Status.SHIPPED or not all(part.is_delivered for part in order.parts):
        return []
    assert order.placed_at is not None
    assert order.promised_at is not None
    times = [part.delivered_at for part in order.parts if part.delivered_at is not None]
    at = max(times) if len(times) == len(order.parts) else None
    return [
        OrderDelivered(
            order_id=order.order_id,
            site_id=order.site_id or "",
            service_level=order.service_level,
            region=order.region,
            currency=order.currency,
            placed_at=order.placed_at,
            promised_at=order.promised_at,
            delivered_at=at,
            late=None if at is None else at > order.promised_at,
            transit_s=seconds(order.shipped_at, at),
            out_of_order=_is_before(order.shipped_at, at),
            vehicle_id=order.vehicle_id,
            parts=len(order.parts),
            customer_id=order.customer_id or None,
            filled=filled(order),
        )
    ]


def _weight_g(order: Order, parts: Sequence[LinePart]) -> int | None:
    """Grams of the parts; None where the weight of one is not known."""
    weights = [order.line(part.line_no).weight_g for part in parts]
    if None in weights:
        return None
    return round(
        sum(part.quantity * (weight or 0) for part, weight in zip(parts, weights, strict=True))
    )


def _is_before(first: datetime | None, then: datetime | None) -> bool:
    return first is not None and then is not None and then < first
