"""Daily KPIs of orders, by the day they were placed and by currency.

A day is a cohort: what became of the orders placed that day (UTC). So ``late_share`` compares like
with like, and an order whose delivery time was never recorded still has its day.
"""

from __future__ import annotations

from polars import col, when

from domain.orders import OrderCancelled, OrderDelivered, OrderPlaced
from projections.fold import count, total
from projections.table import Table

_DAY = {"day": col("placed_at").dt.date(), "currency": col("currency")}

DAILY_KPIS = Table(
    name="daily_kpis",
    key=dict.fromkeys((OrderPlaced, OrderDelivered, OrderCancelled), _DAY),
    columns={
        "orders": count(OrderPlaced),
        "delivered": count(OrderDelivered),
        "delivered_timed": count(where={OrderDelivered: col("late").is_not_null()}),
        "late": count(where={OrderDelivered: col("late")}),
        "cancelled": count(OrderCancelled),
        "revenue_minor": total({OrderPlaced: "goods_minor"}),
        "freight_minor": total({OrderPlaced: "freight_minor"}),
    },
    computed={
        "late_share": when(col("delivered_timed") > 0).then(col("late") / col("delivered_timed"))
    },
)

TABLES = (DAILY_KPIS,)
