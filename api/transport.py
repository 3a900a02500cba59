"""Vehicles and routes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.transport import vehicle_stream
from domain.routes import AllowRoute, ForbidRoute
from domain.transport import (
    ChangeVehicle,
    MoveVehicle,
    RegisterVehicle,
    ReinstateVehicle,
    RetireVehicle,
)
from domain.values import Id, Region
from domain.vehicle_kinds import Mode, VehicleClass
from readmodels import transport
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.transport import Route, Vehicle

router = Router(tags=["transport"])

_Load = Annotated[
    int | None, Query(ge=0, le=10**12, description="Only those that are known to carry so much.")
]

POSTS = (
    Post(
        "/vehicles",
        RegisterVehicle,
        "Register a vehicle",
        now=("registered_at",),
        status=201,
        example={
            "vehicle_id": "V-BER-TRUCK",
            "site_id": "S-BER",
            "mode": "truck",
            "service_levels": ["standard"],
            "max_weight_g": 500_000,
            "max_volume_cm3": 8_000_000,
            "gross_weight_g": 7_490_000,
            "daily_capacity": 120,
            "vehicle_class": "N2",
            "emission_class": "euro6",
            "fuel": "diesel",
            "hazard_permits": ["3"],
            "cost_minor": -80,
            "carbon_g": -120,
            "cost_per_km_minor": 62,
            "cost_per_hour_minor": 2_850,
            "currency": "EUR",
        },
    ),
    Post(
        "/vehicles/{vehicle_id}/change",
        ChangeVehicle,
        "Change what is known of a vehicle",
        now=("changed_at",),
        example={"max_weight_g": 450_000, "emission_class": "euro5"},
    ),
    Post(
        "/vehicles/{vehicle_id}/move",
        MoveVehicle,
        "Move a vehicle to another site",
        now=("moved_at",),
        errors=(404, 409),
        example={"site_id": "S-AMS", "service_levels": ["standard"]},
    ),
    Post(
        "/vehicles/{vehicle_id}/reinstate",
        ReinstateVehicle,
        "Take a retired vehicle into use again",
        now=("reinstated_at",),
        example={"site_id": "S-BER", "reason": "repaired"},
    ),
    Post(
        "/vehicles/{vehicle_id}/retire",
        RetireVehicle,
        "Take a vehicle out of use",
        now=("retired_at",),
        example={"reason": "sold"},
    ),
    Post(
        "/routes/forbid",
        ForbidRoute,
        "Forbid a site to send orders to a region",
        now=("forbidden_at",),
        example={"site_id": "S-BER", "region": "DK", "reason": "no licensed carrier"},
    ),
    Post(
        "/routes/allow",
        AllowRoute,
        "Allow a forbidden route again",
        now=("allowed_at",),
        example={"site_id": "S-BER", "region": "DK"},
    ),
)
mount(router, POSTS)


@router.get(
    "/vehicles", summary="List vehicles", responses=documented() | partial(Vehicle, page=True)
)
async def list_vehicles(
    read: Annotated[ReadModels, reading("vehicles.list", "vehicle_list")],
    chosen: Annotated[Chosen, choosing(Vehicle)],
    site_id: Annotated[Id | None, Query()] = None,
    mode: Annotated[Mode | None, Query()] = None,
    vehicle_class: Annotated[VehicleClass | None, Query()] = None,
    retired: Annotated[bool | None, Query()] = None,
    carries_weight_g: _Load = None,
    carries_volume_cm3: _Load = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(transport.VEHICLE_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Vehicle]:
    """Vehicles by id, retired ones too; `search` looks in the id."""
    found = await transport.list_vehicles(
        read,
        site_id=site_id,
        mode=mode,
        vehicle_class=vehicle_class,
        retired=retired,
        weight_g=carries_weight_g,
        volume_cm3=carries_volume_cm3,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/vehicles/{vehicle_id}", summary="Get a vehicle", responses=documented(404))
async def get_vehicle(
    vehicle_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("vehicles.get", "vehicle_list")],
) -> Vehicle:
    """A vehicle and the service levels that it is for."""
    found = await transport.get_vehicle(read, vehicle_id)
    if found is None:
        raise NotFound("vehicle", vehicle_id)
    tagged(response, found.version)
    return found


@router.get(
    "/vehicles/{vehicle_id}/history",
    summary="Read a vehicle's history",
    responses=documented(404),
)
async def get_vehicle_history(
    vehicle_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("vehicles.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a vehicle, the oldest first."""
    return await history_of(read, vehicle_stream(vehicle_id), "vehicle", vehicle_id, cursor, limit)


@router.get("/routes", summary="List routes", responses=documented())
async def list_routes(
    read: Annotated[ReadModels, reading("routes.list", "route_list")],
    site_id: Annotated[Id | None, Query()] = None,
    region: Annotated[Region | None, Query()] = None,
    forbidden: Annotated[bool | None, Query()] = None,
    sort: Annotated[str | None, sortable(transport.ROUTE_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Route]:
    """Routes that are or were forbidden, by site and region; every other one is legal."""
    return await transport.list_routes(
        read,
        site_id=site_id,
        region=region,
        forbidden=forbidden,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
