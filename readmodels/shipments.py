"""Shipments, returns, and the lines that wait for stock."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

# An order that left as a whole has its units and its promise in its summary.
_SHIPMENTS = """SELECT s.order_id, s.shipment_id, s.status, s.site_id, s.service_level, s.region,
        s.carrier, s.vehicle_id, coalesce(s.units, o.units - o.cancelled_by_line) AS units,
        coalesce(s.weight_g, CASE WHEN s.units IS NULL THEN o.weight_g END) AS weight_g,
        s.shipped_at, coalesce(s.promised_at, o.promised_at) AS promised_at, o.repromised_to,
        s.delivered_at, s.late, s.late_s, s.proof_kind, s.proof_sha256, s.proof_reference,
        s.proof_latitude, s.proof_longitude, s.last_position
    FROM read_models.shipments AS s
    JOIN read_models.order_summary AS o USING (organisation_id, order_id)
    WHERE s.organisation_id = %(organisation_id)s
      AND (%(order_id)s::text IS NULL OR s.order_id = %(order_id)s)
      AND (%(status)s::text IS NULL OR s.status = %(status)s)
      AND (%(site_id)s::text IS NULL OR s.site_id = %(site_id)s)
      AND (%(vehicle_id)s::text IS NULL OR s.vehicle_id = %(vehicle_id)s)
      AND (%(late)s::bool IS NULL OR s.late = %(late)s)
      AND (%(found)s::text IS NULL OR s.order_id ILIKE %(found)s
           OR s.shipment_id ILIKE %(found)s OR s.carrier ILIKE %(found)s)"""

SHIPMENTS_BY = Sorting(
    {
        "order_id": Column(str, sql="s.order_id"),
        "shipment_id": Column(str, sql="s.shipment_id"),
        "shipped_at": Column(datetime, nullable=True, sql="s.shipped_at"),
        "promised_at": Column(datetime, sql="coalesce(s.promised_at, o.promised_at)"),
        "delivered_at": Column(datetime, nullable=True, sql="s.delivered_at"),
        "late_s": Column(int, nullable=True, sql="s.late_s"),
        "site_id": Column(str, nullable=True, sql="s.site_id"),
        "last_position": Column(int, sql="s.last_position"),
    },
    usual="-last_position",
    key=("order_id", "shipment_id"),
)

_RETURNS = """SELECT order_id, return_id, site_id, units, goods_minor, currency, restock, reason,
        returned_at, last_position
    FROM read_models.returns
    WHERE organisation_id = %(organisation_id)s
      AND (%(order_id)s::text IS NULL OR order_id = %(order_id)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(restock)s::bool IS NULL OR restock = %(restock)s)
      AND (%(found)s::text IS NULL OR order_id ILIKE %(found)s OR return_id ILIKE %(found)s
           OR reason ILIKE %(found)s)"""

RETURNS_BY = Sorting(
    {
        "order_id": Column(str),
        "return_id": Column(str),
        "site_id": Column(str),
        "units": Column(Decimal),
        "goods_minor": Column(int),
        "returned_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="-last_position",
    key=("order_id", "return_id"),
)

_BACKORDERS = """SELECT order_id, line_no, sku, site_id, quantity, backordered, filled,
        backordered_at, since, filled_at, last_position
    FROM read_models.backorders
    WHERE organisation_id = %(organisation_id)s AND quantity > 0
      AND (%(order_id)s::text IS NULL OR order_id = %(order_id)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)"""

BACKORDERS_BY = Sorting(
    {
        "since": Column(int),
        "order_id": Column(str),
        "line_no": Column(int),
        "sku": Column(str),
        "site_id": Column(str),
        "quantity": Column(Decimal),
        "backordered_at": Column(datetime, nullable=True),
    },
    usual="since",
    key=("order_id", "line_no"),
)


class Shipment(Row):
    """A shipment. ``promised_at`` was promised first: by it ``late`` and ``late_s`` (seconds, below
    zero before it) are measured. Of the proof of delivery only the SHA-256 is kept."""

    order_id: str
    shipment_id: str
    status: str
    site_id: str | None
    service_level: str | None
    region: str | None
    carrier: str | None
    vehicle_id: str | None
    units: Decimal
    weight_g: int | None
    shipped_at: datetime | None
    promised_at: datetime
    repromised_to: datetime | None
    delivered_at: datetime | None
    late: bool | None
    late_s: int | None
    proof_kind: str | None
    proof_sha256: str | None
    proof_reference: str | None
    proof_latitude: float | None
    proof_longitude: float | None
    last_position: int


class Return(Row):
    """Goods that came back. Money is in minor units of ``currency``."""

    order_id: str
    return_id: str
    site_id: str
    units: Decimal
    goods_minor: int
    currency: str
    restock: bool
    reason: str
    returned_at: datetime | None
    last_position: int


class Backorder(Row):
    """A line that waits for ``quantity``, since the log position ``since``."""

    order_id: str
    line_no: int
    sku: str
    site_id: str
    quantity: Decimal
    backordered: Decimal
    filled: Decimal
    backordered_at: datetime | None
    since: int
    filled_at: datetime | None
    last_position: int


async def list_shipments(
    read: ReadModels,
    *,
    order_id: str | None = None,
    status: str | None = None,
    site_id: str | None = None,
    vehicle_id: str | None = None,
    late: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Shipment]:
    """Shipments, those first of which something was said last. ``search`` finds a part of an id or
    of the carrier.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SHIPMENTS_BY.by(sort, cursor or None)
    rows = await read.rows(
        Shipment,
        _SHIPMENTS + by.sql,
        order_id=order_id,
        status=status,
        site_id=site_id,
        vehicle_id=vehicle_id,
        late=late,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_returns(
    read: ReadModels,
    *,
    order_id: str | None = None,
    site_id: str | None = None,
    restock: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Return]:
    """Returns, the latest first. ``search`` finds a part of an id or of the reason.

    Raises:
        BadSort, BadCursor: as ``list_shipments``.
    """
    by = RETURNS_BY.by(sort, cursor or None)
    rows = await read.rows(
        Return,
        _RETURNS + by.sql,
        order_id=order_id,
        site_id=site_id,
        restock=restock,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_backorders(
    read: ReadModels,
    *,
    order_id: str | None = None,
    site_id: str | None = None,
    sku: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Backorder]:
    """Lines that wait for stock, those first that have waited longest.

    Raises:
        BadSort, BadCursor: as ``list_shipments``.
    """
    by = BACKORDERS_BY.by(sort, cursor or None)
    rows = await read.rows(
        Backorder,
        _BACKORDERS + by.sql,
        order_id=order_id,
        site_id=site_id,
        sku=sku,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
