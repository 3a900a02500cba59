"""Orders: placed, allocated, shipped, delivered or cancelled.

A time that is ``None`` on a fact says: it is known to have happened, its time was never recorded.
Facts are recorded as they were told. A shipment dated before its allocation is not refused (the
world does that); the event says so in ``out_of_order``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.people import OfPerson, Pseudonym, Recipient, SealedRecipient, sealed
from domain.values import (
    Command,
    Currency,
    Event,
    Id,
    Minor,
    Quantity,
    Region,
    Text,
    UtcTime,
    Value,
    seconds,
)

#: The most that an order may be worth in minor units, or weigh in grams: tables count in 64 bits.
MOST = 10**15


class Status(StrEnum):
    """Where an order stands."""

    UNKNOWN = "unknown"
    PLACED = "placed"
    ALLOCATED = "allocated"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


# values and commands


class OrderLine(Value):
    """One line: so many of one SKU at one price, perhaps sold by one site only."""

    line_no: Annotated[int, Field(ge=1, le=10_000)]
    sku: Id
    quantity: Quantity = Field(examples=["1"])
    unit_price_minor: Minor
    freight_minor: Minor = 0
    weight_g: Annotated[int, Field(ge=0, le=10**9)] | None = None
    site_id: Id | None = None


class LineSite(Value):
    """Which site ships a line."""

    line_no: int
    site_id: Id


def _is_none(value: object) -> bool:
    return value is None


class PlaceOrder(Command):
    """Place an order. ``lines_known`` false says that its lines were never recorded.

    ``customer_id`` is an account, never a person's name: a person is a ``recipient``.
    """

    order_id: Id
    customer_id: Id
    currency: Currency
    lines: Annotated[tuple[OrderLine, ...], Field(max_length=1000)]
    region: Region | None = None
    placed_at: UtcTime
    promised_at: UtcTime
    lines_known: bool = True
    # Left out where there is none, so that an order without one has the digest it always had.
    recipient: Annotated[Recipient | None, Field(exclude_if=_is_none)] = None

    @model_validator(mode="after")
    def _lines_agree(self) -> Self:
        if self.lines_known and not self.lines:
            raise ValueError("lines: an order has at least one line, unless lines_known is false")
        if not self.lines_known and self.lines:
            raise ValueError("lines: must be empty where lines_known is false")
        numbers = [line.line_no for line in self.lines]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"lines: line_no must be unique, got {numbers}")
        if max(_goods_minor(self.lines), _freight_minor(self.lines)) > MOST:
            raise ValueError(f"lines: worth more than {MOST} minor units together")
        if _weight_g(self.lines) > MOST:
            raise ValueError(f"lines: heavier than {MOST} g together")
        if self.promised_at < self.placed_at:
            raise ValueError("promised_at: must not be before placed_at")
        return self


class AllocateOrder(Command):
    """Say which site ships the order by which service level, and perhaps by which of its vehicles;
    line_sites where lines part."""

    order_id: Id
    site_id: Id
    service_level: Id = "standard"
    vehicle_id: Id | None = None
    line_sites: Annotated[tuple[LineSite, ...], Field(max_length=1000)] = ()
    decision_id: Id | None = None
    allocated_at: UtcTime | None

    @model_validator(mode="after")
    def _lines_are_named_once(self) -> Self:
        numbers = [line.line_no for line in self.line_sites]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"line_sites: line_no must be unique, got {numbers}")
        return self


class ShipOrder(Command):
    """Hand the order to a carrier."""

    order_id: Id
    carrier: Id | None = None
    shipped_at: UtcTime | None


class DeliverOrder(Command):
    """Hand the order to its customer."""

    order_id: Id
    delivered_at: UtcTime | None


class CancelOrder(Command):
    """Give the order up before it was shipped."""

    order_id: Id
    reason: Text
    cancelled_at: UtcTime | None


# events


class OrderPlaced(Event):
    """A customer placed an order; for whom, ``person`` and ``recipient`` say in tokens."""

    order_id: str
    customer_id: str
    currency: str
    lines: tuple[OrderLine, ...]
    lines_known: bool
    units: Decimal
    goods_minor: int
    freight_minor: int
    weight_g: int | None
    region: str | None
    placed_at: datetime
    promised_at: datetime
    person: Annotated[Pseudonym | None, Field(exclude_if=_is_none), OfPerson()] = None
    recipient: Annotated[SealedRecipient | None, Field(exclude_if=_is_none)] = None


class OrderAllocated(Event):
    """A site and a service level were chosen for the order."""

    order_id: str
    site_id: str
    service_level: str
    line_sites: tuple[LineSite, ...]
    decision_id: str | None
    region: str | None
    allocated_at: datetime | None
    vehicle_id: str | None = None


class OrderShipped(Event):
    """The order left its site."""

    order_id: str
    site_id: str
    service_level: str
    region: str | None
    carrier: str | None
    shipped_at: datetime | None
    handling_s: int | None
    out_of_order: bool
    vehicle_id: str | None = None


class OrderDelivered(Event):
    """The order reached its customer. ``late`` compares timestamps; None: time not recorded."""

    order_id: str
    site_id: str
    service_level: str
    region: str | None
    currency: str
    placed_at: datetime
    promised_at: datetime
    delivered_at: datetime | None
    late: bool | None
    transit_s: int | None
    out_of_order: bool
    vehicle_id: str | None = None


class OrderCancelled(Event):
    """The order was given up."""

    order_id: str
    site_id: str | None
    currency: str
    placed_at: datetime
    cancelled_at: datetime | None
    reason: str


EVENTS = (OrderPlaced, OrderAllocated, OrderShipped, OrderDelivered, OrderCancelled)

#: The stream that an event belongs to, by its fields.
STREAM = "orders/{order_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    OrderPlaced: "Order {order_id} was placed by customer {customer_id}: {units} units, "
    "goods worth {goods_minor} {currency} minor units, promised by {promised_at}",
    OrderAllocated: "Order {order_id} was allocated to site {site_id}, "
    "service level {service_level}",
    OrderShipped: "Order {order_id} left site {site_id}",
    OrderDelivered: "Order {order_id} was delivered (promised by {promised_at}, late: {late})",
    OrderCancelled: "Order {order_id} was cancelled: {reason}",
}


# state


@dataclass(frozen=True, slots=True)
class Order:
    """What the rules need to know of an order."""

    order_id: str = ""
    status: Status = Status.UNKNOWN
    currency: str = ""
    region: str | None = None
    line_numbers: tuple[int, ...] = ()
    line_sites: tuple[tuple[int, str], ...] = ()
    site_id: str | None = None
    service_level: str = ""
    vehicle_id: str | None = None
    placed_at: datetime | None = None
    promised_at: datetime | None = None
    allocated_at: datetime | None = None
    shipped_at: datetime | None = None


def evolve(order: Order, event: Event) -> Order:
    """The order after one more of its events."""
    match event:
        case OrderPlaced():
            return Order(
                order_id=event.order_id,
                status=Status.PLACED,
                currency=event.currency,
                region=event.region,
                line_numbers=tuple(line.line_no for line in event.lines),
                line_sites=tuple(
                    (line.line_no, line.site_id) for line in event.lines if line.site_id is not None
                ),
                placed_at=event.placed_at,
                promised_at=event.promised_at,
            )
        case OrderAllocated():
            return replace(
                order,
                status=Status.ALLOCATED,
                site_id=event.site_id,
                service_level=event.service_level,
                vehicle_id=event.vehicle_id,
                allocated_at=event.allocated_at,
            )
        case OrderShipped():
            return replace(order, status=Status.SHIPPED, shipped_at=event.shipped_at)
        case OrderDelivered():
            return replace(order, status=Status.DELIVERED)
        case OrderCancelled():
            return replace(order, status=Status.CANCELLED)
    return order


ORDERS = Decider(initial=Order(), evolve=evolve)


# decisions


def place(order: Order, command: PlaceOrder) -> Sequence[Event]:
    """Place an order that does not exist yet."""
    if order.status is not Status.UNKNOWN:
        raise Refused("order.already_placed", order_id=command.order_id, status=order.status)
    weights = [line.weight_g for line in command.lines]
    recipient = command.recipient
    return [
        OrderPlaced(
            order_id=command.order_id,
            customer_id=command.customer_id,
            currency=command.currency,
            lines=command.lines,
            lines_known=command.lines_known,
            units=sum((line.quantity for line in command.lines), Decimal(0)),
            goods_minor=_goods_minor(command.lines),
            freight_minor=_freight_minor(command.lines),
            weight_g=_weight_g(command.lines) if None not in weights and weights else None,
            region=command.region,
            placed_at=command.placed_at,
            promised_at=command.promised_at,
            person=None if recipient is None else recipient.person_id,
            recipient=None if recipient is None else sealed(recipient),
        )
    ]


def allocate(order: Order, command: AllocateOrder) -> Sequence[Event]:
    """Choose the site; may be chosen again until the order is shipped."""
    _must_be(order, command.order_id, Status.PLACED, Status.ALLOCATED)
    if not order.line_numbers:
        raise Refused("order.lines_not_known", order_id=order.order_id)
    sites = dict.fromkeys(order.line_numbers, command.site_id)
    sites |= {choice.line_no: choice.site_id for choice in command.line_sites}
    unknown = sorted(sites.keys() - set(order.line_numbers))
    if unknown:
        raise Refused("order.no_such_line", order_id=order.order_id, line_no=unknown[0])
    for line_no, seller in order.line_sites:
        if sites[line_no] != seller:
            raise Refused(
                "order.line_sold_by_another_site",
                order_id=order.order_id,
                line_no=line_no,
                sold_by=seller,
                asked=sites[line_no],
            )
    return [
        OrderAllocated(
            order_id=order.order_id,
            site_id=command.site_id,
            service_level=command.service_level,
            line_sites=tuple(
                LineSite(line_no=line_no, site_id=site_id)
                for line_no, site_id in sorted(sites.items())
            ),
            decision_id=command.decision_id,
            region=order.region,
            allocated_at=command.allocated_at,
            vehicle_id=command.vehicle_id,
        )
    ]


def ship(order: Order, command: ShipOrder) -> Sequence[Event]:
    """Hand an allocated order to its carrier."""
    if order.status is Status.PLACED:
        raise Refused("order.not_allocated", order_id=order.order_id, status=order.status)
    _must_be(order, command.order_id, Status.ALLOCATED)
    handling = seconds(order.allocated_at, command.shipped_at)
    return [
        OrderShipped(
            order_id=order.order_id,
            site_id=order.site_id or "",
            service_level=order.service_level,
            region=order.region,
            carrier=command.carrier,
            shipped_at=command.shipped_at,
            handling_s=handling,
            out_of_order=handling is not None and handling < 0,
            vehicle_id=order.vehicle_id,
        )
    ]


def deliver(order: Order, command: DeliverOrder) -> Sequence[Event]:
    """Hand a shipped order to its customer."""
    if order.status in (Status.PLACED, Status.ALLOCATED):
        raise Refused("order.not_shipped", order_id=order.order_id, status=order.status)
    _must_be(order, command.order_id, Status.SHIPPED)
    assert order.placed_at is not None
    assert order.promised_at is not None
    delivered_at = command.delivered_at
    transit = seconds(order.shipped_at, delivered_at)
    return [
        OrderDelivered(
            order_id=order.order_id,
            site_id=order.site_id or "",
            service_level=order.service_level,
            region=order.region,
            currency=order.currency,
            placed_at=order.placed_at,
            promised_at=order.promised_at,
            delivered_at=delivered_at,
            late=None if delivered_at is None else delivered_at > order.promised_at,
            transit_s=transit,
            out_of_order=transit is not None and transit < 0,
            vehicle_id=order.vehicle_id,
        )
    ]


def cancel(order: Order, command: CancelOrder) -> Sequence[Event]:
    """Give an order up; too late once it was shipped."""
    if order.status in (Status.SHIPPED, Status.DELIVERED):
        raise Refused("order.already_shipped", order_id=order.order_id, status=order.status)
    _must_be(order, command.order_id, Status.PLACED, Status.ALLOCATED)
    assert order.placed_at is not None
    return [
        OrderCancelled(
            order_id=order.order_id,
            site_id=order.site_id,
            currency=order.currency,
            placed_at=order.placed_at,
            cancelled_at=command.cancelled_at,
            reason=command.reason,
        )
    ]


def must_be_open(order: Order, order_id: str) -> None:
    """Refuse what needs an order that has not left its site yet."""
    _must_be(order, order_id, Status.PLACED, Status.ALLOCATED)


def _must_be(order: Order, order_id: str, *allowed: Status) -> None:
    if order.status in allowed:
        return
    if order.status is Status.UNKNOWN:
        raise Refused("order.unknown", order_id=order_id)
    raise Refused(f"order.already_{order.status.value}", order_id=order_id, status=order.status)


def _price_minor(line: OrderLine) -> int:
    # Half a cent rounds to even, per line, so that a bill can be recomputed from its lines.
    return round(line.quantity * line.unit_price_minor)


def _goods_minor(lines: Sequence[OrderLine]) -> int:
    return sum(_price_minor(line) for line in lines)


def _freight_minor(lines: Sequence[OrderLine]) -> int:
    return sum(line.freight_minor for line in lines)


def _weight_g(lines: Sequence[OrderLine]) -> int:
    return round(sum(line.quantity * (line.weight_g or 0) for line in lines))
