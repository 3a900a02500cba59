"""The tables that decisions are made of: folds over the log, kept by the decision consumer.

All sums are of integers, so a value is the same however it was merged.
"""

from __future__ import annotations

import polars as pl
from polars import col

from domain.decisions import DecisionMade
from domain.inventory import SiteClosed, SiteOpened, StockAdjusted, StockPicked, StockReceived
from domain.models import ModelDeployed
from domain.orders import (
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
)
from domain.values import Event
from projections.fold import Fold, count, first, last, total
from projections.table import Table

_TIMED = col("late").is_not_null()


def _deliveries() -> dict[str, Fold]:
    return {
        "delivered": count(where={OrderDelivered: _TIMED}),
        "late": count(where={OrderDelivered: col("late")}),
        "transits": count(where={OrderDelivered: col("transit_s").is_not_null()}),
        "transit_s": total({OrderDelivered: "transit_s"}),
    }


ORDER = Table(
    name="feature_orders",
    key={OrderPlaced: ("order_id",)},
    columns={
        "region": first({OrderPlaced: "region"}),
        "currency": first({OrderPlaced: "currency"}),
        "placed_at": first({OrderPlaced: "placed_at"}),
        "promised_at": first({OrderPlaced: "promised_at"}),
        "units": first({OrderPlaced: "units"}),
        "lines": first({OrderPlaced: col("lines").list.len().cast(pl.Int64)}),
        "goods_minor": first({OrderPlaced: "goods_minor"}),
        "freight_minor": first({OrderPlaced: "freight_minor"}),
        "weight_g": first({OrderPlaced: "weight_g"}),
        "placed": first({OrderPlaced: "state"}, json=True),
    },
)

_AT_SITE: tuple[type[Event], ...] = (
    SiteOpened,
    SiteClosed,
    OrderAllocated,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
    StockReceived,
)

SITE = Table(
    name="feature_sites",
    key=dict.fromkeys(_AT_SITE, ("site_id",)),
    columns={
        "is_open": last({SiteOpened: pl.lit(True), SiteClosed: pl.lit(False)}),
        "region": first({SiteOpened: "region"}),
        "daily_capacity": first({SiteOpened: "daily_capacity"}),
        "opened": first({SiteOpened: "state"}, json=True),
        "allocated": count(OrderAllocated),
        "shipped": count(OrderShipped),
        "cancelled": count(OrderCancelled),
        "handled": count(where={OrderShipped: col("handling_s").is_not_null()}),
        "handling_s": total({OrderShipped: "handling_s"}),
        "receipts": count(StockReceived),
        **_deliveries(),
    },
)

SITE_DAY = Table(
    name="feature_site_days",
    key={OrderAllocated: {"site_id": col("site_id"), "day": col("allocated_at").dt.date()}},
    columns={"allocated": count(OrderAllocated)},
)

LANE = Table(
    name="feature_lanes",
    key={OrderDelivered: ("site_id", "region")},
    columns=_deliveries(),
)

LANE_SERVICE = Table(
    name="feature_lane_services",
    key={OrderDelivered: ("site_id", "region", "service_level")},
    columns=_deliveries(),
)

SERVICE = Table(
    name="feature_services", key={OrderDelivered: ("service_level",)}, columns=_deliveries()
)

REGION = Table(name="feature_regions", key={OrderDelivered: ("region",)}, columns=_deliveries())

OVERALL = Table(name="feature_overall", key={OrderDelivered: ()}, columns=_deliveries())

STOCK = Table(
    name="feature_stock",
    key=dict.fromkeys((StockReceived, StockPicked, StockAdjusted), ("site_id", "sku")),
    columns={
        "on_hand": total(
            {
                StockReceived: col("quantity"),
                StockPicked: -col("quantity"),
                StockAdjusted: col("change"),
            }
        )
    },
)

CHAMPION = Table(
    name="feature_champions",
    key={ModelDeployed: ("kind",)},
    columns={
        "model_hash": last({ModelDeployed: "model_hash"}),
        "schema_hash": last({ModelDeployed: "schema_hash"}),
    },
)

#: The last decision about each order.
DECIDED = Table(
    name="feature_decided",
    key={DecisionMade: {"order_id": col("subject_id")}},
    columns={
        "decision_id": last({DecisionMade: "decision_id"}),
        "made": last({DecisionMade: "state"}, json=True),
    },
)
