"""What KPIs are made of: sums by day, site, client and currency.

A day is a cohort: what became of the orders placed that day (UTC). So ``late_share`` compares like
with like, an order whose delivery time was never recorded still has its day, and what is told late
changes the day it should. Figures are sums and counts, so any grouping of rows is a sum, too;
projections/kpi_formulas.py makes KPIs of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from polars import col, when

from domain.decisions import DecisionMade, DecisionOutcomeRecorded, DecisionOverridden
from domain.inventory import (
    StockAdjusted,
    StockPicked,
    StockReceived,
    StockReleased,
    StockReserved,
    StockReturned,
)
from domain.orders import OrderCancelled, OrderDelivered, OrderPlaced
from domain.tours import TourCompleted
from domain.values import Event
from projections.fold import Fold, count, first, least, total
from projections.table import Table

#: What was split off an order was sold with it.
_NEW = col("split_from").is_null()
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
        "revenue_minor": total({OrderPlaced: when(_NEW).then(col("goods_minor"))}),
        "freight_minor": total({OrderPlaced: when(_NEW).then(col("freight_minor"))}),
    },
    computed={
        "late_share": when(col("delivered_timed") > 0).then(col("late") / col("delivered_timed"))
    },
)

# orders, once they were delivered, which tells their site

#: Where the buckets of lead times end, in days; one more holds what took longer.
LEAD_TIME_DAYS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 21, 28, 35, 42, 60, 90)


def lead_column(end: int | None) -> str:
    """The column that counts the lead times of a bucket, by its end in days; None: the last."""
    return "lead_longer" if end is None else f"lead_to_{end}d"


_TIMED = col("late").is_not_null()
_LEAD_S = when(col("delivered_at") >= col("placed_at")).then(
    (col("delivered_at") - col("placed_at")).dt.total_seconds()
)


def _of(name: str) -> pl.Expr:
    return col("filled").struct.field(name)


#: Before events told it orders were delivered whole.
_IN_FULL = (_of("units_delivered") >= _of("units")).fill_null(True)


def _lead_times() -> dict[str, Fold]:
    """A histogram: quantiles of it can be summed, quantiles themselves cannot."""
    found: dict[str, Fold] = {}
    start = -1
    for end in LEAD_TIME_DAYS:
        inside = _LEAD_S.is_between(start, end * 86_400, closed="right")
        found[lead_column(end)] = count(where={OrderDelivered: inside})
        start = end * 86_400
    return found | {lead_column(None): count(where={OrderDelivered: _LEAD_S.gt(start)})}


_ORDER_KEY: Mapping[str, pl.Expr] = {
    "day": col("placed_at").dt.date(),
    "site_id": col("site_id"),
    "currency": col("currency"),
}
_ORDER_COLUMNS: Mapping[str, Fold] = {
    "delivered": count(OrderDelivered),
    "delivered_timed": count(where={OrderDelivered: _TIMED}),
    "late": count(where={OrderDelivered: col("late")}),
    "on_time_in_full": count(where={OrderDelivered: _TIMED & ~col("late") & _IN_FULL}),
    "lines_ordered": total({OrderDelivered: _of("lines")}),
    "lines_filled": total({OrderDelivered: _of("lines_filled")}),
    "units_ordered": total({OrderDelivered: _of("units")}),
    "units_filled": total({OrderDelivered: _of("units_filled")}),
    "orders_known": count(where={OrderDelivered: col("filled").is_not_null()}),
    "orders_filled": count(where={OrderDelivered: _of("lines_filled") == _of("lines")}),
    "lead_timed": count(where={OrderDelivered: _LEAD_S.is_not_null()}),
    "lead_s": total({OrderDelivered: _LEAD_S}),
}

#: Few rows a day, however many clients there are.
ORDER_KPIS = Table(
    name="order_kpis",
    key={OrderDelivered: _ORDER_KEY},
    columns={**_ORDER_COLUMNS, **_lead_times()},
)

#: The same by client ("": not known), without the histogram: where each client orders once, it has
#: a row for each order.
CLIENT_KPIS = Table(
    name="client_kpis",
    key={OrderDelivered: {**_ORDER_KEY, "customer_id": col("customer_id").fill_null("")}},
    columns=_ORDER_COLUMNS,
    indexes=(("customer_id", "day"),),
)

# stock

_ON_HAND: Mapping[type[Event], pl.Expr] = {
    StockReceived: col("quantity"),
    StockPicked: -col("quantity"),
    StockAdjusted: col("change"),
    StockReturned: col("quantity"),
}
#: On hand and put aside for no order.
_AVAILABLE: Mapping[type[Event], pl.Expr] = {
    **_ON_HAND,
    StockPicked: col("reserved").fill_null(0) - col("quantity"),
    StockReserved: -col("quantity"),
    StockReleased: col("quantity"),
}
_USED: Mapping[type[Event], pl.Expr] = {StockPicked: col("quantity")}
_MOVED_ON: Mapping[type[Event], pl.Expr] = {
    event: pl.coalesce(at, "recorded_at").dt.date()
    for event, at in (
        (StockReceived, "received_at"),
        (StockPicked, "picked_at"),
        (StockAdjusted, "adjusted_at"),
        (StockReserved, "reserved_at"),
        (StockReleased, "released_at"),
        (StockReturned, "returned_at"),
    )
}

#: How each SKU's stock changed on each day that it did, by when goods moved: what a simulation,
#: which has all days in hand, makes days of.
STOCK_DAYS = Table(
    name="stock_days",
    key={
        event: {"day": day, "site_id": col("site_id"), "sku": col("sku")}
        for event, day in _MOVED_ON.items()
    },
    columns={
        "change": total(_ON_HAND),
        "available_change": total(_AVAILABLE),
        "used": total(_USED),
    },
    indexes=(("site_id", "sku", "day"),),
)

#: The same of all SKUs of a site together, for what needs no SKU.
STOCK_SITE_DAYS = Table(
    name="stock_site_days",
    key={event: {"day": day, "site_id": col("site_id")} for event, day in _MOVED_ON.items()},
    columns={"change": total(_ON_HAND), "used": total(_USED)},
)


def to_day(number: int) -> str:
    """The column of how available stock changed from the first of a month to the end of a day."""
    return f"to_{number}"


#: How each SKU's available stock changed in a month, up to the end of each of its days, in
#: thousandths of a unit: two or three rows a SKU, and no sums over days, tell every day on which it
#: ran out. Whole numbers, as Postgres compares hundreds of thousands of them for a report.
STOCK_MONTHS = Table(
    name="stock_months",
    key={
        event: {"month": day.dt.month_start(), "site_id": col("site_id"), "sku": col("sku")}
        for event, day in _MOVED_ON.items()
    },
    columns={
        to_day(number): total(
            {
                event: when(_MOVED_ON[event].dt.day() <= number).then(
                    (change * 1000).cast(pl.Int64)
                )
                for event, change in _AVAILABLE.items()
            }
        )
        for number in range(1, 32)
    },
)

#: The sums of all its days, and the first of them: what was in stock on any day is told from here
#: backwards, so that a report of late costs the same however old the log is.
STOCK_SUMS = Table(
    name="stock_sums",
    key=dict.fromkeys(_MOVED_ON, ("site_id", "sku")),
    columns={
        "change": total(_ON_HAND),
        "available_change": total(_AVAILABLE),
        "since": least(_MOVED_ON),
    },
)

# decisions

_FULFILMENT = col("kind") == "fulfilment"
_CHOSEN = when(_FULFILMENT & col("chosen").is_not_null()).then(
    col("candidates").list.get(col("chosen"), null_on_oob=True)
)

DECIDED_COSTS = Table(
    name="decided_costs",
    key={
        DecisionMade: {
            "day": when(_FULFILMENT & col("chosen").is_not_null()).then(
                col("recorded_at").dt.date()
            ),
            "site_id": col("state").str.json_path_match("$.option.site_id").fill_null(""),
            "currency": col("currency").fill_null(""),
        }
    },
    columns={
        "orders": count(DecisionMade),
        "cost_minor": total({DecisionMade: _CHOSEN.struct.field("cost_minor")}),
        "carbon_g": total({DecisionMade: _CHOSEN.struct.field("carbon_g")}),
    },
)

#: Nobody has to say how large goods are: a load without volume is one of unknown volume.
_VOLUME_KNOWN = col("max_volume_cm3").is_not_null() & (col("volume_cm3") > 0)

#: The tours that came back, a row for each vehicle and day.
TOUR_DAYS = Table(
    name="tour_days",
    key={TourCompleted: ("day", "site_id", "vehicle_id", "currency")},
    columns={
        "tours": count(TourCompleted),
        "orders": total({TourCompleted: "completed"}),
        "cost_minor": total({TourCompleted: "cost_minor"}),
        "carbon_g": total({TourCompleted: "carbon_g"}),
        "carbon_orders": total(
            {TourCompleted: when(col("carbon_g").is_not_null()).then(col("completed"))}
        ),
        "weight_g": total(
            {TourCompleted: when(col("max_weight_g").is_not_null()).then(col("weight_g"))}
        ),
        "max_weight_g": total({TourCompleted: "max_weight_g"}),
        "volume_cm3": total({TourCompleted: when(_VOLUME_KNOWN).then(col("volume_cm3"))}),
        "max_volume_cm3": total({TourCompleted: when(_VOLUME_KNOWN).then(col("max_volume_cm3"))}),
    },
    computed={"vehicle_days": when(col("tours") > 0).then(1)},
)

_SHARE = col("shares").struct.field
#: Before events told it, an order of a tour counted as handed over.
_HANDED_OVER = _SHARE("handed_over").fill_null(True)

#: The same by client ("": not known): what each order's part in a tour came to.
CLIENT_TOUR_DAYS = Table(
    name="client_tour_days",
    key={
        TourCompleted: {
            "day": col("day"),
            "site_id": col("site_id"),
            "currency": col("currency"),
            "customer_id": _SHARE("customer_id").fill_null(""),
        }
    },
    explode={TourCompleted: "shares"},
    columns={
        "orders": count(where={TourCompleted: _HANDED_OVER}),
        "cost_minor": total({TourCompleted: _SHARE("cost_minor")}),
        "carbon_g": total({TourCompleted: _SHARE("carbon_g")}),
        "carbon_orders": count(
            where={TourCompleted: _HANDED_OVER & _SHARE("carbon_g").is_not_null()}
        ),
    },
    indexes=(("customer_id", "day"),),
)


def _decided(option: str) -> Mapping[str, pl.Expr]:
    """``site_id``: the site of the option that the model chose; "": it chose none, or no site."""
    return {
        "day": col("recorded_at").dt.date(),
        "kind": col("kind"),
        "site_id": col("state").str.json_path_match(f"$.{option}.site_id").fill_null(""),
    }


DECISION_DAYS = Table(
    name="decision_days",
    key={
        DecisionMade: _decided("option"),
        DecisionOverridden: _decided("decided"),
        DecisionOutcomeRecorded: _decided("option"),  # it tells none: its rows are of no site
    },
    columns={
        "made": count(DecisionMade),
        "overridden": count(where={DecisionOverridden: col("first")}),
        "outcomes": count(DecisionOutcomeRecorded),
        "followed": count(where={DecisionOutcomeRecorded: col("followed")}),
    },
)

_ON_ORDER = {"order_id": when(_FULFILMENT).then(col("subject_id"))}

#: Decisions on orders, a row for each order: their events do not name the client, the order does.
#: All of an order's count on the day, and for the site, of the first. Orders without one: no day.
CLIENT_DECISIONS = Table(
    name="client_decisions",
    key={OrderPlaced: ("order_id",), DecisionMade: _ON_ORDER, DecisionOverridden: _ON_ORDER},
    columns={
        "customer_id": first({OrderPlaced: "customer_id"}),
        "day": first({DecisionMade: col("recorded_at").dt.date()}),
        "kind": first({DecisionMade: "kind"}),
        "site_id": first({DecisionMade: _decided("option")["site_id"]}),
        "made": count(DecisionMade),
        "overridden": count(where={DecisionOverridden: col("first")}),
    },
    indexes=(("day", "customer_id"),),
)

TABLES = (
    DAILY_KPIS,
    ORDER_KPIS,
    CLIENT_KPIS,
    STOCK_DAYS,
    STOCK_SITE_DAYS,
    STOCK_MONTHS,
    STOCK_SUMS,
    DECIDED_COSTS,
    TOUR_DAYS,
    CLIENT_TOUR_DAYS,
    DECISION_DAYS,
    CLIENT_DECISIONS,
)
