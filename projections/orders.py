"""Orders as frontends list them: a summary for each order, its lines, and its timeline."""

from __future__ import annotations

from polars import Expr, coalesce, col, lit, when

from domain.order_events import (
    EVENTS,
    BackorderFilled,
    LinesCancelled,
    LinesReturned,
    OrderAllocated,
    OrderBackordered,
    OrderCancelled,
    OrderChanged,
    OrderDelivered,
    OrderPartShipped,
    OrderPicked,
    OrderPlaced,
    OrderReleased,
    OrderRepromised,
    OrderReserved,
    OrderShipped,
    OrderSplit,
    ShipmentDelivered,
)
from domain.values import Event
from projections.fold import count, first, last, total
from projections.sentences import sentence
from projections.table import Table

_LEFT = col("status").is_in(["shipped", "delivered"])
#: What the order is still about, behind what was split off and cancelled line by line.
_OPEN_UNITS = col("units") - col("cancelled_by_line")
_SHIPPED_UNITS = (
    when(_LEFT & (col("parts") == 0)).then(_OPEN_UNITS).otherwise(col("shipped_in_parts"))
)

ORDER_SUMMARY = Table(
    name="order_summary",
    key=dict.fromkeys(EVENTS, ("order_id",)),
    columns={
        "status": last(
            {
                OrderPlaced: lit("placed"),
                OrderAllocated: lit("allocated"),
                OrderPartShipped: lit("partly_shipped"),
                OrderShipped: lit("shipped"),
                OrderDelivered: lit("delivered"),
                OrderCancelled: lit("cancelled"),
            }
        ),
        "version": last(dict.fromkeys(EVENTS, "version")),
        "customer_id": first({OrderPlaced: "customer_id"}),
        "person": first({OrderPlaced: "person"}),
        "region": first({OrderPlaced: "region"}),
        "currency": first({OrderPlaced: "currency"}),
        # What was split off is another order's.
        "goods_minor": total({OrderPlaced: "goods_minor", OrderSplit: -col("goods_minor")}),
        "freight_minor": first({OrderPlaced: "freight_minor"}),
        "units": total({OrderPlaced: "units", OrderSplit: -col("units")}),
        "lines": first({OrderPlaced: col("lines").list.len().cast(int)}),
        "placed_at": first({OrderPlaced: "placed_at"}),
        "promised_at": first({OrderPlaced: "promised_at"}),
        "site_id": last({OrderAllocated: "site_id"}),
        "service_level": last({OrderAllocated: "service_level"}),
        # Empty where the last allocation names none: a null would leave the one before.
        "vehicle_id": last({OrderAllocated: col("vehicle_id").fill_null("")}),
        "decision_id": last({OrderAllocated: "decision_id"}),
        "allocated_at": last({OrderAllocated: "allocated_at"}),
        "shipped_at": last({OrderShipped: "shipped_at"}),
        "delivered_at": last({OrderDelivered: "delivered_at"}),
        "late": last({OrderDelivered: "late"}),
        "cancelled_at": last({OrderCancelled: "cancelled_at"}),
        "cancel_reason": last({OrderCancelled: "reason"}),
        "placed": first({OrderPlaced: "state"}, json=True),
        "weight_g": first({OrderPlaced: "weight_g"}),
        "volume_cm3": first({OrderPlaced: "volume_cm3"}),
        "latitude": first({OrderPlaced: col("destination").struct.field("latitude")}),
        "longitude": first({OrderPlaced: col("destination").struct.field("longitude")}),
        "deliver_from": first({OrderPlaced: col("delivery_window").struct.field("starts_at")}),
        "deliver_until": first({OrderPlaced: col("delivery_window").struct.field("ends_at")}),
        "service_s": first({OrderPlaced: "service_s"}),
        # Whole: what was cleared is null in it, and a fold takes null for nothing said.
        "changed": last({OrderChanged: "state"}, json=True),
        "split_from": first({OrderPlaced: "split_from"}),
        "repromised_to": last({OrderRepromised: "promised_at"}),
        "parts": count(OrderPartShipped),
        "reserved": total(
            {
                OrderReserved: "units",
                BackorderFilled: "quantity",
                OrderReleased: -col("reserved"),
                OrderPicked: -col("reserved"),
                OrderPartShipped: -col("reserved"),
                LinesCancelled: -col("reserved"),
                OrderSplit: -col("reserved"),
            }
        ),
        "backordered": total(
            {
                OrderBackordered: "quantity",
                BackorderFilled: -col("quantity"),
                OrderReleased: -col("backordered"),
                OrderPicked: -col("backordered"),
                LinesCancelled: -col("backordered"),
                OrderSplit: -col("backordered"),
            }
        ),
        "shipped_in_parts": total({OrderPartShipped: "units"}),
        "delivered_in_parts": total({ShipmentDelivered: "units"}),
        "returned": total({LinesReturned: "units"}),
        "returned_minor": total({LinesReturned: "goods_minor"}),
        "cancelled_by_line": total({LinesCancelled: "units"}),
        "cancelled_minor": total({LinesCancelled: "goods_minor"}),
    },
    computed={
        "shipped": _SHIPPED_UNITS,
        "delivered": when(col("status") == "delivered")
        .then(_SHIPPED_UNITS)
        .otherwise(col("delivered_in_parts")),
        "cancelled": when(col("status") == "cancelled")
        .then(col("units"))
        .otherwise(col("cancelled_by_line")),
        # Seconds behind what was promised first; below zero: before it.
        "late_s": (col("delivered_at") - col("promised_at")).dt.total_seconds(),
    },
    indexes=(
        ("placed_at", "order_id"),
        ("status", "placed_at", "order_id"),
        ("person", "placed_at", "order_id"),
    ),
)


