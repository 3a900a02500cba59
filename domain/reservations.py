"""Reservations: stock that is put aside for orders, and lines that wait for stock.

An order's stream says what its lines have, a stock's stream what is put aside for whom; both are
appended to together (docs/adr/0040).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from domain.errors import Refused
from domain.inventory import (
    PickStock,
    Stock,
    StockPicked,
    StockReleased,
    StockReserved,
    evolve_stock,
    pick,
)
from domain.order_events import (
    BackorderFilled,
    LinePart,
    OrderBackordered,
    OrderPicked,
    OrderReleased,
    OrderReserved,
)
from domain.order_state import (
    Line,
    Order,
    Status,
    backordered,
    must_be,
    must_be_in_steps,
    reserved,
    units,
)
from domain.sites import Site
from domain.values import Command, Event, Id, UtcTime

#: The stock of a SKU at a site, by both: what a rule has to know of the streams that it appends to.
Stocks = Mapping[tuple[str, str], Stock]

# commands


class ReserveOrder(Command):
    """Put stock aside for every line of an allocated order, at the site that ships the line: as
    much as is there. What is not there is backordered; with ``partial`` false the whole is refused
    instead."""

    order_id: Id
    partial: bool = True
    reserved_at: UtcTime | None


class ReleaseOrder(Command):
    """Give an order's stock free, and take its lines off the waiting list."""

    order_id: Id
    released_at: UtcTime | None


class FillBackorder(Command):
    """Put stock that came in aside for what an order waits for: as much as is there. ``line_no``
    left out: for all of its lines."""

    order_id: Id
    line_no: Annotated[int, Field(ge=1, le=10_000)] | None = None
    filled_at: UtcTime | None


# decisions


class Shelves:
    """The stocks that one command changes, as its events leave them, and the events so far."""

    def __init__(self, stocks: Stocks) -> None:
        self._stocks = dict(stocks)
        self.events: list[Event] = []

    def reserve(self, order_id: str, line: Line, most: Decimal, at: datetime | None) -> Decimal:
        """Put aside at most so much for a line, in steps of its product; how much it is."""
        stock = self._stocks[_place(line)]
        quantity = min(stock.available, most)
        if line.step is not None:
            quantity -= quantity % line.step
        if quantity > 0:
            site_id, sku = _place(line)
            self._add(
                StockReserved(
                    site_id=site_id, sku=sku, quantity=quantity, order_id=order_id, reserved_at=at
                )
            )
        return max(quantity, Decimal(0))

    def release(self, order_id: str, part: LinePart, at: datetime | None) -> None:
        """Give free what is reserved of a line."""
        if part.reserved:
            self._add(
                StockReleased(
                    site_id=part.site_id or "",
                    sku=part.sku,
                    quantity=part.reserved,
                    order_id=order_id,
                    released_at=at,
                )
            )

    def move(self, order_id: str, to: str, part: LinePart, at: datetime | None) -> None:
        """Put aside for another order what is reserved of a line."""
        if part.reserved:
            self.release(order_id, part, at)
            self._add(
                StockReserved(
                    site_id=part.site_id or "",
                    sku=part.sku,
                    quantity=part.reserved,
                    order_id=to,
                    reserved_at=at,
                )
            )

    def pick(self, order_id: str, part: LinePart, at: datetime | None) -> None:
        """Take what is reserved of a line from the shelf."""
        if part.reserved:
            self._add(
                StockPicked(
                    site_id=part.site_id or "",
                    sku=part.sku,
                    quantity=part.reserved,
                    order_id=order_id,
                    picked_at=at,
                    reserved=part.reserved,
                )
            )

    def stock(self, line: Line) -> Stock:
        """The stock of a line as the events so far leave it."""
        return self._stocks[_place(line)]

    def _add(self, event: StockReserved | StockReleased | StockPicked) -> None:
        place = event.site_id, event.sku
        self._stocks[place] = evolve_stock(self._stocks[place], event)
        self.events.append(event)


def places_of(order: Order) -> list[tuple[str, str]]:
    """Site and SKU of each line that needs stock, each once."""
    return list(dict.fromkeys(_place(line) for line in order.lines if line.to_pick))


def reserve(order: Order, command: ReserveOrder, stocks: Stocks) -> Sequence[Event]:
    """Put stock aside for all that is open and that nobody picked by hand."""
    _must_be_allocated(order, command.order_id)
    if order.is_reserved:
        raise Refused("order.already_reserved", order_id=order.order_id)
    lines = [line for line in order.lines if line.to_pick]
    if not lines:
        raise Refused("order.already_picked", order_id=order.order_id)
    shelves = Shelves(stocks)
    parts: list[LinePart] = []
    waiting: list[Event] = []
    for line in lines:
        got = shelves.reserve(order.order_id, line, line.to_pick, command.reserved_at)
        if got:
            parts.append(part_of(line, got, got))
        lacking = line.to_pick - got
        if lacking and not command.partial:
            raise _not_enough(shelves.stock(line), line, lacking, got)
        if lacking:
            site_id, sku = _place(line)
            waiting.append(
                OrderBackordered(
                    order_id=order.order_id,
                    line_no=line.line_no,
                    sku=sku,
                    site_id=site_id,
                    quantity=lacking,
                    backordered_at=command.reserved_at,
                )
            )
    told: list[Event] = []
    if parts:
        told.append(
            OrderReserved(
                order_id=order.order_id,
                lines=tuple(parts),
                units=units(parts),
                reserved_at=command.reserved_at,
            )
        )
    return [*shelves.events, *told, *waiting]


