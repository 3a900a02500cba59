"""Sites and stock levels."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.sorting import Column, Sorting

_SITE = """site_id, version, name, region, daily_capacity, is_open,
    coalesce(opened->'service_levels', '[]'::jsonb) AS service_levels, last_position"""

_GET_SITE = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s"""

_LIST_SITES = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s
      AND (%(is_open)s::bool IS NULL OR is_open = %(is_open)s)
      AND (%(region)s::text IS NULL OR region = %(region)s)"""

SITE_SORTING = Sorting(
    {
        "site_id": Column(str),
        "name": Column(str, nullable=True),
        "region": Column(str, nullable=True),
        "daily_capacity": Column(int, nullable=True),
        "last_position": Column(int),
    },
    usual="site_id",
    key=("site_id",),
)

_LIST_STOCK = """SELECT site_id, sku, on_hand, received, picked, adjustments, last_moved_at,
        last_position
    FROM read_models.stock_levels
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND (%(below)s::numeric IS NULL OR on_hand < %(below)s)"""

STOCK_SORTING = Sorting(
    {
        "site_id": Column(str),
        "sku": Column(str),
        "on_hand": Column(Decimal),
        "received": Column(Decimal),
        "picked": Column(Decimal),
        "last_moved_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="site_id,sku",
    key=("site_id", "sku"),
)


class Site(Row):
    """A site and the service levels that it offers."""

    site_id: str
    version: int
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


async def list_sites(
    read: ReadModels,
    *,
    is_open: bool | None = None,
    region: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Site]:
    """Sites by id."""
    by = SITE_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Site,
        _LIST_SITES + by.sql,
        is_open=is_open,
        region=region,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_stock(
    read: ReadModels,
    *,
    site_id: str | None = None,
    sku: str | None = None,
    below: Decimal | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StockLevel]:
    """Stock levels by site and SKU."""
    by = STOCK_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        StockLevel,
        _LIST_STOCK + by.sql,
        site_id=site_id,
        sku=sku,
        below=below,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
