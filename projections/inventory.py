"""Sites and stock levels."""

from __future__ import annotations

from polars import col, lit

from domain.inventory import SiteClosed, SiteOpened, StockAdjusted, StockPicked, StockReceived
from domain.values import Event
from projections.fold import count, first, last, total
from projections.table import Table

SITES = Table(
    name="sites",
    key={SiteOpened: ("site_id",), SiteClosed: ("site_id",)},
    columns={
        "name": first({SiteOpened: "name"}),
        "region": first({SiteOpened: "region"}),
        "daily_capacity": first({SiteOpened: "daily_capacity"}),
        "version": last({SiteOpened: "version", SiteClosed: "version"}),
        "is_open": last({SiteOpened: lit(True), SiteClosed: lit(False)}),
        "opened": first({SiteOpened: "state"}, json=True),
    },
)

_MOVED_AT: dict[type[Event], str] = {
    StockReceived: "received_at",
    StockPicked: "picked_at",
    StockAdjusted: "adjusted_at",
}

STOCK_LEVELS = Table(
    name="stock_levels",
    key=dict.fromkeys((StockReceived, StockPicked, StockAdjusted), ("site_id", "sku")),
    columns={
        "on_hand": total(
            {
                StockReceived: col("quantity"),
                StockPicked: -col("quantity"),
                StockAdjusted: col("change"),
            }
        ),
        "received": total({StockReceived: "quantity"}),
        "picked": total({StockPicked: "quantity"}),
        "adjustments": count(StockAdjusted),
        "last_moved_at": last(_MOVED_AT),
    },
    # Goods are counted when they move, which may be told later.
    effective=_MOVED_AT,
)

TABLES = (SITES, STOCK_LEVELS)
