"""Returns: goods that come back from customers, onto a shelf or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from domain.errors import Refused
from domain.inventory import StockReturned
from domain.order_events import LinePart, LinesReturned
from domain.order_state import Order, Status, must_be, must_be_in_steps, units
from domain.order_worth import returned_minor
from domain.shipments import Lines, once
from domain.values import Command, Event, Id, Text, UtcTime

# command


class ReturnOrder(Command):
    """Take goods back from the customer at a site; ``restock``: onto its shelf."""

    order_id: Id
    return_id: Id
    lines: Lines
    reason: Text
    site_id: Id
    restock: bool = True
    returned_at: UtcTime | None

    @model_validator(mode="after")
    def _lines_are_named_once(self) -> Self:
        once(self.lines)
        return self


# decision


def take_back(order: Order, command: ReturnOrder) -> Sequence[Event]:
    """Take goods back: as much of a line as was delivered and has not come back."""
    if order.status in (Status.PLACED, Status.ALLOCATED):
        raise Refused("order.not_shipped", order_id=order.order_id, status=order.status)
    must_be(order, command.order_id, Status.PARTLY_SHIPPED, Status.SHIPPED, Status.DELIVERED)
    if command.return_id in order.returns:
        raise Refused("return.already_made", order_id=order.order_id, return_id=command.return_id)
    parts: list[LinePart] = []
    for asked in command.lines:
        line = order.line(asked.line_no)
        if asked.quantity > line.delivered - line.returned:
            raise Refused(
                "return.more_than_delivered",
                order_id=order.order_id,
                line_no=line.line_no,
                delivered=line.delivered,
                returned=line.returned,
                asked=asked.quantity,
            )
        must_be_in_steps(order.order_id, line, line.step, asked.quantity)
        parts.append(
            LinePart(
                line_no=line.line_no,
                sku=line.sku,
                site_id=command.site_id,
                quantity=asked.quantity,
            )
        )
    assert order.placed_at is not None
    back = LinesReturned(
        order_id=order.order_id,
        return_id=command.return_id,
        site_id=command.site_id,
        lines=tuple(parts),
        units=units(parts),
        goods_minor=returned_minor(order, parts),
        currency=order.currency,
        placed_at=order.placed_at,
        restock=command.restock,
        returned_at=command.returned_at,
        reason=command.reason,
    )
    stocked = [
        StockReturned(
            site_id=command.site_id,
            sku=part.sku,
            quantity=part.quantity,
            order_id=order.order_id,
            return_id=command.return_id,
            returned_at=command.returned_at,
        )
        for part in parts
        if command.restock
    ]
    return [back, *stocked]
