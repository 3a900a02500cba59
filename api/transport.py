"""Vehicles and routes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.listing import Chosen, choosing, partial, sortable
from domain.transport import AllowRoute, ForbidRoute, Mode, RegisterVehicle, RetireVehicle
from domain.values import Id, Region
from readmodels import transport
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.transport import Route, Vehicle

router = APIRouter(tags=["transport"])

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
            "daily_capacity": 120,
            "cost_minor": -80,
            "carbon_g": -120,
        },
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
    retired: Annotated[bool | None, Query()] = None,
    sort: Annotated[str | None, sortable(transport.VEHICLE_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Vehicle]:
    """Vehicles by id, retired ones too."""
    found = await transport.list_vehicles(
        read, site_id=site_id, mode=mode, retired=retired, sort=sort, cursor=cursor, limit=limit
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
