"""Orders: one, many, and the story of one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

# As it was placed, unless it was changed since.
_UNTIL = """CASE WHEN changed IS NULL THEN deliver_until
        ELSE (changed->'delivery_window'->>'ends_at')::timestamptz END"""

_COLUMNS = f"""order_id, status, version, customer_id, region, currency, goods_minor,
    freight_minor, units, lines, placed_at, promised_at, site_id, service_level,
    nullif(vehicle_id, '') AS vehicle_id, decision_id, allocated_at, shipped_at, delivered_at,
    late, late_s, cancelled_at, cancel_reason, repromised_to, weight_g, volume_cm3,
    CASE WHEN changed IS NULL THEN latitude
        ELSE (changed->'destination'->>'latitude')::float8 END AS latitude,
    CASE WHEN changed IS NULL THEN longitude
        ELSE (changed->'destination'->>'longitude')::float8 END AS longitude,
    CASE WHEN changed IS NULL THEN deliver_from
        ELSE (changed->'delivery_window'->>'starts_at')::timestamptz END AS deliver_from,
    {_UNTIL} AS deliver_until,
    CASE WHEN changed IS NULL THEN service_s
        ELSE (changed->>'service_s')::bigint END AS service_s,
    split_from, parts, reserved, backordered,
    shipped, delivered, returned, cancelled, last_position, person,
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
      AND (%(backordered)s::bool IS NULL OR (backordered > 0) = %(backordered)s)
      AND (%(found)s::text IS NULL
           OR order_id ILIKE %(found)s OR customer_id ILIKE %(found)s)
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
        "reserved": Column(Decimal),
        "backordered": Column(Decimal),
        "late_s": Column(int, nullable=True),
        "deliver_until": Column(datetime, nullable=True, sql=f"({_UNTIL})"),
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
    """An order as it stands. Money is in minor units of ``currency``, quantities are of all lines.

    ``units`` and ``goods_minor`` are without what was split off. ``promised_at`` was promised
    first: by it ``late`` and ``late_s`` (seconds, below zero before it) are measured;
    ``repromised_to`` was promised last. ``parts``: shipments, where it did not leave as a whole.
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
    late_s: int | None
    cancelled_at: datetime | None
    cancel_reason: str | None
    repromised_to: datetime | None
    weight_g: int | None
    volume_cm3: int | None
    latitude: float | None
    longitude: float | None
    deliver_from: datetime | None
    deliver_until: datetime | None
    service_s: int | None
    split_from: str | None
    parts: int
    reserved: Decimal
    backordered: Decimal
    shipped: Decimal
    delivered: Decimal
    returned: Decimal
    cancelled: Decimal
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
    backordered: bool | None = None,
    search: str | None = None,
    placed_since: datetime | None = None,
    placed_until: datetime | None = None,
    promised_since: datetime | None = None,
    promised_until: datetime | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[OrderSummary]:
    """Orders, the latest placed first. Of times, ``since`` is in and ``until`` is out. ``search``
    finds a part of the order's or the customer's id.

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
        backordered=backordered,
        found=containing(search),
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


_LINES = """SELECT l.order_id, l.line_no, l.sku, l.site_id, l.quantity, l.unit_price_minor,
        l.weight_g, l.volume_cm3, l.split_off, l.reserved, l.backordered, l.returned,
        CASE WHEN o.status = 'cancelled' THEN l.quantity - l.split_off
            ELSE l.cancelled_by_line END AS cancelled,
        CASE WHEN o.parts = 0 AND o.status IN ('shipped', 'delivered')
            THEN l.quantity - l.split_off - l.cancelled_by_line
            ELSE l.shipped_in_parts END AS shipped,
        CASE WHEN o.status <> 'delivered' THEN l.delivered_in_parts
            WHEN o.parts = 0 THEN l.quantity - l.split_off - l.cancelled_by_line
            ELSE l.shipped_in_parts END AS delivered,
        l.last_position
    FROM read_models.order_lines AS l
    JOIN read_models.order_summary AS o USING (organisation_id, order_id)
    WHERE l.organisation_id = %(organisation_id)s AND l.order_id = %(order_id)s
      AND l.line_no > %(after)s AND l.sku IS NOT NULL
    ORDER BY l.line_no LIMIT %(limit)s"""


class OrderLineRow(Row):
    """A line and what has become of it.

    ``quantity`` = open + ``shipped`` + ``cancelled`` + ``split_off``; ``reserved`` and
    ``backordered`` are of what is open, ``delivered`` of what was shipped, ``returned`` of that.
    """

    order_id: str
    line_no: int
    sku: str
    site_id: str | None
    quantity: Decimal
    unit_price_minor: int
    weight_g: int | None
    volume_cm3: int | None
    reserved: Decimal
    backordered: Decimal
    shipped: Decimal
    delivered: Decimal
    returned: Decimal
    cancelled: Decimal
    split_off: Decimal
    last_position: int


async def order_lines(
    read: ReadModels, order_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[OrderLineRow]:
    """The lines of an order by their numbers."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.rows(OrderLineRow, _LINES, order_id=order_id, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.line_no,))
