"""Shipments, returns, and what waits for stock."""

from __future__ import annotations

from polars import Expr, col, lit, when

from domain.order_events import (
    BackorderFilled,
    LinesCancelled,
    LinesReturned,
    OrderBackordered,
    OrderDelivered,
    OrderPartShipped,
    OrderPicked,
    OrderReleased,
    OrderShipped,
    OrderSplit,
    ShipmentDelivered,
)
from domain.orders import WHOLE
from projections.fold import first, last, total
from projections.table import Table

#: An order that left as a whole is its own shipment. What only ends an order of parts is none.
_WHOLE = {
    "order_id": col("order_id"),
    "shipment_id": when(col("parts").is_null()).then(lit(WHOLE)),
}
_PART = ("order_id", "shipment_id")


def _proof(name: str) -> Expr:
    return col("proof").struct.field(name)


def _location(name: str) -> Expr:
    return _proof("location").struct.field(name)


_LATE_S = (col("delivered_at") - col("promised_at")).dt.total_seconds()

SHIPMENTS = Table(
    name="shipments",
    key={
        OrderPartShipped: _PART,
        ShipmentDelivered: _PART,
        OrderShipped: _WHOLE,
        OrderDelivered: _WHOLE,
    },
    columns={
        "status": last(
            {
                OrderPartShipped: lit("shipped"),
                OrderShipped: lit("shipped"),
                ShipmentDelivered: lit("delivered"),
                OrderDelivered: lit("delivered"),
            }
        ),
        "site_id": first({OrderPartShipped: "site_id", OrderShipped: "site_id"}),
        "service_level": first({OrderPartShipped: "service_level", OrderShipped: "service_level"}),
        "region": first({OrderPartShipped: "region", OrderShipped: "region"}),
        "carrier": first({OrderPartShipped: "carrier", OrderShipped: "carrier"}),
        "vehicle_id": first({OrderPartShipped: "vehicle_id", OrderShipped: "vehicle_id"}),
        "units": first({OrderPartShipped: "units"}),
        "weight_g": first({OrderPartShipped: "weight_g"}),
        "told": first({OrderPartShipped: "state"}, json=True),
        "shipped_at": last({OrderPartShipped: "shipped_at", OrderShipped: "shipped_at"}),
        "promised_at": last(
            {
                OrderPartShipped: "promised_at",
                ShipmentDelivered: "promised_at",
                OrderDelivered: "promised_at",
            }
        ),
        "delivered_at": last({ShipmentDelivered: "delivered_at", OrderDelivered: "delivered_at"}),
        "late": last({ShipmentDelivered: "late", OrderDelivered: "late"}),
        "late_s": last({ShipmentDelivered: "late_s", OrderDelivered: _LATE_S}),
        "proof_kind": last({ShipmentDelivered: _proof("kind"), OrderDelivered: _proof("kind")}),
        "proof_sha256": last(
            {ShipmentDelivered: _proof("sha256"), OrderDelivered: _proof("sha256")}
        ),
        "proof_reference": last(
            {ShipmentDelivered: _proof("reference"), OrderDelivered: _proof("reference")}
        ),
        "proof_latitude": last(
            {ShipmentDelivered: _location("latitude"), OrderDelivered: _location("latitude")}
        ),
        "proof_longitude": last(
            {ShipmentDelivered: _location("longitude"), OrderDelivered: _location("longitude")}
        ),
    },
    indexes=(("shipped_at", "order_id", "shipment_id"),),
)

RETURNS = Table(
    name="returns",
    key={LinesReturned: ("order_id", "return_id")},
    columns={
        "site_id": first({LinesReturned: "site_id"}),
        "units": first({LinesReturned: "units"}),
        "goods_minor": first({LinesReturned: "goods_minor"}),
        "currency": first({LinesReturned: "currency"}),
        "restock": first({LinesReturned: "restock"}),
        "reason": first({LinesReturned: "reason"}),
        "returned_at": first({LinesReturned: "returned_at"}),
        "told": first({LinesReturned: "state"}, json=True),
    },
)

_WAITED = col("lines").struct.field("backordered")
#: Of the lines that were given up or moved, those that waited.
_LINE = {
    "order_id": col("order_id"),
    "line_no": when(_WAITED > 0).then(col("lines").struct.field("line_no")),
}
_GIVEN_UP = -_WAITED

#: Lines that wait, or once waited, for stock; ``quantity``: what they wait for now.
BACKORDERS = Table(
    name="backorders",
    key={
        OrderBackordered: ("order_id", "line_no"),
        BackorderFilled: ("order_id", "line_no"),
        OrderReleased: _LINE,
        OrderPicked: _LINE,
        LinesCancelled: _LINE,
        OrderSplit: _LINE,
    },
    explode={
        OrderReleased: "lines",
        OrderPicked: "lines",
        LinesCancelled: "lines",
        OrderSplit: "lines",
    },
    columns={
        "sku": last({OrderBackordered: "sku"}),
        "site_id": last({OrderBackordered: "site_id"}),
        "quantity": total(
            {
                OrderBackordered: "quantity",
                BackorderFilled: -col("quantity"),
                OrderReleased: _GIVEN_UP,
                OrderPicked: _GIVEN_UP,
                LinesCancelled: _GIVEN_UP,
                OrderSplit: _GIVEN_UP,
            }
        ),
        "backordered": total({OrderBackordered: "quantity"}),
        "filled": total({BackorderFilled: "quantity"}),
        "backordered_at": last({OrderBackordered: "backordered_at"}),
        "since": last({OrderBackordered: "position"}),
        "filled_at": last({BackorderFilled: "filled_at"}),
    },
    indexes=(("site_id", "sku", "since"),),
)

TABLES = (SHIPMENTS, RETURNS, BACKORDERS)