def _of(name: str, lines: str = "lines") -> Expr:
    """A field of one line of an event."""
    return col(lines).struct.field(name)


_LINE = {"order_id": col("order_id"), "line_no": _of("line_no")}

#: The lines of orders. What left with the whole order names no lines: ``order_summary`` says that
#: it left, and readmodels/orders.py puts both together.
ORDER_LINES = Table(
    name="order_lines",
    key={
        OrderPlaced: _LINE,
        OrderAllocated: {"order_id": col("order_id"), "line_no": _of("line_no", "line_sites")},
        OrderReserved: _LINE,
        OrderBackordered: ("order_id", "line_no"),
        BackorderFilled: ("order_id", "line_no"),
        OrderReleased: _LINE,
        OrderPicked: _LINE,
        OrderPartShipped: _LINE,
        ShipmentDelivered: _LINE,
        LinesCancelled: _LINE,
        OrderSplit: _LINE,
        LinesReturned: _LINE,
    },
    explode={
        OrderPlaced: "lines",
        OrderAllocated: "line_sites",
        OrderReserved: "lines",
        OrderReleased: "lines",
        OrderPicked: "lines",
        OrderPartShipped: "lines",
        ShipmentDelivered: "lines",
        LinesCancelled: "lines",
        OrderSplit: "lines",
        LinesReturned: "lines",
    },
    columns={
        "sku": first({OrderPlaced: _of("sku")}),
        "quantity": first({OrderPlaced: _of("quantity")}),
        "unit_price_minor": first({OrderPlaced: _of("unit_price_minor")}),
        "weight_g": first({OrderPlaced: _of("weight_g")}),
        "volume_cm3": first({OrderPlaced: _of("volume_cm3")}),
        "site_id": last({OrderAllocated: _of("site_id", "line_sites")}),
        "reserved": total(
            {
                OrderReserved: _of("quantity"),
                BackorderFilled: "quantity",
                OrderReleased: -_of("reserved"),
                OrderPicked: -_of("reserved"),
                OrderPartShipped: -_of("reserved"),
                LinesCancelled: -_of("reserved"),
                OrderSplit: -_of("reserved"),
            }
        ),
        "backordered": total(
            {
                OrderBackordered: "quantity",
                BackorderFilled: -col("quantity"),
                OrderReleased: -_of("backordered"),
                OrderPicked: -_of("backordered"),
                LinesCancelled: -_of("backordered"),
                OrderSplit: -_of("backordered"),
            }
        ),
        "shipped_in_parts": total({OrderPartShipped: _of("quantity")}),
        "delivered_in_parts": total({ShipmentDelivered: _of("quantity")}),
        "returned": total({LinesReturned: _of("quantity")}),
        "cancelled_by_line": total({LinesCancelled: _of("quantity")}),
        "split_off": total({OrderSplit: _of("quantity")}),
    },
)

_TIMES: dict[type[Event], str] = {
    OrderPlaced: "placed_at",
    OrderAllocated: "allocated_at",
    OrderShipped: "shipped_at",
    OrderDelivered: "delivered_at",
    OrderCancelled: "cancelled_at",
    OrderReserved: "reserved_at",
    OrderBackordered: "backordered_at",
    BackorderFilled: "filled_at",
    OrderReleased: "released_at",
    OrderPicked: "picked_at",
    OrderPartShipped: "shipped_at",
    ShipmentDelivered: "delivered_at",
    LinesCancelled: "cancelled_at",
    OrderSplit: "split_at",
    LinesReturned: "returned_at",
    OrderRepromised: "repromised_at",
    OrderChanged: "changed_at",
}
#: Their times may lie before those of what they follow.
_MAY_BE_EARLY = (OrderShipped, OrderDelivered, OrderPartShipped, ShipmentDelivered)

ORDER_TIMELINE = Table(
    name="order_timeline",
    key=dict.fromkeys(_TIMES, ("order_id", "position")),
    columns={
        "what": first({event: lit(event.__name__) for event in _TIMES}),
        "at": first({event: col(name) for event, name in _TIMES.items()}),
        "recorded_at": first(dict.fromkeys(_TIMES, "recorded_at")),
        "actor": first(dict.fromkeys(_TIMES, "actor")),
        "sentence": first({event: sentence(event) for event in _TIMES}),
        "out_of_order": first(
            {
                event: coalesce("out_of_order", lit(False))
                if event in _MAY_BE_EARLY
                else lit(False)
                for event in _TIMES
            }
        ),
    },
    every_event=True,
)

TABLES = (ORDER_SUMMARY, ORDER_LINES, ORDER_TIMELINE)