def release(order: Order, command: ReleaseOrder, stocks: Stocks) -> Sequence[Event]:
    """Give everything free that is put aside for the order."""
    must_be(order, command.order_id, Status.PLACED, Status.ALLOCATED, Status.PARTLY_SHIPPED)
    if not order.is_reserved:
        raise Refused("order.not_reserved", order_id=order.order_id)
    return released(order, stocks, command.released_at)


def released(order: Order, stocks: Stocks, at: datetime | None) -> list[Event]:
    """What gives everything free; nothing where nothing was reserved."""
    if not order.is_reserved:
        return []
    parts = [
        part_of(line, line.reserved + line.backordered, line.reserved, line.backordered)
        for line in order.lines
        if line.reserved or line.backordered
    ]
    shelves = Shelves(stocks)
    for part in parts:
        shelves.release(order.order_id, part, at)
    return [
        *shelves.events,
        OrderReleased(
            order_id=order.order_id,
            lines=tuple(parts),
            reserved=reserved(parts),
            backordered=backordered(parts),
            released_at=at,
        ),
    ]


def fill(order: Order, command: FillBackorder, stocks: Stocks) -> Sequence[Event]:
    """Put aside what came in for lines that wait."""
    _must_be_allocated(order, command.order_id)
    if command.line_no is not None:
        order.line(command.line_no)
    lines = [
        line for line in order.lines if line.backordered and command.line_no in (None, line.line_no)
    ]
    if not lines:
        raise Refused(
            "order.not_backordered", order_id=order.order_id, line_no=command.line_no or "any"
        )
    shelves = Shelves(stocks)
    filled: list[Event] = []
    for line in lines:
        got = shelves.reserve(order.order_id, line, line.backordered, command.filled_at)
        if got:
            site_id, sku = _place(line)
            filled.append(
                BackorderFilled(
                    order_id=order.order_id,
                    line_no=line.line_no,
                    sku=sku,
                    site_id=site_id,
                    quantity=got,
                    left=line.backordered - got,
                    filled_at=command.filled_at,
                )
            )
    if not filled:
        first = lines[0]
        raise _not_enough(shelves.stock(first), first, first.backordered, Decimal(0))
    return [*shelves.events, *filled]


def pick_by_hand(stock: Stock, command: PickStock, site: Site, order: Order) -> Sequence[Event]:
    """Take goods from the shelf; the order is told what it has of them: what is put aside for it
    and, of more than that, what its lines of that SKU at that site wait for."""
    [picked] = pick(stock, command, site)
    own = min(stock.reserved_for(command.order_id), command.quantity)
    more = command.quantity - own
    parts: list[LinePart] = []
    for line in order.lines:
        if _place(line) != (command.site_id, command.sku):
            continue
        reserved_, waiting = min(line.reserved, own), min(line.backordered, more)
        if reserved_ or waiting:
            must_be_in_steps(order.order_id, line, line.step, command.quantity)
            parts.append(part_of(line, reserved_ + waiting, reserved_, waiting))
            own, more = own - reserved_, more - waiting
    if not parts:
        return [picked]
    told = OrderPicked(
        order_id=order.order_id,
        site_id=command.site_id,
        lines=tuple(parts),
        units=units(parts),
        reserved=reserved(parts),
        backordered=backordered(parts),
        picked_at=command.picked_at,
    )
    return [picked, told]


def part_of(
    line: Line,
    quantity: Decimal,
    reserved: Decimal = Decimal(0),
    backordered: Decimal = Decimal(0),
    picked: Decimal = Decimal(0),
) -> LinePart:
    """So much of a line."""
    return LinePart(
        line_no=line.line_no,
        sku=line.sku,
        site_id=line.site_id,
        quantity=quantity,
        reserved=reserved,
        backordered=backordered,
        picked=picked,
    )


def given_up(line: Line, quantity: Decimal) -> LinePart:
    """So much of what is open of a line: first what waits, then what is reserved, what was picked
    by hand last."""
    picked = max(quantity - line.to_pick, Decimal(0))
    waiting = min(line.backordered, quantity - picked)
    reserved_ = min(line.reserved, quantity - picked - waiting)
    return part_of(line, quantity, reserved_, waiting, picked)


def places_reserved(lines: Iterable[Line]) -> list[tuple[str, str]]:
    """Site and SKU of each line with something reserved, each once."""
    return list(dict.fromkeys(_place(line) for line in lines if line.reserved))


def _place(line: Line) -> tuple[str, str]:
    return line.site_id or "", line.sku


def _must_be_allocated(order: Order, order_id: str) -> None:
    if order.status is Status.PLACED:
        raise Refused("order.not_allocated", order_id=order.order_id, status=order.status)
    must_be(order, order_id, Status.ALLOCATED, Status.PARTLY_SHIPPED)


def _not_enough(stock: Stock, line: Line, lacking: Decimal, got: Decimal) -> Refused:
    site_id, sku = _place(line)
    return Refused(
        "stock.not_enough",
        site_id=site_id,
        sku=sku,
        line_no=line.line_no,
        available=stock.available + got,
        asked=lacking + got,
    )
