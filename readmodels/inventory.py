"""Stock levels."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_STOCK = """site_id, sku, on_hand, reserved, available, received, picked, returned, adjustments,
    last_moved_at, last_position"""

_GET_STOCK = f"""SELECT {_STOCK} FROM read_models.stock_levels
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s AND sku = %(sku)s"""

_LIST_STOCK = f"""SELECT {_STOCK} FROM read_models.stock_levels
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND (%(below)s::numeric IS NULL OR on_hand < %(below)s)
      AND (%(found)s::text IS NULL OR sku ILIKE %(found)s OR site_id ILIKE %(found)s)"""

SORTING = Sorting(
    {
        "site_id": Column(str),
        "sku": Column(str),
        "on_hand": Column(Decimal),
        "reserved": Column(Decimal),
        "available": Column(Decimal),
        "received": Column(Decimal),
        "picked": Column(Decimal),
        "last_moved_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="site_id,sku",
    key=("site_id", "sku"),
)


class StockLevel(Row):
    """What is on hand of one SKU at one site; of it, ``reserved`` is put aside for orders."""

    site_id: str
    sku: str
    on_hand: Decimal
    reserved: Decimal
    available: Decimal
    received: Decimal
    picked: Decimal
    returned: Decimal
    adjustments: int
    last_moved_at: datetime | None
    last_position: int


async def get_stock(read: ReadModels, site_id: str, sku: str) -> StockLevel | None:
    """The stock of one SKU at one site; None: none of it ever came there."""
    return await read.one(StockLevel, _GET_STOCK, site_id=site_id, sku=sku)


async def list_stock(
    read: ReadModels,
    *,
    site_id: str | None = None,
    sku: str | None = None,
    below: Decimal | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StockLevel]:
    """Stock levels by site and SKU. ``search`` finds a part of either."""
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        StockLevel,
        _LIST_STOCK + by.sql,
        site_id=site_id,
        sku=sku,
        below=below,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
