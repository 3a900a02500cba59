"""Clients: one, many."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_SITE = "(described->>'default_site_id')"
_LIMIT = "(described->>'credit_limit_minor')::bigint"
_PAYMENT = "(described->>'payment_days')::bigint"
_PROMISE = "(described->>'promise_hours')::bigint"

_CLIENT = f"""client_id, version, name, currency, priority,
    {_SITE} AS default_site_id,
    nullif(described->'location', 'null'::jsonb) AS location,
    nullif(described->'opening_hours', 'null'::jsonb) AS opening_hours,
    nullif(described->'delivery_hours', 'null'::jsonb) AS delivery_hours,
    {_PAYMENT} AS payment_days,
    {_LIMIT} AS credit_limit_minor,
    {_PROMISE} AS promise_hours,
    registered_at, retired, CASE WHEN retired THEN retired_at END AS retired_at,
    CASE WHEN retired THEN retire_reason END AS retire_reason, last_position"""

_GET = f"""SELECT {_CLIENT} FROM read_models.client_list
    WHERE organisation_id = %(organisation_id)s AND client_id = %(client_id)s"""

_LIST = f"""SELECT {_CLIENT} FROM read_models.client_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(retired)s::bool IS NULL OR retired = %(retired)s)
      AND (%(priority)s::text IS NULL OR priority = %(priority)s)
      AND (%(currency)s::text IS NULL OR currency = %(currency)s)
      AND (%(default_site_id)s::text IS NULL OR {_SITE} = %(default_site_id)s)
      AND (%(found)s::text IS NULL OR client_id ILIKE %(found)s OR name ILIKE %(found)s)"""

SORTING = Sorting(
    {
        "client_id": Column(str),
        "name": Column(str),
        "currency": Column(str),
        "priority": Column(str),
        "default_site_id": Column(str, nullable=True, sql=_SITE),
        "payment_days": Column(int, nullable=True, sql=_PAYMENT),
        "credit_limit_minor": Column(int, nullable=True, sql=_LIMIT),
        "promise_hours": Column(int, nullable=True, sql=_PROMISE),
        "registered_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="client_id",
    key=("client_id",),
)


class ClientSummary(Row):
    """An account that orders are placed for; its name is a company's.

    ``delivery_hours``: when it takes deliveries; null: in its opening hours. ``payment_days``:
    from the invoice to the payment. ``credit_limit_minor``: in minor units of ``currency``; null:
    none was set. ``promise_hours``: within how many hours orders are promised to be there.
    """

    client_id: str
    version: int
    name: str
    currency: str
    priority: str
    default_site_id: str | None
    location: dict[str, float] | None
    opening_hours: dict[str, Any] | None
    delivery_hours: dict[str, Any] | None
    payment_days: int | None
    credit_limit_minor: int | None
    promise_hours: int | None
    registered_at: datetime | None
    retired: bool
    retired_at: datetime | None
    retire_reason: str | None
    last_position: int


async def get_client(read: ReadModels, client_id: str) -> ClientSummary | None:
    """One client, or None."""
    return await read.one(ClientSummary, _GET, client_id=client_id)


async def list_clients(
    read: ReadModels,
    *,
    retired: bool | None = None,
    priority: str | None = None,
    currency: str | None = None,
    default_site_id: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ClientSummary]:
    """Clients by id, retired ones too. ``search`` is looked for in id and name.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        ClientSummary,
        _LIST + by.sql,
        retired=retired,
        priority=priority,
        currency=currency,
        default_site_id=default_site_id,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
