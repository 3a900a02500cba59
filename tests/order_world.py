"""An order of two lines in a site's hands, for the specifications of what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.inventory import (
    StockPicked,
    StockReceived,
    StockReleased,
    StockReserved,
)
from domain.order_events import (
    Filled,
    LinePart,
    LineSite,
    OrderAllocated,
    OrderBackordered,
    OrderLine,
    OrderPartShipped,
    OrderPicked,
    OrderPlaced,
    OrderReserved,
    OrderShipped,
    Proof,
    ShipmentDelivered,
)
from domain.orders import OrderDelivered
from domain.shipments import LineQuantity, ShipPart
from domain.sites import ServiceLevel, SiteClosed, SiteOpened

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PROMISED = NOON + 5 * DAY

placed = OrderPlaced(
    order_id="O-1",
    customer_id="C-1",
    currency="EUR",
    lines=(
        OrderLine(
            line_no=1,
            sku="A",
            quantity=Decimal(10),
            unit_price_minor=150,
            weight_g=200,
            volume_cm3=50,
        ),
        OrderLine(line_no=2, sku="B", quantity=Decimal(4), unit_price_minor=1000, weight_g=100),
    ),
    lines_known=True,
    units=Decimal(14),
    goods_minor=5500,
    freight_minor=0,
    weight_g=2400,
    region="SP",
    placed_at=NOON,
    promised_at=PROMISED,
)
allocated = OrderAllocated(
    order_id="O-1",
    site_id="S-1",
    service_level="standard",
    line_sites=(LineSite(line_no=1, site_id="S-1"), LineSite(line_no=2, site_id="S-1")),
    decision_id=None,
    region="SP",
    allocated_at=NOON + HOUR,
    vehicle_id="V-1",
)
opened = SiteOpened(
    site_id="S-1",
    name=None,
    region=None,
    service_levels=(ServiceLevel(code="standard"),),
    daily_capacity=None,
    opened_at=None,
)
closed = SiteClosed(site_id="S-1", reason="fire", closed_at=None)


def changed(event: Any, **fields: Any) -> Any:
    return event.model_copy(update=fields)


def came(sku: str, quantity: int, site_id: str = "S-1") -> StockReceived:
    return StockReceived(site_id=site_id, sku=sku, quantity=Decimal(quantity), received_at=NOON)


def aside(sku: str, quantity: int, order_id: str = "O-1", at: datetime = NOON) -> StockReserved:
    return StockReserved(
        site_id="S-1", sku=sku, quantity=Decimal(quantity), order_id=order_id, reserved_at=at
    )


def free(sku: str, quantity: int, order_id: str = "O-1", at: datetime = NOON) -> StockReleased:
    return StockReleased(
        site_id="S-1", sku=sku, quantity=Decimal(quantity), order_id=order_id, released_at=at
    )


def taken(sku: str, quantity: int, at: datetime, order_id: str = "O-1") -> StockPicked:
    return StockPicked(
        site_id="S-1",
        sku=sku,
        quantity=Decimal(quantity),
        order_id=order_id,
        picked_at=at,
        reserved=Decimal(quantity),
    )


def part(
    line_no: int,
    quantity: int,
    reserved: int = 0,
    backordered: int = 0,
    site_id: str = "S-1",
    picked: int = 0,
) -> LinePart:
    return LinePart(
        line_no=line_no,
        sku="AB"[line_no - 1],
        site_id=site_id,
        quantity=Decimal(quantity),
        reserved=Decimal(reserved),
        backordered=Decimal(backordered),
        picked=Decimal(picked),
    )


def by_hand(*parts: LinePart, order_id: str = "O-1") -> OrderPicked:
    return OrderPicked(
        order_id=order_id,
        site_id="S-1",
        lines=parts,
        units=sum((one.quantity for one in parts), Decimal(0)),
        reserved=sum((one.reserved for one in parts), Decimal(0)),
        backordered=sum((one.backordered for one in parts), Decimal(0)),
        picked_at=NOON,
    )


def kept(*parts: LinePart, order_id: str = "O-1", at: datetime = NOON) -> OrderReserved:
    units = sum((one.quantity for one in parts), Decimal(0))
    return OrderReserved(order_id=order_id, lines=parts, units=units, reserved_at=at)


def waits(
    line_no: int, quantity: int, order_id: str = "O-1", at: datetime = NOON
) -> OrderBackordered:
    return OrderBackordered(
        order_id=order_id,
        line_no=line_no,
        sku="AB"[line_no - 1],
        site_id="S-1",
        quantity=Decimal(quantity),
        backordered_at=at,
    )


def left(
    shipment_id: str, *parts: LinePart, at: datetime = NOON + 3 * HOUR, weight_g: int = 0
) -> OrderPartShipped:
    return OrderPartShipped(
        order_id="O-1",
        shipment_id=shipment_id,
        site_id="S-1",
        service_level="standard",
        region="SP",
        carrier="DHL",
        vehicle_id="V-1",
        lines=parts,
        units=sum((one.quantity for one in parts), Decimal(0)),
        reserved=sum((one.reserved for one in parts), Decimal(0)),
        weight_g=weight_g,
        placed_at=NOON,
        promised_at=PROMISED,
        shipped_at=at,
        handling_s=int((at - NOON - HOUR).total_seconds()),
        out_of_order=False,
    )


def ended(parts: int, at: datetime = NOON + 3 * HOUR) -> OrderShipped:
    return OrderShipped(
        order_id="O-1",
        site_id="S-1",
        service_level="standard",
        region="SP",
        carrier=None,
        shipped_at=at,
        handling_s=int((at - NOON - HOUR).total_seconds()),
        out_of_order=False,
        vehicle_id="V-1",
        parts=parts,
    )


def arrived(shipment_id: str, *parts: LinePart, at: datetime = NOON + DAY) -> ShipmentDelivered:
    return ShipmentDelivered(
        order_id="O-1",
        shipment_id=shipment_id,
        site_id="S-1",
        service_level="standard",
        region="SP",
        vehicle_id="V-1",
        lines=parts,
        units=sum((one.quantity for one in parts), Decimal(0)),
        placed_at=NOON,
        promised_at=PROMISED,
        delivered_at=at,
        late=at > PROMISED,
        late_s=int((at - PROMISED).total_seconds()),
        transit_s=int((at - NOON - 3 * HOUR).total_seconds()),
        out_of_order=False,
        proof=None,
    )


AT = NOON + 3 * HOUR
PROOF = Proof(kind="signature", sha256="ab" * 32, reference="POD-1")

whole = (placed, allocated, kept(part(1, 10, 10), part(2, 4, 4)))
whole_stock = (came("A", 12), aside("A", 10), came("B", 4), aside("B", 4))
#: Six of line 1 went in shipment P-1.
begun = (*whole, left("P-1", part(1, 6, 6), weight_g=1200))
begun_stock = (*whole_stock, taken("A", 6, AT))
#: All has left, in two shipments.
gone = (*begun, left("P-2", part(1, 4, 4), part(2, 4, 4), weight_g=1200), ended(2))
#: Of an order that has line 1 alone.
allocated_alone = changed(allocated, line_sites=(LineSite(line_no=1, site_id="S-1"),))
#: As the old way is: no stock, no parts.
plain = (placed, allocated, changed(ended(1), parts=None, carrier="DHL"))


def asked(**lines: int) -> tuple[LineQuantity, ...]:
    """Quantities by ``one`` and ``two``."""
    numbers = {"one": 1, "two": 2, "nine": 9}
    return tuple(
        LineQuantity(line_no=numbers[name], quantity=Decimal(quantity))
        for name, quantity in lines.items()
    )


def ship(shipment_id: str = "P-1", **lines: int) -> ShipPart:
    return ShipPart(
        order_id="O-1",
        shipment_id=shipment_id,
        lines=asked(**lines),
        carrier="DHL",
        shipped_at=AT,
    )


#: Of lines of ten and four: all at once; or six of the first line, and the rest behind.
AT_ONCE = Filled(
    lines=2,
    lines_filled=2,
    units=Decimal(14),
    units_filled=Decimal(14),
    units_delivered=Decimal(14),
)
IN_TWO = AT_ONCE.model_copy(update={"lines_filled": 0, "units_filled": Decimal(6)})


def handed(parts: int, at: Any = NOON + DAY, **more: Any) -> OrderDelivered:
    told: dict[str, Any] = {"customer_id": "C-1", "filled": IN_TWO if parts == 2 else AT_ONCE}
    return OrderDelivered(
        order_id="O-1",
        site_id="S-1",
        service_level="standard",
        region="SP",
        currency="EUR",
        placed_at=NOON,
        promised_at=PROMISED,
        delivered_at=at,
        late=at > PROMISED,
        transit_s=int((at - AT).total_seconds()),
        out_of_order=False,
        vehicle_id="V-1",
        parts=parts,
        **(told | more),
    )
