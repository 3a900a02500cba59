"""Figures that people and machines recorded: one, many."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_METRIC = """metric_id, version, name, value, unit, measured_at, site_id, client_id, vehicle_id,
    sku, source, recorded_by, corrections, correction_reason, is_withdrawn, withdrawal_reason,
    last_position"""

_GET = f"""SELECT {_METRIC} FROM read_models.metric_list
    WHERE organisation_id = %(organisation_id)s AND metric_id = %(metric_id)s"""

_LIST = f"""SELECT {_METRIC} FROM read_models.metric_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(name)s::text IS NULL OR name = %(name)s)
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(client_id)s::text IS NULL OR client_id = %(client_id)s)
      AND (%(vehicle_id)s::text IS NULL OR vehicle_id = %(vehicle_id)s)
      AND (%(sku)s::text IS NULL OR sku = %(sku)s)
      AND (%(measured_since)s::timestamptz IS NULL OR measured_at >= %(measured_since)s)
      AND (%(measured_until)s::timestamptz IS NULL OR measured_at < %(measured_until)s)
      AND (%(is_withdrawn)s::bool IS NULL OR is_withdrawn = %(is_withdrawn)s)
      AND (%(found)s::text IS NULL OR metric_id ILIKE %(found)s OR name ILIKE %(found)s
           OR source ILIKE %(found)s OR site_id ILIKE %(found)s OR client_id ILIKE %(found)s
           OR vehicle_id ILIKE %(found)s OR sku ILIKE %(found)s)"""

SORTING = Sorting(
    {
        "metric_id": Column(str),
        "name": Column(str),
        "value": Column(Decimal),
        "measured_at": Column(datetime),
        "last_position": Column(int),
    },
    usual="-measured_at",
    key=("metric_id",),
)


class Metric(Row):
    """A figure as it holds now; a withdrawn one does not count."""

    metric_id: str
    version: int
    name: str
    value: Decimal
    unit: str
    measured_at: datetime
    site_id: str | None
    client_id: str | None
    vehicle_id: str | None
    sku: str | None
    source: str | None
    recorded_by: str
    corrections: int
    correction_reason: str | None
    is_withdrawn: bool
    withdrawal_reason: str | None
    last_position: int


async def get_metric(read: ReadModels, metric_id: str) -> Metric | None:
    """One figure, or None."""
    return await read.one(Metric, _GET, metric_id=metric_id)


async def list_metrics(
    read: ReadModels,
    *,
    name: str | None = None,
    site_id: str | None = None,
    client_id: str | None = None,
    vehicle_id: str | None = None,
    sku: str | None = None,
    measured_since: datetime | None = None,
    measured_until: datetime | None = None,
    is_withdrawn: bool | None = False,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Metric]:
    """Figures, the newest first; ``measured_until`` is out. ``is_withdrawn`` None: all. ``search``
    finds a part of id, name or source, or of the id of what they are about."""
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Metric,
        _LIST + by.sql,
        name=name,
        site_id=site_id,
        client_id=client_id,
        vehicle_id=vehicle_id,
        sku=sku,
        measured_since=measured_since,
        measured_until=measured_until,
        is_withdrawn=is_withdrawn,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
