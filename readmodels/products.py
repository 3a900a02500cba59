"""Products: one, many."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_WEIGHT = "(described->>'weight_g')::bigint"
_VOLUME = "(described->>'volume_cm3')::bigint"
_PRICE = "(described->>'price_minor')::bigint"
_COST = "(described->>'cost_minor')::bigint"
_CLASS = "(described->'hazard'->>'hazard_class')"

_PRODUCT = f"""sku, version, name, unit, retired, registered_at,
    CASE WHEN retired THEN retired_at END AS retired_at,
    CASE WHEN retired THEN retire_reason END AS retire_reason,
    described->>'gtin' AS gtin,
    (described->>'quantity_step')::numeric AS quantity_step,
    {_WEIGHT} AS weight_g,
    {_VOLUME} AS volume_cm3,
    (described->>'shelf_life_days')::bigint AS shelf_life_days,
    nullif(described->'hazard', 'null'::jsonb) AS hazard,
    {_CLASS} AS hazard_class,
    {_PRICE} AS price_minor,
    {_COST} AS cost_minor,
    described->>'currency' AS currency,
    (described->>'lead_days')::bigint AS lead_days,
    (described->>'pack_size')::numeric AS pack_size,
    last_position"""

_GET = f"""SELECT {_PRODUCT} FROM read_models.product_list
    WHERE organisation_id = %(organisation_id)s AND sku = %(sku)s"""

_LIST = f"""SELECT {_PRODUCT} FROM read_models.product_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(retired)s::bool IS NULL OR retired = %(retired)s)
      AND (%(unit)s::text IS NULL OR unit = %(unit)s)
      AND (%(hazardous)s::bool IS NULL OR ({_CLASS} IS NOT NULL) = %(hazardous)s)
      AND (%(found)s::text IS NULL OR sku ILIKE %(found)s OR name ILIKE %(found)s
           OR described->>'gtin' ILIKE %(found)s)"""

SORTING = Sorting(
    {
        "sku": Column(str),
        "name": Column(str),
        "unit": Column(str),
        "weight_g": Column(int, nullable=True, sql=_WEIGHT),
        "volume_cm3": Column(int, nullable=True, sql=_VOLUME),
        "price_minor": Column(int, nullable=True, sql=_PRICE),
        "cost_minor": Column(int, nullable=True, sql=_COST),
        "hazard_class": Column(str, nullable=True, sql=_CLASS),
        "registered_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="sku",
    key=("sku",),
)


class Product(Row):
    """A product: what is kept and sold under a SKU.

    ``unit``: code of UN/ECE Recommendation 20. ``weight_g``, ``volume_cm3``: of one unit.
    ``hazard``: UN number, class, packing group and tunnel code of dangerous goods (ADR).
    """

    sku: str
    version: int
    gtin: str | None
    name: str
    unit: str
    quantity_step: Decimal
    weight_g: int | None
    volume_cm3: int | None
    shelf_life_days: int | None
    hazard: dict[str, Any] | None
    hazard_class: str | None
    price_minor: int | None
    cost_minor: int | None
    currency: str | None
    lead_days: int | None
    pack_size: Decimal | None
    retired: bool
    registered_at: datetime | None
    retired_at: datetime | None
    retire_reason: str | None
    last_position: int


async def get_product(read: ReadModels, sku: str) -> Product | None:
    """One product, or None."""
    return await read.one(Product, _GET, sku=sku)


async def list_products(
    read: ReadModels,
    *,
    retired: bool | None = None,
    unit: str | None = None,
    hazardous: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Product]:
    """Products by SKU. ``search`` is looked for in SKU, name and GTIN.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Product,
        _LIST + by.sql,
        retired=retired,
        unit=unit,
        hazardous=hazardous,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
