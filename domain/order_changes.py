"""Changes of orders under way: lines are given up, an order is split, another time is promised."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Self

from pydantic import model_validator

from domain.errors import Refused
from domain.order_events import (
    LinePart,
    LinesCancelled,
    LineSite,
    LineTerms,
    OrderAllocated,
    OrderBackordered,
    OrderCancelled,
    OrderLine,
    OrderPicked,
    OrderPlaced,
    OrderRepromised,
    OrderReserved,
    OrderSplit,
)
from domain.order_state import (
    OPEN,
    ORDERS,
    Line,
    Order,
    Status,
    backordered,
    must_be,
    must_be_in_steps,
    reserved,
    units,
)
from domain.order_worth import given_up_minor
from domain.reservations import Shelves, Stocks, given_up
from domain.shipments import LineQuantity, Lines, closed, not_open, once
from domain.values import Command, Event, Id, Text, UtcTime

# commands


class CancelLines(Command):
    """Give lines up, or parts of them, before they are shipped. Where nothing is left the order is
    cancelled, or, where some of it has left, closed with that."""

    order_id: Id
    lines: Lines
    reason: Text
    cancelled_at: UtcTime | None

    @model_validator(mode="after")
    def _lines_are_named_once(self) -> Self:
        once(self.lines)
        return self


class SplitOrder(Command):
    """Make lines, or parts of them, that were not shipped an order of their own.

    Customer, promise, destination and allocation go along, and so does what was reserved; what
    waits for stock goes first. Freight stays where it is.
    """

    order_id: Id
    new_order_id: Id
    lines: Lines
    split_at: UtcTime | None

    @model_validator(mode="after")
    def _is_another_order(self) -> Self:
        once(self.lines)
        if self.new_order_id == self.order_id:
            raise ValueError("new_order_id: must be another order than order_id")
        return self


class RepromiseOrder(Command):
    """Promise another moment. Punctuality goes on being measured by what was promised first."""

    order_id: Id
    promised_at: UtcTime
    reason: Text
    repromised_at: UtcTime | None


# decisions


def cancel_lines(order: Order, command: CancelLines, stocks: Stocks) -> Sequence[Event]:
    """Give up some of what is open."""
    must_be_unshipped(order, command.order_id)
    parts = _parts(order, command.lines)
    return _cancelled(order, parts, command.reason, command.cancelled_at, stocks)


def cancel_rest(
    order: Order, reason: str, cancelled_at: datetime | None, stocks: Stocks
) -> list[Event]:
    """Give up all that is open of an order of which some has left."""
    parts = [given_up(line, line.open) for line in order.lines if line.open]
    return _cancelled(order, parts, reason, cancelled_at, stocks)


def split(order: Order, command: SplitOrder, stocks: Stocks, new: Order) -> Sequence[Event]:
    """Move what is open of some lines to an order that does not exist yet."""
    must_be_unshipped(order, command.order_id)
    if new.status is not Status.UNKNOWN:
        raise Refused(
            "order.already_placed",
            order_id=command.new_order_id,
            status=new.status,
            field="new_order_id",
        )
    parts = _parts(order, command.lines)
    assert order.placed_at is not None
    shelves = Shelves(stocks)
    for part in parts:
        shelves.move(order.order_id, command.new_order_id, part, command.split_at)
    gone = OrderSplit(
        order_id=order.order_id,
        new_order_id=command.new_order_id,
        lines=tuple(parts),
        units=units(parts),
        reserved=reserved(parts),
        backordered=backordered(parts),
        goods_minor=given_up_minor(order, parts),
        currency=order.currency,
        placed_at=order.placed_at,
        split_at=command.split_at,
    )
    left = ORDERS.fold([gone], order)
    ends: list[Event] = []
    if not any(line.open for line in left.lines):
        if not order.parts:
            raise Refused(
                "order.nothing_left", order_id=order.order_id, new_order_id=command.new_order_id
            )
        ends = closed(left)
    return [*shelves.events, gone, *ends, *_begun(order, command, parts)]


def repromise(order: Order, command: RepromiseOrder) -> Sequence[Event]:
    """Promise another moment for what has not arrived."""
    must_be(order, command.order_id, *OPEN, Status.SHIPPED)
    assert order.placed_at is not None
    assert order.promised_at is not None
    before = order.repromised_at or order.promised_at
    if command.promised_at == before:
        raise Refused(
            "order.same_promise", order_id=order.order_id, promised_at=command.promised_at
        )
    if command.promised_at < order.placed_at:
        raise Refused(
            "order.promised_before_placed",
            order_id=order.order_id,
            promised_at=command.promised_at,
            placed_at=order.placed_at,
        )
    return [
        OrderRepromised(
            order_id=order.order_id,
            promised_at=command.promised_at,
            before=before,
            first_promised_at=order.promised_at,
            repromised_at=command.repromised_at,
            reason=command.reason,
        )
    ]


def must_be_unshipped(order: Order, order_id: str) -> None:
    """Refuse to take back what has left already, and say what to do instead."""
    if order.status in (Status.SHIPPED, Status.DELIVERED):
        raise Refused(
            "order.already_shipped",
            order_id=order.order_id,
            status=order.status,
            instead="return it",
        )
    must_be(order, order_id, *OPEN)


def _parts(order: Order, lines: Sequence[LineQuantity]) -> list[LinePart]:
    parts: list[LinePart] = []
    for asked in lines:
        line = order.line(asked.line_no)
        if asked.quantity > line.open:
            raise not_open(order, line.line_no, line.open, asked.quantity)
        must_be_in_steps(order.order_id, line, line.step, asked.quantity)
        parts.append(given_up(line, asked.quantity))
    return parts


def _cancelled(
    order: Order, parts: Sequence[LinePart], reason: str, at: datetime | None, stocks: Stocks
) -> list[Event]:
    assert order.placed_at is not None
    shelves = Shelves(stocks)
    for part in parts:
        shelves.release(order.order_id, part, at)
    gone = LinesCancelled(
        order_id=order.order_id,
        lines=tuple(parts),
        units=units(parts),
        reserved=reserved(parts),
        backordered=backordered(parts),
        goods_minor=given_up_minor(order, parts),
        currency=order.currency,
        placed_at=order.placed_at,
        cancelled_at=at,
        reason=reason,
    )
    left = ORDERS.fold([gone], order)
    ends: list[Event] = []
    if not any(line.open for line in left.lines):
        ends = closed(left) if order.parts else [cancelled(order, reason, at)]
    return [*shelves.events, gone, *ends]


def cancelled(order: Order, reason: str, at: datetime | None) -> OrderCancelled:
    """The end of an order of which nothing has left."""
    assert order.placed_at is not None
    return OrderCancelled(
        order_id=order.order_id,
        site_id=order.site_id,
        currency=order.currency,
        placed_at=order.placed_at,
        cancelled_at=at,
        reason=reason,
    )


def _begun(order: Order, command: SplitOrder, parts: Sequence[LinePart]) -> list[Event]:
    """The first events of the order that was split off."""
    assert order.placed_at is not None
    assert order.promised_at is not None
    new = command.new_order_id
    lines = [order.line(part.line_no) for part in parts]
    weights = [line.weight_g for line in lines]
    volumes = [line.volume_cm3 for line in lines]
    events: list[Event] = [
        OrderPlaced(
            order_id=new,
            customer_id=order.customer_id,
            currency=order.currency,
            lines=tuple(
                OrderLine(
                    line_no=line.line_no,
                    sku=line.sku,
                    quantity=part.quantity,
                    unit_price_minor=line.unit_price_minor,
                    weight_g=line.weight_g,
                    site_id=line.seller,
                    volume_cm3=line.volume_cm3,
                )
                for line, part in zip(lines, parts, strict=True)
            ),
            lines_known=True,
            units=units(parts),
            goods_minor=given_up_minor(order, parts),
            freight_minor=0,
            weight_g=_together(parts, weights),
            region=order.region,
            placed_at=order.placed_at,
            promised_at=order.promised_at,
            person=order.person,
            recipient=order.recipient,
            destination=order.destination,
            delivery_window=order.delivery_window,
            service_s=order.service_s,
            volume_cm3=_together(parts, volumes),
            split_from=order.order_id,
            terms=_terms(lines) or None,
        )
    ]
    if order.repromised_at is not None:
        events.append(
            OrderRepromised(
                order_id=new,
                promised_at=order.repromised_at,
                before=order.promised_at,
                first_promised_at=order.promised_at,
                repromised_at=command.split_at,
                reason=f"split from {order.order_id}",
            )
        )
    if order.site_id is not None:
        events.append(
            OrderAllocated(
                order_id=new,
                site_id=order.site_id,
                service_level=order.service_level,
                line_sites=tuple(
                    LineSite(line_no=line.line_no, site_id=line.site_id or order.site_id)
                    for line in lines
                ),
                decision_id=None,
                region=order.region,
                allocated_at=order.allocated_at,
                vehicle_id=order.vehicle_id,
            )
        )
    kept = [
        part.model_copy(
            update={"quantity": part.reserved, "backordered": Decimal(0), "picked": Decimal(0)}
        )
        for part in parts
        if part.reserved
    ]
    if kept:
        events.append(
            OrderReserved(
                order_id=new, lines=tuple(kept), units=units(kept), reserved_at=command.split_at
            )
        )
    events += [
        OrderBackordered(
            order_id=new,
            line_no=part.line_no,
            sku=part.sku,
            site_id=part.site_id or "",
            quantity=part.backordered,
            backordered_at=command.split_at,
        )
        for part in parts
        if part.backordered
    ]
    return [*events, *_picked(new, parts, command.split_at)]


def _terms(lines: Sequence[Line]) -> tuple[LineTerms, ...]:
    """What goes on holding of lines of which a part becomes another order's, each behind what was
    given up before."""
    found = (
        LineTerms(
            line_no=line.line_no,
            step=line.step,
            offset=line.offset + line.cancelled + line.split_off,
        )
        for line in lines
    )
    return tuple(one for one in found if one.step is not None or one.offset)


def _picked(order_id: str, parts: Sequence[LinePart], at: datetime | None) -> list[Event]:
    """What tells the order that was split off, for each site, what was picked by hand of it."""
    zero = Decimal(0)
    by_site: dict[str, list[LinePart]] = {}
    for part in parts:
        if part.picked:
            only = {"quantity": part.picked, "reserved": zero, "backordered": zero, "picked": zero}
            by_site.setdefault(part.site_id or "", []).append(part.model_copy(update=only))
    return [
        OrderPicked(
            order_id=order_id,
            site_id=site_id,
            lines=tuple(found),
            units=units(found),
            reserved=zero,
            backordered=zero,
            picked_at=at,
        )
        for site_id, found in by_site.items()
    ]


def _together(parts: Sequence[LinePart], each: Sequence[int | None]) -> int | None:
    """Grams or cubic centimetres of all parts; None where they are not known of one."""
    if None in each:
        return None
    return round(sum(part.quantity * (one or 0) for part, one in zip(parts, each, strict=True)))
