"""Stock keeping: which SKUs sites keep, how, and what of each is on hand."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_ON_HAND = "coalesce(s.on_hand, 0)"
_AVAILABLE = "coalesce(s.available, 0)"
_MOST = "(k.described->>'max_level')::numeric"

_KEEPING = f"""k.site_id AS site_id, k.sku AS sku, k.version AS version, k.kept AS kept,
    k.reorder_point AS reorder_point, k.safety_stock AS safety_stock, {_MOST} AS max_level,
    k.described->>'bin' AS bin, (k.described->>'unit_cost_minor')::bigint AS unit_cost_minor,
    k.described->>'currency' AS currency, {_ON_HAND} AS on_hand, {_AVAILABLE} AS available,
    k.kept AND {_AVAILABLE} <= k.reorder_point AS to_reorder, k.kept_at AS kept_at,
    CASE WHEN NOT k.kept THEN k.ended_at END AS ended_at,
    CASE WHEN NOT k.kept THEN k.end_reason END AS end_reason,
    greatest(k.last_position, s.last_position) AS last_position"""

_ROWS = f"""SELECT {_KEEPING} FROM read_models.stock_keeping k
    LEFT JOIN read_models.stock_levels s ON s.organisation_id = k.organisation_id
        AND s.site_id = k.site_id AND s.sku = k.sku
    WHERE k.organisation_id = %(organisation_id)s"""

_GET = f"{_ROWS} AND k.site_id = %(site_id)s AND k.sku = %(sku)s"

_LIST = f"""{_ROWS}
      AND (%(site_id)s::text IS NULL OR k.site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR k.sku = %(sku)s)
      AND (%(kept)s::bool IS NULL OR k.kept = %(kept)s)
      AND (%(to_reorder)s::bool IS NULL
           OR (k.kept AND {_AVAILABLE} <= k.reorder_point) = %(to_reorder)s)
      AND (%(found)s::text IS NULL OR k.sku ILIKE %(found)s
           OR k.described->>'bin' ILIKE %(found)s)"""

#: Read models that the queries are made of.
TABLES = ("stock_keeping", "stock_levels")

SORTING = Sorting(
    {
        "site_id": Column(str, sql="k.site_id"),
        "sku": Column(str, sql="k.sku"),
        "reorder_point": Column(Decimal, sql="k.reorder_point"),
        "safety_stock": Column(Decimal, sql="k.safety_stock"),
        "max_level": Column(Decimal, nullable=True, sql=_MOST),
        "on_hand": Column(Decimal, sql=_ON_HAND),
        "available": Column(Decimal, sql=_AVAILABLE),
        "kept_at": Column(datetime, nullable=True, sql="k.kept_at"),
    },
    usual="site_id,sku",
    key=("site_id", "sku"),
)


class StockKeeping(Row):
    """How a SKU is kept at a site, and what of it is there.

    ``available``: what of it is reserved for nobody. ``to_reorder``: that is at the reorder point
    or below.
    """

    site_id: str
    sku: str
    version: int
    kept: bool
    reorder_point: Decimal
    safety_stock: Decimal
    max_level: Decimal | None
    bin: str | None
    unit_cost_minor: int | None
    currency: str | None
    on_hand: Decimal
    available: Decimal
    to_reorder: bool
    kept_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    last_position: int


async def get_stock_keeping(read: ReadModels, site_id: str, sku: str) -> StockKeeping | None:
    """How a SKU is kept at a site, or None."""
    return await read.one(StockKeeping, _GET, site_id=site_id, sku=sku)


async def list_stock_keeping(
    read: ReadModels,
    *,
    site_id: str | None = None,
    sku: str | None = None,
    kept: bool | None = None,
    to_reorder: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StockKeeping]:
    """What sites keep, by site and SKU. ``search`` is looked for in SKU and bin.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        StockKeeping,
        _LIST + by.sql,
        site_id=site_id,
        sku=sku,
        kept=kept,
        to_reorder=to_reorder,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
