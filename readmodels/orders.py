"""Orders: one, many, and the story of one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_COLUMNS = """order_id, status, version, customer_id, region, currency, goods_minor,
    freight_minor, units, lines, placed_at, promised_at, site_id, service_level,
    nullif(vehicle_id, '') AS vehicle_id, decision_id, allocated_at, shipped_at, delivered_at,
    late, cancelled_at, cancel_reason, last_position, person,
    CASE WHEN person IS NULL THEN false ELSE coalesce(
        (SELECT k.wrapped IS NULL FROM person_keys k WHERE k.key_id = person::uuid), true
    ) END AS person_erased"""

_GET = f"""SELECT {_COLUMNS}, placed FROM read_models.order_summary
    WHERE organisation_id = %(organisation_id)s AND order_id = %(order_id)s"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.order_summary
    WHERE organisation_id = %(organisation_id)s
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(region)s::text IS NULL OR region = %(region)s)
      AND (%(customer_id)s::text IS NULL OR customer_id = %(customer_id)s)
      AND (%(person)s::text IS NULL OR person = %(person)s)
      AND (%(before)s::timestamptz IS NULL
           OR (placed_at, order_id) < (%(before)s::timestamptz, %(before_id)s::text))
    ORDER BY placed_at DESC, order_id DESC LIMIT %(limit)s"""

_TIMELINE = """SELECT position, what, at, recorded_at, actor, sentence, out_of_order
    FROM read_models.order_timeline
    WHERE organisation_id = %(organisation_id)s AND order_id = %(order_id)s
      AND position > %(after)s
    ORDER BY position LIMIT %(limit)s"""


class OrderSummary(Row):
    """An order as it stands. Money is in minor units of ``currency``.

    ``person``: the recipient's pseudonym; whether the person was erased is said as of now.
    """

    order_id: str
    status: str
    version: int
    customer_id: str
    region: str | None
    currency: str
    goods_minor: int
    freight_minor: int
    units: Decimal
    lines: int
    placed_at: datetime
    promised_at: datetime
    site_id: str | None
    service_level: str | None
    vehicle_id: str | None
    decision_id: str | None
    allocated_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    late: bool | None
    cancelled_at: datetime | None
    cancel_reason: str | None
    last_position: int
    person: str | None
    person_erased: bool


class OrderDetail(OrderSummary):
    """An order with everything that was said when it was placed, its lines among it."""

    placed: dict[str, Any]


class TimelineEntry(Row):
    """One step of an order. ``at`` null: it happened, its time was never recorded."""

    position: int
    what: str
    at: datetime | None
    recorded_at: datetime
    actor: str
    sentence: str
    out_of_order: bool


async def get_order(read: ReadModels, order_id: str) -> OrderDetail | None:
    """One order, or None."""
    return await read.one(OrderDetail, _GET, order_id=order_id)


async def list_orders(
    read: ReadModels,
    *,
    status: str | None = None,
    region: str | None = None,
    customer_id: str | None = None,
    person: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[OrderSummary]:
    """Orders, the latest placed first.

    Raises:
        BadCursor: the cursor was not given by this query.
    """
    before, before_id = decode(cursor, datetime, str) if cursor else (None, None)
    rows = await read.rows(
        OrderSummary,
        _LIST,
        status=status,
        region=region,
        customer_id=customer_id,
        person=person,
        before=before,
        before_id=before_id,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.placed_at, row.order_id))


async def order_timeline(
    read: ReadModels, order_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[TimelineEntry]:
    """What happened to an order, in the order in which it was recorded."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.rows(
        TimelineEntry, _TIMELINE, order_id=order_id, after=after, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))
