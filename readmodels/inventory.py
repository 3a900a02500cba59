"""Sites and stock levels."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_SITE = """site_id, name, region, daily_capacity, is_open,
    coalesce(opened->'service_levels', '[]'::jsonb) AS service_levels, last_position"""

_GET_SITE = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s"""

_LIST_SITES = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s AND site_id > %(after)s
    ORDER BY site_id LIMIT %(limit)s"""

_LIST_STOCK = """SELECT site_id, sku, on_hand, received, picked, adjustments, last_moved_at,
        last_position
    FROM read_models.stock_levels
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND (site_id, sku) > (%(after_site)s, %(after_sku)s)
    ORDER BY site_id, sku LIMIT %(limit)s"""


class Site(Row):
    """A site and the service levels that it offers."""

    site_id: str
    name: str | None
    region: str | None
    daily_capacity: int | None
    is_open: bool
    service_levels: list[dict[str, Any]]
    last_position: int


class StockLevel(Row):
    """What is on hand of one SKU at one site."""

    site_id: str
    sku: str
    on_hand: Decimal
    received: Decimal
    picked: Decimal
    adjustments: int
    last_moved_at: datetime | None
    last_position: int


async def get_site(read: ReadModels, site_id: str) -> Site | None:
    """One site, or None."""
    return await read.one(Site, _GET_SITE, site_id=site_id)


async def list_sites(read: ReadModels, *, cursor: str | None = None, limit: int = 50) -> Page[Site]:
    """Sites by id."""
    (after,) = decode(cursor, str) if cursor else ("",)
    rows = await read.rows(Site, _LIST_SITES, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.site_id,))


async def list_stock(
    read: ReadModels,
    *,
    site_id: str | None = None,
    sku: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StockLevel]:
    """Stock levels by site and SKU."""
    after_site, after_sku = decode(cursor, str, str) if cursor else ("", "")
    rows = await read.rows(
        StockLevel,
        _LIST_STOCK,
        site_id=site_id,
        sku=sku,
        after_site=after_site,
        after_sku=after_sku,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.site_id, row.sku))
