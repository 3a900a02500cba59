"""The tables that decisions are made of: folds over the log, kept by the decision consumer.

All sums are of integers, so a value is the same however it was merged.
"""

from __future__ import annotations

import polars as pl
from polars import col, when

from domain.decisions import DecisionMade, DecisionOutcomeRecorded, DecisionRequested
from domain.inventory import StockAdjusted, StockPicked, StockReceived, StockReturned
from domain.models import (
    ModelDeployed,
    ModelResumed,
    ModelRetired,
    ModelRolledBack,
    ModelStopped,
    ModelWithdrawn,
)
from domain.orders import (
    OrderAllocated,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
)
from domain.policies import KindResumed, KindStopped, PolicySet
from domain.routes import RouteAllowed, RouteForbidden
from domain.sites import SiteChanged, SiteClosed, SiteOpened, SiteReopened
from domain.transport import (
    VehicleChanged,
    VehicleMoved,
    VehicleRegistered,
    VehicleReinstated,
    VehicleRetired,
)
from domain.values import Event
from projections.fold import Fold, collect, count, first, greatest, last, total
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
        "customer_id": first({OrderPlaced: "customer_id"}),
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
    SiteChanged,
    SiteClosed,
    SiteReopened,
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
        "is_open": last(
            {SiteOpened: pl.lit(True), SiteClosed: pl.lit(False), SiteReopened: pl.lit(True)}
        ),
        "region": last({SiteOpened: "region", SiteChanged: "region"}),
        "daily_capacity": last({SiteOpened: "daily_capacity", SiteChanged: "daily_capacity"}),
        "opened": last({SiteOpened: "state", SiteChanged: "state"}, json=True),
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

#: The site that a vehicle has left; null where it is moved to other service levels of the same.
_LEFT = pl.when(col("from_site_id") != col("site_id")).then(col("from_site_id"))


def _of_vehicle(field: str) -> Fold:
    """What was said last of a vehicle, at the site where it is."""
    return last(
        {
            VehicleRegistered: field,
            VehicleChanged: field,
            VehicleMoved: (col(field), pl.lit(None)),
        }
    )


VEHICLE = Table(
    name="feature_vehicles",
    key={
        VehicleRegistered: ("site_id", "vehicle_id"),
        VehicleChanged: ("site_id", "vehicle_id"),
        VehicleRetired: ("site_id", "vehicle_id"),
        VehicleReinstated: ("site_id", "vehicle_id"),
        # A row at each of the two sites; only one where it is moved to other service levels.
        VehicleMoved: (
            {"site_id": col("site_id"), "vehicle_id": col("vehicle_id")},
            {"site_id": _LEFT, "vehicle_id": col("vehicle_id")},
        ),
    },
    columns={
        "registered": first(
            {VehicleRegistered: "position", VehicleMoved: (col("position"), pl.lit(None))}
        ),
        "mode": _of_vehicle("mode"),
        "service_levels": last(
            {
                VehicleRegistered: col("service_levels").list.join(","),
                VehicleMoved: (col("service_levels").list.join(","), pl.lit(None)),
            }
        ),
        "max_weight_g": _of_vehicle("max_weight_g"),
        "daily_capacity": _of_vehicle("daily_capacity"),
        "cost_minor": _of_vehicle("cost_minor"),
        "carbon_g": _of_vehicle("carbon_g"),
        # As of the site: who went to another one is not there any more.
        "retired": last(
            {
                VehicleRetired: pl.lit(True),
                VehicleReinstated: pl.lit(False),
                VehicleMoved: (pl.lit(False), pl.lit(True)),
            }
        ),
    },
)

VEHICLE_DAY = Table(
    name="feature_vehicle_days",
    key={OrderAllocated: {"vehicle_id": col("vehicle_id"), "day": col("allocated_at").dt.date()}},
    columns={"allocated": count(OrderAllocated)},
)

VEHICLE_RECORD = Table(
    name="feature_vehicle_records",
    key={OrderDelivered: ("vehicle_id",)},
    columns=_deliveries(),
)

ROUTE = Table(
    name="feature_routes",
    key=dict.fromkeys((RouteForbidden, RouteAllowed), ("site_id", "region")),
    columns={"forbidden": last({RouteForbidden: pl.lit(True), RouteAllowed: pl.lit(False)})},
)

_MOVED = (StockReceived, StockPicked, StockAdjusted)

STOCK = Table(
    name="feature_stock",
    key=dict.fromkeys((*_MOVED, StockReturned), ("site_id", "sku")),
    columns={
        "on_hand": total(
            {
                StockReceived: col("quantity"),
                StockPicked: -col("quantity"),
                StockAdjusted: col("change"),
                StockReturned: col("quantity"),
            }
        ),
        "receipts": count(StockReceived),
        "received": total({StockReceived: "quantity"}),
        "largest_receipt": greatest({StockReceived: "quantity"}),
        "picks": count(StockPicked),
        "picked": total({StockPicked: "quantity"}),
        "adjustments": count(StockAdjusted),
        "first_at": first(
            {StockReceived: "received_at", StockPicked: "picked_at", StockAdjusted: "adjusted_at"}
        ),
        "last_at": last(
            {StockReceived: "received_at", StockPicked: "picked_at", StockAdjusted: "adjusted_at"}
        ),
        "last_kind": last(
            {
                StockReceived: pl.lit("receipt"),
                StockPicked: pl.lit("pick"),
                StockAdjusted: pl.lit("adjustment"),
            }
        ),
        "last_quantity": last(
            {StockReceived: "quantity", StockPicked: "quantity", StockAdjusted: "change"}
        ),
    },
)

