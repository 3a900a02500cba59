"""Orders: one, many, and the story of one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.sorting import Column, Sorting

_COLUMNS = """order_id, status, version, customer_id, region, currency, goods_minor,
    freight_minor, units, lines, placed_at, promised_at, site_id, service_level,
    nullif(vehicle_id, '') AS vehicle_id, decision_id, allocated_at, shipped_at, delivered_at,
    late, cancelled_at, cancel_reason, last_position, person,
    CASE WHEN person IS NULL THEN false ELSE coalesce(
        (SELECT k.erased_at IS NOT NULL FROM person_keys k WHERE k.key_id = person::uuid), true
    ) END AS person_erased"""

_GET = f"""SELECT {_COLUMNS}, placed FROM read_models.order_summary
    WHERE organisation_id = %(organisation_id)s AND order_id = %(order_id)s"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.order_summary
    WHERE organisation_id = %(organisation_id)s
      AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (%(region)s::text IS NULL OR region = %(region)s)
      AND (%(customer_id)s::text IS NULL OR customer_id = %(customer_id)s)
      AND (%(person)s::text IS NULL OR person = %(person)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(late)s::bool IS NULL OR late = %(late)s)
      AND (%(placed_since)s::timestamptz IS NULL OR placed_at >= %(placed_since)s)
      AND (%(placed_until)s::timestamptz IS NULL OR placed_at < %(placed_until)s)
      AND (%(promised_since)s::timestamptz IS NULL OR promised_at >= %(promised_since)s)
      AND (%(promised_until)s::timestamptz IS NULL OR promised_at < %(promised_until)s)"""

#: By ``placed_at`` and by ``order_id`` an index serves; by others the organisation's are sorted.
SORTING = Sorting(
    {
        "placed_at": Column(datetime),
        "order_id": Column(str),
        "promised_at": Column(datetime),
        "delivered_at": Column(datetime, nullable=True),
        "status": Column(str),
        "region": Column(str, nullable=True),
        "site_id": Column(str, nullable=True),
        "goods_minor": Column(int),
        "units": Column(Decimal),
        "last_position": Column(int),
    },
    usual="-placed_at",
    key=("order_id",),
)

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
    site_id: str | None = None,
    late: bool | None = None,
    placed_since: datetime | None = None,
    placed_until: datetime | None = None,
    promised_since: datetime | None = None,
    promised_until: datetime | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[OrderSummary]:
    """Orders, the latest placed first. Of times, ``since`` is in and ``until`` is out.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        OrderSummary,
        _LIST + by.sql,
        status=status,
        region=region,
        customer_id=customer_id,
        person=person,
        site_id=site_id,
        late=late,
        placed_since=placed_since,
        placed_until=placed_until,
        promised_since=promised_since,
        promised_until=promised_until,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def order_timeline(
    read: ReadModels, order_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[TimelineEntry]:
    """What happened to an order, in the order in which it was recorded."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.rows(
        TimelineEntry, _TIMELINE, order_id=order_id, after=after, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))
