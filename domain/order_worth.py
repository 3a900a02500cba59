"""What parts of orders are worth: whatever a line is cut into, its parts are worth what it is.

A part is a piece of its line, from here to there; it is worth the line up to there less the line up
to here, each rounded as a line is (half a cent to even). So parts and rest add up to the whole, and
none is worth less than nothing, which it would be if each were rounded by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from domain.order_events import LinePart
from domain.order_state import Line, Order


def given_up_minor(order: Order, parts: Sequence[LinePart]) -> int:
    """What parts are worth that are split off or cancelled now, behind all that were before."""
    worth = 0
    for part in parts:
        line = order.line(part.line_no)
        worth += _worth(line, line.cancelled + line.split_off, part.quantity)
    return worth


def returned_minor(order: Order, parts: Sequence[LinePart]) -> int:
    """What parts are worth that come back now. They are counted from the line's other end, so that
    what came back and what was given up never share a piece."""
    worth = 0
    for part in parts:
        line = order.line(part.line_no)
        start = line.quantity - line.returned - part.quantity
        worth += _worth(line, start, part.quantity)
    return worth


def _worth(line: Line, start: Decimal, quantity: Decimal) -> int:
    since = line.offset + start
    price = line.unit_price_minor
    return round((since + quantity) * price) - round(since * price)
