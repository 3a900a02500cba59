"""Orders: placed, allocated, shipped, delivered or cancelled.

The events stand in ``order_events.py``, what they make of an order in ``order_state.py``; stock for
orders in ``reservations.py``, parts of them in ``shipments.py``, changes in ``order_changes.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.errors import Refused
from domain.filled import filled
from domain.order_changes import CancelLines as CancelLines
from domain.order_changes import RepromiseOrder as RepromiseOrder
from domain.order_changes import SplitOrder as SplitOrder
from domain.order_changes import cancel_rest, cancelled, must_be_unshipped
from domain.order_events import EVENTS as EVENTS
from domain.order_events import SENTENCES as SENTENCES
from domain.order_events import STREAM as STREAM
from domain.order_events import STREAMS as STREAMS
from domain.order_events import LineSite as LineSite
from domain.order_events import LineTerms, Proof, is_none
from domain.order_events import OrderAllocated as OrderAllocated
from domain.order_events import OrderCancelled as OrderCancelled
from domain.order_events import OrderDelivered as OrderDelivered
from domain.order_events import OrderLine as OrderLine
from domain.order_events import OrderPlaced as OrderPlaced
from domain.order_events import OrderShipped as OrderShipped
from domain.order_state import ORDERS as ORDERS
from domain.order_state import Order as Order
from domain.order_state import Status as Status
from domain.order_state import must_be, must_be_in_steps
from domain.people import Recipient, sealed
from domain.places import Point
from domain.reservations import FillBackorder as FillBackorder
from domain.reservations import ReleaseOrder as ReleaseOrder
from domain.reservations import ReserveOrder as ReserveOrder
from domain.reservations import Stocks, released
from domain.returns import ReturnOrder as ReturnOrder
from domain.shipments import (
    PLACES_OF_PERSONS,
    aboard,
    deliver_parts,
    deliver_rest,
    deliver_shipment,
    is_exact,
    must_have_left,
    must_not_be_a_home,
    ship_rest,
)
from domain.shipments import DeliverShipment as DeliverShipment
from domain.shipments import ShipPart as ShipPart
from domain.time_windows import TimeWindow
from domain.values import Command, Currency, Event, Id, Region, Text, UtcTime, seconds

#: The most that an order may be worth in minor units, or weigh in grams: tables count in 64 bits.
MOST = 10**15
#: The shipment of an order that left as a whole.
WHOLE = "1"


def _is_false(value: object) -> bool:
    return value is False


# commands


class PlaceOrder(Command):
    """Place an order. ``lines_known`` false says that its lines were never recorded.

    ``customer_id`` is an account, never a person's name: a person is a ``recipient``. Where one is
    named, the destination is told by a district at the most (2 decimal places): a home is personal.
    ``service_s``: seconds that handing over takes at the stop. ``check_references``: refuse the
    order unless its client and its products are registered and in use, and quantities are
    multiples of their products' steps; orders from before there were such registers have none.
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
    recipient: Annotated[Recipient | None, Field(exclude_if=is_none)] = None
    destination: Annotated[Point | None, Field(exclude_if=is_none)] = None
    delivery_window: Annotated[TimeWindow | None, Field(exclude_if=is_none)] = None
    service_s: Annotated[int | None, Field(ge=0, le=86_400, exclude_if=is_none)] = None
    check_references: Annotated[bool, Field(exclude_if=_is_false)] = False

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
        if _volume_cm3(self.lines) > MOST:
            raise ValueError(f"lines: larger than {MOST} cm3 together")
        if self.promised_at < self.placed_at:
            raise ValueError("promised_at: must not be before placed_at")
        if (
            self.recipient is not None
            and self.destination is not None
            and is_exact(self.destination)
        ):
            raise ValueError(
                f"destination: at most {PLACES_OF_PERSONS} decimal places where a recipient is "
                "named: a home is personal"
            )
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
    """Hand the order to a carrier: all of it, or what is left where parts have gone before. What is
    reserved for it is picked."""

    order_id: Id
    carrier: Id | None = None
    shipped_at: UtcTime | None


class DeliverOrder(Command):
    """Hand the order to its customer: all of it that is still on its way."""

    order_id: Id
    delivered_at: UtcTime | None
    proof: Annotated[Proof | None, Field(exclude_if=is_none)] = None


class CancelOrder(Command):
    """Give the order up before it was shipped; of an order that was shipped in part, the rest. What
    is reserved for it is released."""

    order_id: Id
    reason: Text
    cancelled_at: UtcTime | None


# decisions


def place(
    order: Order, command: PlaceOrder, steps: Mapping[str, Decimal] | None = None
) -> Sequence[Event]:
    """Place an order that does not exist yet; ``steps``: of its SKUs, where they were looked up."""
    if order.status is not Status.UNKNOWN:
        raise Refused("order.already_placed", order_id=command.order_id, status=order.status)
    weights = [line.weight_g for line in command.lines]
    volumes = [line.volume_cm3 for line in command.lines]
    recipient = command.recipient
    terms: list[LineTerms] = []
    if steps is not None:
        for line in command.lines:
            must_be_in_steps(command.order_id, line, steps[line.sku], line.quantity)
            terms.append(LineTerms(line_no=line.line_no, step=steps[line.sku]))
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
            destination=command.destination,
            delivery_window=command.delivery_window,
            service_s=command.service_s,
            volume_cm3=_volume_cm3(command.lines) if None not in volumes and volumes else None,
            terms=tuple(terms) or None,
        )
    ]


