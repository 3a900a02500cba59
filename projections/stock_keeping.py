"""Stock keeping: which SKUs sites keep, and how."""

from __future__ import annotations

from polars import lit

from domain.stock_keeping import StockKeepingBegun, StockKeepingChanged, StockKeepingEnded
from domain.values import Event
from projections.fold import last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (StockKeepingBegun, StockKeepingChanged, StockKeepingEnded)
_SAID: tuple[type[Event], ...] = (StockKeepingBegun, StockKeepingChanged)

STOCK_KEEPING = Table(
    name="stock_keeping",
    key=dict.fromkeys(_EVENTS, ("site_id", "sku")),
    columns={
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "kept": last(
            {
                StockKeepingBegun: lit(True),
                StockKeepingChanged: lit(True),
                StockKeepingEnded: lit(False),
            }
        ),
        "reorder_point": last(dict.fromkeys(_SAID, "reorder_point")),
        "safety_stock": last(dict.fromkeys(_SAID, "safety_stock")),
        "kept_at": last({StockKeepingBegun: "kept_at"}),
        "ended_at": last({StockKeepingEnded: "ended_at"}),
        "end_reason": last({StockKeepingEnded: "reason"}),
        # What may be cleared is read from here: a null leaves the value before.
        "described": last(dict.fromkeys(_SAID, "state"), json=True),
    },
)

TABLES: tuple[Table, ...] = (STOCK_KEEPING,)
