"""What happens to orders: the events of an order's stream, and the values that they hold.

A time that is ``None`` on a fact says: it is known to have happened, its time was never recorded.
Facts are recorded as they were told. A shipment dated before its allocation is not refused (the
world does that); the event says so in ``out_of_order``.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from domain.people import OfPerson, Pseudonym, SealedRecipient
from domain.places import Point
from domain.time_windows import TimeWindow
from domain.values import Event, Id, Minor, Quantity, Value

#: SHA-256 as 64 hexadecimal digits.
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]


def is_none(value: object) -> bool:
    """Whether a field is left out of the bytes: those of older events stay what they were."""
    return value is None


def is_zero(value: Decimal) -> bool:
    """As ``is_none``, of quantities."""
    return value == 0


# values


class OrderLine(Value):
    """One line: so many of one SKU at one price, perhaps sold by one site only.

    ``weight_g`` and ``volume_cm3`` are of one unit.
    """

    line_no: Annotated[int, Field(ge=1, le=10_000)]
    sku: Id
    quantity: Quantity = Field(examples=["1"])
    unit_price_minor: Minor
    freight_minor: Minor = 0
    weight_g: Annotated[int, Field(ge=0, le=10**9)] | None = None
    site_id: Id | None = None
    volume_cm3: Annotated[int | None, Field(ge=0, le=10**9, exclude_if=is_none)] = None


class LineSite(Value):
    """Which site ships a line."""

    line_no: int
    site_id: Id


class LineTerms(Value):
    """What holds of a line beyond what was ordered.

    ``step``: its product is sold in multiples of that; ``offset``: so much of the line that it was
    split from lies before it, by which its worth is rounded (``order_worth.py``).
    """

    line_no: int
    step: Annotated[Decimal | None, Field(exclude_if=is_none)] = None
    offset: Annotated[Decimal, Field(exclude_if=is_zero)] = Decimal(0)


class LinePart(Value):
    """So much of a line. Of it, ``reserved`` had stock put aside, ``backordered`` waited for it,
    ``picked`` was off the shelf already: somebody picked it by hand."""

    line_no: int
    sku: str
    site_id: str | None
    quantity: Decimal
    reserved: Decimal = Decimal(0)
    backordered: Decimal = Decimal(0)
    # Left out where nothing was, so that such an event has the bytes it always had.
    picked: Annotated[Decimal, Field(exclude_if=is_zero)] = Decimal(0)


class Filled(Value):
    """Of a delivered order: what was ordered, what its first shipment held, what arrived in all.

    ``lines_filled``: lines of which the first shipment held everything. What became an order of its
    own is not counted; what was cancelled is: it was ordered and did not come.
    """

    lines: int
    lines_filled: int
    units: Decimal
    units_filled: Decimal
    units_delivered: Decimal


class Proof(Value):
    """What shows that goods were handed over: a signature, a photo, or a code that was told.

    Only its SHA-256 is kept, and under which reference whoever has it can be asked for it: what it
    shows is personal.
    """

    kind: Literal["signature", "photo", "code"]
    sha256: Sha256
    reference: Id | None = None
    location: Point | None = None


# events


class OrderPlaced(Event):
    """A customer placed an order; for whom, ``person`` and ``recipient`` say in tokens.

    ``terms``: of the lines that have any. ``split_from``: it was part of that order, which says so
    too (OrderSplit).
    """

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
    person: Annotated[Pseudonym | None, Field(exclude_if=is_none), OfPerson()] = None
    recipient: Annotated[SealedRecipient | None, Field(exclude_if=is_none)] = None
    destination: Annotated[Point | None, Field(exclude_if=is_none)] = None
    delivery_window: Annotated[TimeWindow | None, Field(exclude_if=is_none)] = None
    service_s: Annotated[int | None, Field(exclude_if=is_none)] = None
    volume_cm3: Annotated[int | None, Field(exclude_if=is_none)] = None
    split_from: Annotated[str | None, Field(exclude_if=is_none)] = None
    terms: Annotated[tuple[LineTerms, ...] | None, Field(exclude_if=is_none)] = None


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


class OrderReserved(Event):
    """Stock was put aside for lines of the order."""

    order_id: str
    lines: tuple[LinePart, ...]
    units: Decimal
    reserved_at: datetime | None


class OrderBackordered(Event):
    """A line, or a part of it, waits for stock."""

    order_id: str
    line_no: int
    sku: str
    site_id: str
    quantity: Decimal
    backordered_at: datetime | None


class BackorderFilled(Event):
    """Stock that came in was put aside for a line that waited; for ``left`` it still waits."""

    order_id: str
    line_no: int
    sku: str
    site_id: str
    quantity: Decimal
    left: Decimal
    filled_at: datetime | None


class OrderReleased(Event):
    """The order's stock was given free, and what it waited for is not waited for any more."""

    order_id: str
    lines: tuple[LinePart, ...]
    reserved: Decimal
    backordered: Decimal
    released_at: datetime | None


class OrderPicked(Event):
    """Of what is put aside for the order, some was picked from the shelf by hand; with it perhaps
    some that lines waited for. It is shipped with the next part of its line."""

    order_id: str
    site_id: str
    lines: tuple[LinePart, ...]
    units: Decimal
    reserved: Decimal
    backordered: Decimal
    picked_at: datetime | None