def allocate(order: Order, command: AllocateOrder) -> Sequence[Event]:
    """Choose the site; may be chosen again until the order is shipped."""
    must_be(order, command.order_id, Status.PLACED, Status.ALLOCATED)
    if not order.lines:
        raise Refused("order.lines_not_known", order_id=order.order_id)
    if order.is_reserved:
        raise Refused("order.already_reserved", order_id=order.order_id, instead="release it first")
    sites = {line.line_no: command.site_id for line in order.lines}
    known = len(sites)
    sites |= {choice.line_no: choice.site_id for choice in command.line_sites}
    if len(sites) > known:
        unknown = min(sites.keys() - {line.line_no for line in order.lines})
        raise Refused("order.no_such_line", order_id=order.order_id, line_no=unknown)
    for line in order.lines:
        line_no, seller = line.line_no, line.seller
        if seller is not None and sites[line_no] != seller:
            raise Refused(
                "order.line_sold_by_another_site",
                order_id=order.order_id,
                line_no=line_no,
                sold_by=seller,
                asked=sites[line_no],
            )
        if line.picked and sites[line_no] != line.site_id:
            raise Refused(
                "order.already_picked",
                order_id=order.order_id,
                line_no=line_no,
                site_id=line.site_id or "",
                picked=line.picked,
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


def ship(order: Order, command: ShipOrder, stocks: Stocks) -> Sequence[Event]:
    """Hand an allocated order to its carrier, or what is left of it."""
    if order.status is Status.PLACED:
        raise Refused("order.not_allocated", order_id=order.order_id, status=order.status)
    must_be(order, command.order_id, Status.ALLOCATED, Status.PARTLY_SHIPPED)
    if order.is_reserved or order.parts:
        return ship_rest(order, command.carrier, command.shipped_at, stocks)
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
    if order.status is Status.PARTLY_SHIPPED:
        raise Refused("order.not_shipped", order_id=order.order_id, status=order.status)
    must_have_left(order, command.order_id)
    must_not_be_a_home(order, command.proof)
    if order.parts:
        return deliver_rest(order, command.delivered_at, command.proof)
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
            proof=command.proof,
            customer_id=order.customer_id or None,
            filled=filled(order),
        )
    ]


def hand_over(
    order: Order, command: DeliverOrder, *, site_id: str, vehicle_id: str
) -> Sequence[Event]:
    """Hand over what a vehicle has brought from a site; what others bring is still on its way. An
    order that left as a whole left its own site."""
    must_have_left(order, command.order_id)
    if not order.parts and order.site_id == site_id:
        return deliver(order, command)
    must_not_be_a_home(order, command.proof)
    parts = aboard(order, site_id, vehicle_id)
    if not parts:
        raise Refused(
            "tour.order_not_on_board",
            order_id=order.order_id,
            site_id=site_id,
            vehicle_id=vehicle_id,
        )
    return deliver_parts(order, parts, command.delivered_at, command.proof)


def deliver_part(order: Order, command: DeliverShipment) -> Sequence[Event]:
    """Hand a shipment to its customer."""
    if command.shipment_id == WHOLE and order.status is not Status.UNKNOWN and not order.parts:
        whole = DeliverOrder(
            order_id=command.order_id, delivered_at=command.delivered_at, proof=command.proof
        )
        return deliver(order, whole)
    return deliver_shipment(order, command)


def cancel(order: Order, command: CancelOrder, stocks: Stocks) -> Sequence[Event]:
    """Give an order up; what was shipped is returned instead."""
    must_be_unshipped(order, command.order_id)
    reason, at = command.reason, command.cancelled_at
    if order.parts:
        return cancel_rest(order, reason, at, stocks)
    return [*released(order, stocks, at), cancelled(order, reason, at)]


def must_be_open(order: Order, order_id: str) -> None:
    """Refuse what needs an order that has not left its site yet."""
    must_be(order, order_id, Status.PLACED, Status.ALLOCATED)


def _price_minor(line: OrderLine) -> int:
    # Half a cent rounds to even, per line, so that a bill can be recomputed from its lines.
    return round(line.quantity * line.unit_price_minor)


def _goods_minor(lines: Sequence[OrderLine]) -> int:
    return sum(_price_minor(line) for line in lines)


def _freight_minor(lines: Sequence[OrderLine]) -> int:
    return sum(line.freight_minor for line in lines)


def _weight_g(lines: Sequence[OrderLine]) -> int:
    return round(sum(line.quantity * (line.weight_g or 0) for line in lines))


def _volume_cm3(lines: Sequence[OrderLine]) -> int:
    return round(sum(line.quantity * (line.volume_cm3 or 0) for line in lines))


def load_of(order: Order, site_id: str, sites: Mapping[int, str]) -> tuple[int | None, int | None]:
    """Grams and cubic centimetres of what a site ships of an order, by the site of each line; None
    where they are not known of one line."""
    lines = [line for line in order.lines if sites.get(line.line_no) == site_id]
    weights, volumes = [line.weight_g for line in lines], [line.volume_cm3 for line in lines]
    return (
        None if None in weights else round(sum(line.open * (line.weight_g or 0) for line in lines)),
        None
        if None in volumes
        else round(sum(line.open * (line.volume_cm3 or 0) for line in lines)),
    )
