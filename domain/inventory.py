"""Inventory: the stock of each SKU at each site. It never falls below zero, nor below what is
reserved for orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.errors import Refused
from domain.sites import Site, must_be_known, must_be_open
from domain.values import (
    Change,
    Command,
    Event,
    Id,
    Quantity,
    Text,
    UtcTime,
)

# values and commands


class ReceiveStock(Command):
    """Goods came in."""

    site_id: Id
    sku: Id
    quantity: Quantity = Field(examples=["12"])
    received_at: UtcTime | None


class PickStock(Command):
    """Goods were taken from the shelf, for an order or otherwise. What is reserved for an order is
    taken by naming it; without an order, only what is reserved for none."""

    site_id: Id
    sku: Id
    quantity: Quantity = Field(examples=["1"])
    order_id: Id | None = None
    picked_at: UtcTime | None


class AdjustStock(Command):
    """A count or a breakage changes what is on hand."""

    site_id: Id
    sku: Id
    change: Change = Field(examples=["-2"])
    reason: Text
    adjusted_at: UtcTime | None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.change == 0:
            raise ValueError("change: must not be zero")
        return self


# events


class StockReceived(Event):
    """Goods came in."""

    site_id: str
    sku: str
    quantity: Decimal
    received_at: datetime | None


class StockPicked(Event):
    """Goods were taken from the shelf. ``reserved``: so much of it was reserved for the order."""

    site_id: str
    sku: str
    quantity: Decimal
    order_id: str | None
    picked_at: datetime | None
    # Left out where nothing was, so that such an event has the bytes it always had.
    reserved: Annotated[Decimal | None, Field(exclude_if=lambda value: value is None)] = None


class StockAdjusted(Event):
    """What is on hand was corrected."""

    site_id: str
    sku: str
    change: Decimal
    reason: str
    adjusted_at: datetime | None


class StockReserved(Event):
    """Stock was put aside for an order."""

    site_id: str
    sku: str
    quantity: Decimal
    order_id: str
    reserved_at: datetime | None


class StockReleased(Event):
    """Stock that was put aside for an order was given free."""

    site_id: str
    sku: str
    quantity: Decimal
    order_id: str
    released_at: datetime | None


class StockReturned(Event):
    """Goods of an order came back from its customer onto the shelf."""

    site_id: str
    sku: str
    quantity: Decimal
    order_id: str
    return_id: str
    returned_at: datetime | None


EVENTS = (
    StockReceived,
    StockPicked,
    StockAdjusted,
    StockReserved,
    StockReleased,
    StockReturned,
)

#: The stream that an event belongs to, by its fields.
STOCK_STREAM = "stock/{site_id}/{sku}"
STREAMS: dict[type[Event], str] = {
    StockReceived: STOCK_STREAM,
    StockPicked: STOCK_STREAM,
    StockAdjusted: STOCK_STREAM,
    StockReserved: STOCK_STREAM,
    StockReleased: STOCK_STREAM,
    StockReturned: STOCK_STREAM,
}

SENTENCES: dict[type[Event], str] = {
    StockReceived: "Site {site_id} received {quantity} of {sku}",
    StockPicked: "Site {site_id} picked {quantity} of {sku}",
    StockAdjusted: "Stock of {sku} at site {site_id} was adjusted by {change}: {reason}",
    StockReserved: "Site {site_id} put {quantity} of {sku} aside for order {order_id}",
    StockReleased: "Site {site_id} gave {quantity} of {sku} free that was put aside "
    "for order {order_id}",
    StockReturned: "{quantity} of {sku} came back to site {site_id} from order {order_id}",
}

# state


@dataclass(frozen=True, slots=True)
class Stock:
    """What is on hand of one SKU at one site, and what of it is put aside for which order.

    0 <= ``reserved`` <= ``on_hand``, always; ``reserved`` is the sum of ``orders``.
    """

    on_hand: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    orders: dict[str, Decimal] = field(default_factory=dict)

    @property
    def available(self) -> Decimal:
        """What is put aside for nobody."""
        return self.on_hand - self.reserved

    def reserved_for(self, order_id: str | None) -> Decimal:
        """What is put aside for an order."""
        return self.orders.get(order_id, Decimal(0)) if order_id else Decimal(0)


def evolve_stock(stock: Stock, event: Event) -> Stock:
    """The stock after one more of its events."""
    match event:
        case StockReceived() | StockReturned():
            return Stock(stock.on_hand + event.quantity, stock.reserved, stock.orders)
        case StockPicked():
            left = Stock(stock.on_hand - event.quantity, stock.reserved, stock.orders)
            if event.reserved is None or event.order_id is None:
                return left
            return _put_aside(left, event.order_id, -event.reserved)
        case StockAdjusted():
            return Stock(stock.on_hand + event.change, stock.reserved, stock.orders)
        case StockReserved():
            return _put_aside(stock, event.order_id, event.quantity)
        case StockReleased():
            return _put_aside(stock, event.order_id, -event.quantity)
    return stock


def _put_aside(stock: Stock, order_id: str, change: Decimal) -> Stock:
    """So much more, or less, put aside for an order. States are shared: the map is a new one."""
    orders = stock.orders | {order_id: stock.reserved_for(order_id) + change}
    if not orders[order_id]:
        del orders[order_id]
    return Stock(stock.on_hand, stock.reserved + change, orders)


STOCK = Decider(initial=Stock(), evolve=evolve_stock)

# decisions


def receive(stock: Stock, command: ReceiveStock, site: Site) -> Sequence[Event]:
    """Take goods in at an open site."""
    must_be_open(site, command.site_id)
    return [
        StockReceived(
            site_id=command.site_id,
            sku=command.sku,
            quantity=command.quantity,
            received_at=command.received_at,
        )
    ]


def pick(stock: Stock, command: PickStock, site: Site) -> Sequence[Event]:
    """Take goods from the shelf: what is reserved for the order, and what is reserved for none."""
    must_be_open(site, command.site_id)
    own = min(stock.reserved_for(command.order_id), command.quantity)
    must_have(stock, command.site_id, command.sku, command.quantity - own)
    return [
        StockPicked(
            site_id=command.site_id,
            sku=command.sku,
            quantity=command.quantity,
            order_id=command.order_id,
            picked_at=command.picked_at,
            reserved=own or None,
        )
    ]


def adjust(stock: Stock, command: AdjustStock, site: Site) -> Sequence[Event]:
    """Correct what is on hand; a closed site may still be counted. What is reserved for orders has
    to be released first."""
    must_be_known(site, command.site_id)
    left = stock.on_hand + command.change
    if 0 <= left < stock.reserved and command.change < 0:
        raise Refused(
            "stock.reserved",
            site_id=command.site_id,
            sku=command.sku,
            on_hand=stock.on_hand,
            reserved=stock.reserved,
            asked=-command.change,
        )
    if left < 0:
        must_have(stock, command.site_id, command.sku, -command.change)
    return [
        StockAdjusted(
            site_id=command.site_id,
            sku=command.sku,
            change=command.change,
            reason=command.reason,
            adjusted_at=command.adjusted_at,
        )
    ]


def must_have(stock: Stock, site_id: str, sku: str, quantity: Decimal) -> None:
    """Refuse what needs more than is on hand and reserved for nobody."""
    if stock.available < quantity:
        aside = {"reserved": stock.reserved} if stock.reserved else {}
        raise Refused(
            "stock.not_enough",
            site_id=site_id,
            sku=sku,
            on_hand=stock.on_hand,
            **aside,
            asked=quantity,
        )
