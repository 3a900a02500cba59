"""Vehicles and routes."""

from __future__ import annotations

from datetime import datetime

from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_VEHICLE = """vehicle_id, version, site_id, mode, service_levels, max_weight_g, max_volume_cm3,
    gross_weight_g, daily_capacity, vehicle_class, emission_class, fuel, hazard_permits,
    cost_minor, carbon_g, cost_per_km_minor, cost_per_hour_minor, fixed_cost_minor, currency,
    registered_at, retired, CASE WHEN retired THEN retired_at END AS retired_at,
    CASE WHEN retired THEN retire_reason END AS retire_reason, last_position"""

_GET_VEHICLE = f"""SELECT {_VEHICLE} FROM read_models.vehicle_list
    WHERE organisation_id = %(organisation_id)s AND vehicle_id = %(vehicle_id)s"""

_LIST_VEHICLES = f"""SELECT {_VEHICLE} FROM read_models.vehicle_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(mode)s::text IS NULL OR mode = %(mode)s)
      AND (%(vehicle_class)s::text IS NULL OR vehicle_class = %(vehicle_class)s)
      AND (%(retired)s::bool IS NULL OR retired = %(retired)s)
      AND (%(weight_g)s::bigint IS NULL OR max_weight_g >= %(weight_g)s)
      AND (%(volume_cm3)s::bigint IS NULL OR max_volume_cm3 >= %(volume_cm3)s)
      AND (%(found)s::text IS NULL OR vehicle_id ILIKE %(found)s)"""

VEHICLE_SORTING = Sorting(
    {
        "vehicle_id": Column(str),
        "site_id": Column(str),
        "mode": Column(str, nullable=True),
        "registered_at": Column(datetime, nullable=True),
        "vehicle_class": Column(str, nullable=True),
        "emission_class": Column(str, nullable=True),
        "max_weight_g": Column(int, nullable=True),
        "max_volume_cm3": Column(int, nullable=True),
        "daily_capacity": Column(int, nullable=True),
        "cost_minor": Column(int, nullable=True),
        "carbon_g": Column(int, nullable=True),
        "last_position": Column(int),
    },
    usual="vehicle_id",
    key=("vehicle_id",),
)

_LIST_ROUTES = """SELECT site_id, region, version, forbidden, reason, forbidden_at, allowed_at,
        last_position
    FROM read_models.route_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(site_id)s::text IS NULL OR site_id = %(site_id)s)
      AND (%(region)s::text IS NULL OR region = %(region)s)
      AND (%(forbidden)s::bool IS NULL OR forbidden = %(forbidden)s)"""

ROUTE_SORTING = Sorting(
    {
        "site_id": Column(str),
        "region": Column(str),
        "forbidden_at": Column(datetime, nullable=True),
        "allowed_at": Column(datetime, nullable=True),
        "last_position": Column(int),
    },
    usual="site_id,region",
    key=("site_id", "region"),
)


class Vehicle(Row):
    """A vehicle, the service levels it is for, what it carries, and what it costs.

    ``cost_minor``, ``carbon_g``: what it adds to an order's. ``gross_weight_g``: permissible weight
    when loaded. ``vehicle_class``: of UNECE R.E.3. ``hazard_permits``: classes of ADR that it may
    carry. Rates are in minor units of ``currency``. Null: not known, or not limited.
    """

    vehicle_id: str
    version: int
    site_id: str
    mode: str
    service_levels: list[str]
    max_weight_g: int | None
    max_volume_cm3: int | None
    gross_weight_g: int | None
    daily_capacity: int | None
    vehicle_class: str | None
    emission_class: str | None
    fuel: str | None
    hazard_permits: list[str] | None
    cost_minor: int
    carbon_g: int
    cost_per_km_minor: int | None
    cost_per_hour_minor: int | None
    fixed_cost_minor: int | None
    currency: str | None
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
    version: int
    forbidden: bool
    reason: str
    forbidden_at: datetime | None
    allowed_at: datetime | None
    last_position: int


async def get_vehicle(read: ReadModels, vehicle_id: str) -> Vehicle | None:
    """One vehicle, or None."""
    return await read.one(Vehicle, _GET_VEHICLE, vehicle_id=vehicle_id)


async def list_vehicles(
    read: ReadModels,
    *,
    site_id: str | None = None,
    mode: str | None = None,
    vehicle_class: str | None = None,
    retired: bool | None = None,
    weight_g: int | None = None,
    volume_cm3: int | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Vehicle]:
    """Vehicles by id, retired ones too. ``weight_g``, ``volume_cm3``: those that are known to carry
    so much. ``search`` is looked for in the id."""
    by = VEHICLE_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Vehicle,
        _LIST_VEHICLES + by.sql,
        site_id=site_id,
        mode=mode,
        vehicle_class=vehicle_class,
        retired=retired,
        weight_g=weight_g,
        volume_cm3=volume_cm3,
        found=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def list_routes(
    read: ReadModels,
    *,
    site_id: str | None = None,
    region: str | None = None,
    forbidden: bool | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Route]:
    """Routes by site and region: those that are forbidden, and those that were."""
    by = ROUTE_SORTING.by(sort, cursor or None)
    rows = await read.rows(
        Route,
        _LIST_ROUTES + by.sql,
        site_id=site_id,
        region=region,
        forbidden=forbidden,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)
