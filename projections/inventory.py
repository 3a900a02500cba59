"""Stock levels."""

from __future__ import annotations

from polars import col

from domain.inventory import (
    StockAdjusted,
    StockPicked,
    StockReceived,
    StockReleased,
    StockReserved,
    StockReturned,
)
from domain.values import Event
from projections.fold import count, last, total
from projections.table import Table

_MOVED_AT: dict[type[Event], str] = {
    StockReceived: "received_at",
    StockPicked: "picked_at",
    StockAdjusted: "adjusted_at",
    StockReturned: "returned_at",
}
#: What stands on the shelf as before, and is put aside or free.
_ASIDE: dict[type[Event], str] = {StockReserved: "reserved_at", StockReleased: "released_at"}

STOCK_LEVELS = Table(
    name="stock_levels",
    key=dict.fromkeys((*_MOVED_AT, *_ASIDE), ("site_id", "sku")),
    columns={
        "on_hand": total(
            {
                StockReceived: col("quantity"),
                StockPicked: -col("quantity"),
                StockAdjusted: col("change"),
                StockReturned: col("quantity"),
            }
        ),
        "reserved": total(
            {
                StockReserved: col("quantity"),
                StockReleased: -col("quantity"),
                StockPicked: -col("reserved"),  # nothing where it is null
            }
        ),
        "received": total({StockReceived: "quantity"}),
        "picked": total({StockPicked: "quantity"}),
        "returned": total({StockReturned: "quantity"}),
        "adjustments": count(StockAdjusted),
        "last_moved_at": last(_MOVED_AT),
    },
    computed={"available": col("on_hand") - col("reserved")},
    # Goods are counted when they move, which may be told later.
    effective=_MOVED_AT | _ASIDE,
)

TABLES = (STOCK_LEVELS,)