#: What left the shelf in each week; a week is named by its Monday.
STOCK_WEEK = Table(
    name="feature_stock_weeks",
    key={
        StockPicked: {
            "site_id": col("site_id"),
            "sku": col("sku"),
            "week": col("picked_at").dt.truncate("1w").dt.date(),
        }
    },
    columns={"picked": total({StockPicked: "quantity"}), "picks": count(StockPicked)},
)

#: A part of another order was ordered once, not twice.
_OWN = col("split_from").is_null()

#: What is known of an article from the orders for it.
ARTICLE = Table(
    name="feature_articles",
    key={OrderPlaced: {"sku": col("lines").struct.field("sku")}},
    explode={OrderPlaced: "lines"},
    columns={
        "lines": count(where={OrderPlaced: _OWN}),
        "ordered": total({OrderPlaced: when(_OWN).then(col("lines").struct.field("quantity"))}),
        "price_minor": last({OrderPlaced: col("lines").struct.field("unit_price_minor")}),
        "weight_g": last({OrderPlaced: col("lines").struct.field("weight_g")}),
    },
)

CUSTOMER = Table(
    name="feature_customers",
    key={OrderPlaced: ("customer_id",)},
    columns={
        "orders": count(where={OrderPlaced: _OWN}),
        "units": total({OrderPlaced: when(_OWN).then(col("units"))}),
        "goods_minor": total({OrderPlaced: when(_OWN).then(col("goods_minor"))}),
    },
)

# who decides

#: The model in each role of a kind.
ROLE = Table(
    name="feature_roles",
    key={
        ModelDeployed: ("kind", "role"),
        ModelRolledBack: {"kind": col("kind"), "role": pl.lit("champion")},
    },
    columns={
        "model_hash": last({ModelDeployed: "model_hash", ModelRolledBack: "to"}),
        "schema_hash": last({ModelDeployed: "schema_hash", ModelRolledBack: "to_schema_hash"}),
        "share": last({ModelDeployed: "share", ModelRolledBack: pl.lit(1.0)}),
    },
)

#: What a model's own events say. A model has the role that it was given last, and no other.
MODEL = Table(
    name="feature_models",
    key={
        ModelDeployed: ("model_hash",),
        ModelRolledBack: ({"model_hash": col("model_hash")}, {"model_hash": col("to")}),
        ModelWithdrawn: ("model_hash",),
        ModelStopped: ("model_hash",),
        ModelResumed: ("model_hash",),
        ModelRetired: ("model_hash",),
    },
    columns={
        "role": last(
            {
                ModelDeployed: "role",
                ModelRolledBack: (pl.lit(""), pl.lit("champion")),
                ModelWithdrawn: pl.lit(""),
            }
        ),
        "stopped": last({ModelStopped: "reason", ModelResumed: pl.lit("")}),
        "retired": last({ModelRetired: pl.lit(True)}),
    },
)

POLICY = Table(
    name="feature_policies",
    key=dict.fromkeys((PolicySet, KindStopped, KindResumed), ("kind",)),
    columns={
        "minimum_confidence": last({PolicySet: "minimum_confidence"}),
        # 0 and above; -1: no such rule.
        "four_eyes_above_minor": last({PolicySet: col("four_eyes_above_minor").fill_null(-1)}),
        "stopped": last({KindStopped: "reason", KindResumed: pl.lit("")}),
    },
)

DELIVERY = Table(
    name="feature_deliveries",
    key={OrderDelivered: ("order_id",)},
    columns={
        "site_id": last({OrderDelivered: "site_id"}),
        "service_level": last({OrderDelivered: "service_level"}),
        "vehicle_id": last({OrderDelivered: "vehicle_id"}),
        "late": last({OrderDelivered: "late"}),
        "delivered_at": last({OrderDelivered: "delivered_at"}),
    },
)

#: The last receipts of a stock: position and quantity of each.
RECEIPTS = Table(
    name="feature_receipts",
    key={StockReceived: ("site_id", "sku")},
    columns={
        "receipts": collect(
            {
                StockReceived: pl.concat_str(
                    col("position").cast(pl.String),
                    col("quantity").cast(pl.String),
                    separator=" ",
                )
            },
            most=20,
        )
    },
)

REQUEST = Table(
    name="feature_requests",
    key={DecisionRequested: ("decision_id",)},
    columns={
        "requested_at": first({DecisionRequested: "requested_at"}),
        "redecides": first({DecisionRequested: "redecides"}),
    },
)

#: The decisions about each subject, and those whose outcome is known. A decision is its id, the
#: position that it is as of, and its option, each on a line.
DECIDED = Table(
    name="feature_decided",
    key={
        DecisionMade: ("kind", "subject_id"),
        DecisionOutcomeRecorded: ("kind", "subject_id"),
    },
    columns={
        "made": collect(
            {
                DecisionMade: pl.concat_str(
                    col("decision_id"),
                    col("as_of").cast(pl.String),
                    col("state").str.json_path_match("$.option"),
                    separator="\n",
                )
            }
        ),
        "closed": collect({DecisionOutcomeRecorded: "decision_id"}),
    },
)

#: What the engine itself asks, whatever the kind.
GOVERNANCE = (ROLE, MODEL, POLICY)
