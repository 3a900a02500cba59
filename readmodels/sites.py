"""Sites: one, many."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from domain.places import EARTH_RADIUS_M, Point
from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_LATITUDE = "(described->'location'->>'latitude')::float8"
_LONGITUDE = "(described->'location'->>'longitude')::float8"
_WEIGHT = "(described->>'capacity_weight_g')::bigint"
_VOLUME = "(described->>'capacity_volume_cm3')::bigint"

_SITE = f"""site_id, version, name, region, kind, daily_capacity, is_open,
    coalesce(described->'service_levels', '[]'::jsonb) AS service_levels,
    nullif(described->'location', 'null'::jsonb) AS location,
    nullif(described->'opening_hours', 'null'::jsonb) AS opening_hours,
    {_WEIGHT} AS capacity_weight_g,
    {_VOLUME} AS capacity_volume_cm3,
    (described->>'docks')::bigint AS docks,
    opened_at, CASE WHEN NOT is_open THEN closed_at END AS closed_at,
    CASE WHEN NOT is_open THEN close_reason END AS close_reason, last_position"""

_GET_SITE = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s AND site_id = %(site_id)s"""

# By the haversine formula, as domain.places.distance_m.
_LIST_SITES = f"""SELECT {_SITE} FROM read_models.sites
    WHERE organisation_id = %(organisation_id)s
      AND (%(is_open)s::bool IS NULL OR is_open = %(is_open)s)
      AND (%(region)s::text IS NULL OR region = %(region)s)
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)
      AND (%(found)s::text IS NULL OR site_id ILIKE %(found)s OR name ILIKE %(found)s)
      AND (%(within_m)s::float8 IS NULL OR 2 * {EARTH_RADIUS_M} * asin(least(1, sqrt(
            sin(radians({_LATITUDE} - %(latitude)s::float8) / 2) ^ 2
            + cos(radians({_LATITUDE})) * cos(radians(%(latitude)s::float8))
            * sin(radians({_LONGITUDE} - %(longitude)s::float8) / 2) ^ 2
          ))) <= %(within_m)s::float8)"""

SORTING = Sorting(
    {
        "site_id": Column(str),
        "name": Column(str, nullable=True),
        "region": Column(str, nullable=True),
        "kind": Column(str),
        "daily_capacity": Column(int, nullable=True),
        "capacity_weight_g": Column(int, nullable=True, sql=_WEIGHT),
        "capacity_volume_cm3": Column(int, nullable=True, sql=_VOLUME),
        "opened_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="site_id",
    key=("site_id",),
)


class Near(NamedTuple):
    """What lies around a point, at most so many kilometres away."""

    centre: Point
    km: float


class Site(Row):
    """A site and the service levels that it offers.

    ``capacity_weight_g``, ``capacity_volume_cm3``: what it holds. ``opening_hours``: by the clock
    on its wall, in its time zone.
    """

    site_id: str
    version: int
    name: str | None
    region: str | None
    kind: str
    daily_capacity: int | None
    is_open: bool
    service_levels: list[dict[str, Any]]
    location: dict[str, float] | None
    opening_hours: dict[str, Any] | None
    capacity_weight_g: int | None
    capacity_volume_cm3: int | None
    docks: int | None
    opened_at: datetime | None
    closed_at: datetime | None
    close_reason: str | None
    last_position: int


async def get_site(read: ReadModels, site_id: str) -> Site | None:
    """One site, or None."""
    return await read.one(Site, _GET_SITE, site_id=site_id)


async def list_sites(
    read: ReadModels,
    *,
    is_open: bool | None = None,
    region: str | None = None,
    kind: str | None = None,
    near: Near | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Site]:
    """Sites by id. ``search`` is looked for in id and name; what is ``near`` has a location.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Site,
        _LIST_SITES + by.sql,
        is_open=is_open,
        region=region,
        kind=kind,
        found=containing(search),
        latitude=near.centre.latitude if near else None,
        longitude=near.centre.longitude if near else None,
        within_m=near.km * 1000 if near else None,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
