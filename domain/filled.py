"""What of a delivered order was filled, and when: what fill rates are made of."""

from __future__ import annotations

from decimal import Decimal

from domain.order_events import Filled
from domain.order_state import Order


def filled(order: Order) -> Filled | None:
    """What of an order is filled that is on its way or there; None: its lines are not known."""
    ordered = {
        line.line_no: line.quantity - line.split_off
        for line in order.lines
        if line.quantity > line.split_off
    }
    if not ordered:
        return None
    shipped = {line.line_no: line.shipped for line in order.lines}
    first = dict(order.parts[0].lines) if order.parts else shipped
    zero = Decimal(0)
    return Filled(
        lines=len(ordered),
        lines_filled=sum(first.get(line_no, zero) >= many for line_no, many in ordered.items()),
        units=sum(ordered.values(), zero),
        units_filled=sum(first.values(), zero),
        units_delivered=sum(shipped.values(), zero),
    )
