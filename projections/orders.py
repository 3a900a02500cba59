"""Orders as frontends list them: a summary for each order, and its timeline."""

from __future__ import annotations

from polars import coalesce, col, lit

from domain.orders import (
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
)
from domain.values import Event
from projections.fold import first, last
from projections.sentences import sentence
from projections.table import Table

ORDER_SUMMARY = Table(
    name="order_summary",
    key=dict.fromkeys(
        (OrderPlaced, OrderAllocated, OrderShipped, OrderDelivered, OrderCancelled), ("order_id",)
    ),
    columns={
        "status": last(
            {
                OrderPlaced: lit("placed"),
                OrderAllocated: lit("allocated"),
                OrderShipped: lit("shipped"),
                OrderDelivered: lit("delivered"),
                OrderCancelled: lit("cancelled"),
            }
        ),
        "version": last(
            dict.fromkeys(
                (OrderPlaced, OrderAllocated, OrderShipped, OrderDelivered, OrderCancelled),
                "version",
            )
        ),
        "customer_id": first({OrderPlaced: "customer_id"}),
        "person": first({OrderPlaced: "person"}),
        "region": first({OrderPlaced: "region"}),
        "currency": first({OrderPlaced: "currency"}),
        "goods_minor": first({OrderPlaced: "goods_minor"}),
        "freight_minor": first({OrderPlaced: "freight_minor"}),
        "units": first({OrderPlaced: "units"}),
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
    },
    indexes=(
        ("placed_at", "order_id"),
        ("status", "placed_at", "order_id"),
        ("person", "placed_at", "order_id"),
    ),
)

_TIMES: dict[type[Event], str] = {
    OrderPlaced: "placed_at",
    OrderAllocated: "allocated_at",
    OrderShipped: "shipped_at",
    OrderDelivered: "delivered_at",
    OrderCancelled: "cancelled_at",
}

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
                if event in (OrderShipped, OrderDelivered)
                else lit(False)
                for event in _TIMES
            }
        ),
    },
    every_event=True,
)

TABLES = (ORDER_SUMMARY, ORDER_TIMELINE)