class OrderPartShipped(Event):
    """A part of the order left its site."""

    order_id: str
    shipment_id: str
    site_id: str
    service_level: str
    region: str | None
    carrier: str | None
    vehicle_id: str | None
    lines: tuple[LinePart, ...]
    units: Decimal
    reserved: Decimal
    weight_g: int | None
    placed_at: datetime
    promised_at: datetime
    shipped_at: datetime | None
    handling_s: int | None
    out_of_order: bool


class OrderShipped(Event):
    """The order left its site. ``parts``: it left in so many shipments, this says that no more of
    it will; none: it left as a whole."""

    order_id: str
    site_id: str
    service_level: str
    region: str | None
    carrier: str | None
    shipped_at: datetime | None
    handling_s: int | None
    out_of_order: bool
    vehicle_id: str | None = None
    parts: Annotated[int | None, Field(exclude_if=is_none)] = None


class ShipmentDelivered(Event):
    """A part of the order reached its customer. ``late_s``: seconds behind what was promised first;
    below zero: before it."""

    order_id: str
    shipment_id: str
    site_id: str
    service_level: str
    region: str | None
    vehicle_id: str | None
    lines: tuple[LinePart, ...]
    units: Decimal
    placed_at: datetime
    promised_at: datetime
    delivered_at: datetime | None
    late: bool | None
    late_s: int | None
    transit_s: int | None
    out_of_order: bool
    proof: Proof | None


class OrderDelivered(Event):
    """The order reached its customer. ``late`` compares with what was promised first; None: time
    not recorded. ``parts``: the last of so many shipments did. ``filled``: None: its lines are not
    known."""

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
    parts: Annotated[int | None, Field(exclude_if=is_none)] = None
    proof: Annotated[Proof | None, Field(exclude_if=is_none)] = None
    customer_id: Annotated[str | None, Field(exclude_if=is_none)] = None
    filled: Annotated[Filled | None, Field(exclude_if=is_none)] = None


class OrderCancelled(Event):
    """The order was given up."""

    order_id: str
    site_id: str | None
    currency: str
    placed_at: datetime
    cancelled_at: datetime | None
    reason: str


class LinesCancelled(Event):
    """Lines, or parts of them, were given up before they were shipped."""

    order_id: str
    lines: tuple[LinePart, ...]
    units: Decimal
    reserved: Decimal
    backordered: Decimal
    goods_minor: int
    currency: str
    placed_at: datetime
    cancelled_at: datetime | None
    reason: str


class OrderSplit(Event):
    """Lines, or parts of them, became an order of their own."""

    order_id: str
    new_order_id: str
    lines: tuple[LinePart, ...]
    units: Decimal
    reserved: Decimal
    backordered: Decimal
    goods_minor: int
    currency: str
    placed_at: datetime
    split_at: datetime | None


class LinesReturned(Event):
    """Goods came back from the customer; ``restock``: onto the shelf of the site."""

    order_id: str
    return_id: str
    site_id: str
    lines: tuple[LinePart, ...]
    units: Decimal
    goods_minor: int
    currency: str
    placed_at: datetime
    restock: bool
    returned_at: datetime | None
    reason: str


class OrderRepromised(Event):
    """Another moment was promised. What was promised first stays what the order is measured by."""

    order_id: str
    promised_at: datetime
    before: datetime
    first_promised_at: datetime
    repromised_at: datetime | None
    reason: str


class OrderChanged(Event):
    """Where or when the order is wanted changed; ``changed`` names the fields, the others are as
    before."""

    order_id: str
    destination: Point | None
    delivery_window: TimeWindow | None
    service_s: int | None
    changed: str
    changed_at: datetime | None


EVENTS = (
    OrderPlaced,
    OrderAllocated,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
    OrderReserved,
    OrderBackordered,
    BackorderFilled,
    OrderReleased,
    OrderPartShipped,
    ShipmentDelivered,
    LinesCancelled,
    OrderSplit,
    LinesReturned,
    OrderRepromised,
    OrderPicked,
    OrderChanged,
)

#: The stream that an event belongs to, by its fields.
STREAM = "orders/{order_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    OrderPlaced: "Order {order_id} was placed by customer {customer_id}: {units} units, "
    "goods worth {goods_minor} {currency} minor units, promised by {promised_at}",
    OrderAllocated: "Order {order_id} was allocated to site {site_id}, "
    "service level {service_level}",
    OrderReserved: "Stock was reserved for order {order_id}: {units} units",
    OrderBackordered: "Order {order_id} waits for {quantity} of {sku} at site {site_id}",
    BackorderFilled: "Order {order_id} waited for {sku} at site {site_id} and got {quantity}; "
    "it waits for {left} more",
    OrderPicked: "Site {site_id} picked {units} units of order {order_id} by hand",
    OrderReleased: "The stock of order {order_id} was released: {reserved} units",
    OrderPartShipped: "Shipment {shipment_id} of order {order_id} left site {site_id}: "
    "{units} units",
    OrderShipped: "Order {order_id} left site {site_id}",
    ShipmentDelivered: "Shipment {shipment_id} of order {order_id} was delivered "
    "(promised by {promised_at}, late: {late})",
    OrderDelivered: "Order {order_id} was delivered (promised by {promised_at}, late: {late})",
    OrderCancelled: "Order {order_id} was cancelled: {reason}",
    LinesCancelled: "{units} units of order {order_id} were cancelled: {reason}",
    OrderSplit: "{units} units of order {order_id} became order {new_order_id}",
    LinesReturned: "{units} units of order {order_id} came back to site {site_id}: {reason}",
    OrderRepromised: "Order {order_id} was promised for {promised_at} instead of {before}: "
    "{reason}",
    OrderChanged: "Order {order_id} was changed: {changed}",
}
