"""Where an order stands: its lines, its shipments, and what its events make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from domain.decider import Decider
from domain.errors import Refused
from domain.order_events import (
    BackorderFilled,
    LinePart,
    LinesCancelled,
    LinesReturned,
    OrderAllocated,
    OrderBackordered,
    OrderCancelled,
    OrderChanged,
    OrderDelivered,
    OrderLine,
    OrderPartShipped,
    OrderPicked,
    OrderPlaced,
    OrderReleased,
    OrderRepromised,
    OrderReserved,
    OrderShipped,
    OrderSplit,
    ShipmentDelivered,
)
from domain.people import SealedRecipient
from domain.places import Point
from domain.time_windows import TimeWindow
from domain.values import Event

_ZERO = Decimal(0)


class Status(StrEnum):
    """Where an order stands."""

    UNKNOWN = "unknown"
    PLACED = "placed"
    ALLOCATED = "allocated"
    PARTLY_SHIPPED = "partly_shipped"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


#: An order in one of these has something that may still be shipped.
OPEN = (Status.PLACED, Status.ALLOCATED, Status.PARTLY_SHIPPED)


class Line(NamedTuple):
    """A line and what has become of it. ``seller``: no other site may ship it.

    ``quantity`` = open + shipped + cancelled + split_off, always; of what is open, ``reserved`` has
    stock put aside, ``backordered`` waits for it and ``picked`` was picked by hand; of what was
    shipped, ``delivered`` arrived; of that, ``returned`` came back. ``step``, ``offset``: as in
    ``LineTerms``.
    """

    line_no: int
    sku: str
    quantity: Decimal
    unit_price_minor: int
    weight_g: int | None
    volume_cm3: int | None
    seller: str | None
    site_id: str | None = None
    reserved: Decimal = _ZERO
    backordered: Decimal = _ZERO
    shipped: Decimal = _ZERO
    delivered: Decimal = _ZERO
    returned: Decimal = _ZERO
    cancelled: Decimal = _ZERO
    split_off: Decimal = _ZERO
    picked: Decimal = _ZERO
    step: Decimal | None = None
    offset: Decimal = _ZERO

    @property
    def open(self) -> Decimal:
        """What is neither shipped nor given up."""
        return self.quantity - self.shipped - self.cancelled - self.split_off

    @property
    def to_pick(self) -> Decimal:
        """What of it nobody has picked by hand: it needs stock."""
        return self.open - self.picked


class Part(NamedTuple):
    """A shipment: so much of each line (line_no, quantity)."""

    shipment_id: str
    site_id: str
    vehicle_id: str | None
    lines: tuple[tuple[int, Decimal], ...]
    shipped_at: datetime | None
    is_delivered: bool = False
    delivered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What the rules need to know of an order. Without lines: they were never recorded.

    ``promised_at`` is what was promised first, ``repromised_at`` what was promised last.
    """

    order_id: str = ""
    status: Status = Status.UNKNOWN
    customer_id: str = ""
    currency: str = ""
    region: str | None = None
    lines: tuple[Line, ...] = ()
    person: str | None = None
    recipient: SealedRecipient | None = None
    destination: Point | None = None
    delivery_window: TimeWindow | None = None
    service_s: int | None = None
    site_id: str | None = None
    service_level: str = ""
    vehicle_id: str | None = None
    placed_at: datetime | None = None
    promised_at: datetime | None = None
    repromised_at: datetime | None = None
    allocated_at: datetime | None = None
    shipped_at: datetime | None = None
    parts: tuple[Part, ...] = ()
    returns: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether something of it may still be shipped."""
        return self.status in OPEN

    @property
    def is_reserved(self) -> bool:
        """Whether what it needs of the shelves is put aside for it or waited for, all of it."""
        return any(line.reserved or line.backordered for line in self.lines)

    def line(self, line_no: int) -> Line:
        """The line of a number.

        Raises:
            Refused: there is none, or the lines are not known.
        """
        if not self.lines:
            raise Refused("order.lines_not_known", order_id=self.order_id)
        for line in self.lines:
            if line.line_no == line_no:
                return line
        raise Refused("order.no_such_line", order_id=self.order_id, line_no=line_no)


def must_be(order: Order, order_id: str, *allowed: Status) -> None:
    """Refuse what needs the order in another status."""
    if order.status in allowed:
        return
    if order.status is Status.UNKNOWN:
        raise Refused("order.unknown", order_id=order_id)
    raise Refused(f"order.already_{order.status.value}", order_id=order_id, status=order.status)


def evolve(order: Order, event: Event) -> Order:
    """The order after one more of its events."""
    match event:
        case OrderPlaced():
            return _placed(event)
        case OrderAllocated():
            return _allocated(order, event)
        case OrderShipped():
            return replace(
                order,
                status=Status.SHIPPED,
                shipped_at=event.shipped_at,
                lines=tuple(
                    line._replace(shipped=line.shipped + line.open, picked=_ZERO)
                    for line in order.lines
                ),
            )
        case OrderDelivered():
            return replace(
                order,
                status=Status.DELIVERED,
                lines=tuple(line._replace(delivered=line.shipped) for line in order.lines),
            )
        case OrderCancelled():
            return replace(
                order,
                status=Status.CANCELLED,
                lines=tuple(
                    line._replace(cancelled=line.cancelled + line.open, picked=_ZERO)
                    for line in order.lines
                ),
            )
    return _of_parts(order, event)


def _placed(event: OrderPlaced) -> Order:
    terms = {one.line_no: one for one in event.terms or ()}
    return Order(
        order_id=event.order_id,
        status=Status.PLACED,
        customer_id=event.customer_id,
        currency=event.currency,
        region=event.region,
        lines=tuple(
            Line(
                line.line_no,
                line.sku,
                line.quantity,
                line.unit_price_minor,
                line.weight_g,
                line.volume_cm3,
                line.site_id,
                step=terms[line.line_no].step if line.line_no in terms else None,
                offset=terms[line.line_no].offset if line.line_no in terms else _ZERO,
            )
            for line in event.lines
        ),
        person=event.person,
        recipient=event.recipient,
        destination=event.destination,
        delivery_window=event.delivery_window,
        service_s=event.service_s,
        placed_at=event.placed_at,
        promised_at=event.promised_at,
    )


def _allocated(order: Order, event: OrderAllocated) -> Order:
    sites = {one.line_no: one.site_id for one in event.line_sites}
    return replace(
        order,
        status=Status.ALLOCATED,
        site_id=event.site_id,
        service_level=event.service_level,
        vehicle_id=event.vehicle_id,
        allocated_at=event.allocated_at,
        lines=tuple(
            line._replace(site_id=sites.get(line.line_no, event.site_id)) for line in order.lines
        ),
    )


def _of_parts(order: Order, event: Event) -> Order:
    """The order after an event that is about some of its lines, or about its promise."""
    match event:
        case OrderReserved():
            return replace(order, lines=_changed(order, event.lines, _reserved))
        case OrderBackordered():
            waiting = (_part(event, backordered=event.quantity),)
            return replace(order, lines=_changed(order, waiting, _reserved))
        case BackorderFilled():
            filled = (_part(event, reserved=event.quantity, backordered=-event.quantity),)
            return replace(order, lines=_changed(order, filled, _reserved))
        case OrderReleased():
            return replace(order, lines=_changed(order, event.lines, _released))
        case OrderPicked():
            return replace(order, lines=_changed(order, event.lines, _picked))
        case OrderPartShipped():
            return replace(
                order,
                status=Status.PARTLY_SHIPPED,
                shipped_at=event.shipped_at,
                lines=_changed(order, event.lines, _shipped),
                parts=(
                    *order.parts,
                    Part(
                        event.shipment_id,
                        event.site_id,
                        event.vehicle_id,
                        tuple((one.line_no, one.quantity) for one in event.lines),
                        event.shipped_at,
                    ),
                ),
            )
        case ShipmentDelivered():
            return replace(
                order,
                lines=_changed(order, event.lines, _delivered),
                parts=tuple(
                    part._replace(is_delivered=True, delivered_at=event.delivered_at)
                    if part.shipment_id == event.shipment_id
                    else part
                    for part in order.parts
                ),
            )
        case LinesCancelled():
            return replace(order, lines=_changed(order, event.lines, _cancelled))
        case OrderSplit():
            return replace(order, lines=_changed(order, event.lines, _split_off))
        case LinesReturned():
            return replace(
                order,
                lines=_changed(order, event.lines, _returned),
                returns=(*order.returns, event.return_id),
            )
        case OrderRepromised():
            return replace(order, repromised_at=event.promised_at)
        case OrderChanged():
            return replace(
                order,
                destination=event.destination,
                delivery_window=event.delivery_window,
                service_s=event.service_s,
            )
    return order


ORDERS = Decider(initial=Order(), evolve=evolve)


def _part(
    event: OrderBackordered | BackorderFilled,
    reserved: Decimal = _ZERO,
    backordered: Decimal = _ZERO,
) -> LinePart:
    return LinePart(
        line_no=event.line_no,
        sku=event.sku,
        site_id=event.site_id,
        quantity=event.quantity,
        reserved=reserved,
        backordered=backordered,
    )


def _changed(
    order: Order, parts: Iterable[LinePart], change: Callable[[Line, LinePart], Line]
) -> tuple[Line, ...]:
    lines = {line.line_no: line for line in order.lines}
    for part in parts:
        lines[part.line_no] = change(lines[part.line_no], part)
    return tuple(lines.values())


def _reserved(line: Line, part: LinePart) -> Line:
    return line._replace(
        reserved=line.reserved + part.reserved, backordered=line.backordered + part.backordered
    )


def _released(line: Line, part: LinePart) -> Line:
    return line._replace(
        reserved=line.reserved - part.reserved, backordered=line.backordered - part.backordered
    )


def _picked(line: Line, part: LinePart) -> Line:
    return _released(line, part)._replace(picked=line.picked + part.quantity)


def _gone(line: Line, part: LinePart) -> Line:
    return _released(line, part)._replace(picked=line.picked - part.picked)


def _shipped(line: Line, part: LinePart) -> Line:
    return _gone(line, part)._replace(shipped=line.shipped + part.quantity)


def _delivered(line: Line, part: LinePart) -> Line:
    return line._replace(delivered=line.delivered + part.quantity)


def _cancelled(line: Line, part: LinePart) -> Line:
    return _gone(line, part)._replace(cancelled=line.cancelled + part.quantity)


def _split_off(line: Line, part: LinePart) -> Line:
    return _gone(line, part)._replace(split_off=line.split_off + part.quantity)


def _returned(line: Line, part: LinePart) -> Line:
    return line._replace(returned=line.returned + part.quantity)


def units(parts: Sequence[LinePart]) -> Decimal:
    """How much of all lines together."""
    return sum((part.quantity for part in parts), _ZERO)


def reserved(parts: Sequence[LinePart]) -> Decimal:
    """How much of it has stock put aside."""
    return sum((part.reserved for part in parts), _ZERO)


def backordered(parts: Sequence[LinePart]) -> Decimal:
    """How much of it waits for stock."""
    return sum((part.backordered for part in parts), _ZERO)


def must_be_in_steps(
    order_id: str, line: Line | OrderLine, step: Decimal | None, quantity: Decimal
) -> None:
    """Refuse a quantity in which the product of a line is not sold; ``step`` None: any is."""
    if step is not None and quantity % step:
        raise Refused(
            "order.quantity_not_in_steps",
            order_id=order_id,
            line_no=line.line_no,
            sku=line.sku,
            quantity=quantity,
            step=step,
        )
