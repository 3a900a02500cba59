"""Vehicles and routes."""

from __future__ import annotations

from datetime import datetime

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_VEHICLE = """vehicle_id, site_id, mode, service_levels, max_weight_g, daily_capacity, cost_minor,
    carbon_g, registered_at, retired, retired_at, retire_reason, last_position"""

_GET_VEHICLE = f"""SELECT {_VEHICLE} FROM read_models.vehicle_list
    WHERE organisation_id = %(organisation_id)s AND vehicle_id = %(vehicle_id)s"""

_LIST_VEHICLES = f"""SELECT {_VEHICLE} FROM read_models.vehicle_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND vehicle_id > %(after)s
    ORDER BY vehicle_id LIMIT %(limit)s"""

_LIST_ROUTES = """SELECT site_id, region, forbidden, reason, forbidden_at, allowed_at, last_position
    FROM read_models.route_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (site_id, region) > (%(after_site)s, %(after_region)s)
    ORDER BY site_id, region LIMIT %(limit)s"""


class Vehicle(Row):
    """A vehicle, the service levels it is for, and what it adds to an order's cost and carbon."""

    vehicle_id: str
    site_id: str
    mode: str
    service_levels: list[str]
    max_weight_g: int | None
    daily_capacity: int | None
    cost_minor: int
    carbon_g: int
    registered_at: datetime | None
    retired: bool
    retired_at: datetime | None
    retire_reason: str | None
    last_position: int


class Route(Row):
    """The way from a site to a region, and why it was forbidden the last time.

    A route of which nothing was ever said is legal and not listed.
    """

    site_id: str
    region: str
    forbidden: bool
    reason: str
    forbidden_at: datetime | None
    allowed_at: datetime | None
    last_position: int


async def get_vehicle(read: ReadModels, vehicle_id: str) -> Vehicle | None:
    """One vehicle, or None."""
    return await read.one(Vehicle, _GET_VEHICLE, vehicle_id=vehicle_id)


async def list_vehicles(
    read: ReadModels, *, site_id: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Vehicle]:
    """Vehicles by id, retired ones too."""
    (after,) = decode(cursor, str) if cursor else ("",)
    rows = await read.rows(Vehicle, _LIST_VEHICLES, site_id=site_id, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.vehicle_id,))


async def list_routes(
    read: ReadModels, *, site_id: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[Route]:
    """Routes by site and region: those that are forbidden, and those that were."""
    after_site, after_region = decode(cursor, str, str) if cursor else ("", "")
    rows = await read.rows(
        Route,
        _LIST_ROUTES,
        site_id=site_id,
        after_site=after_site,
        after_region=after_region,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.site_id, row.region))
