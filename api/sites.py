"""Sites over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Response
from fastapi.exceptions import RequestValidationError

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.sites import site_stream
from domain.places import Point
from domain.sites import ChangeSite, CloseSite, Kind, OpenSite, ReopenSite
from domain.values import Id, Region
from readmodels import sites
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.sites import Near, Site

router = Router("/sites", tags=["sites"])

POSTS = (
    Post(
        "",
        OpenSite,
        "Open a site",
        now=("opened_at",),
        status=201,
        errors=(409,),
        example={
            "site_id": "S-BER",
            "name": "Berlin",
            "region": "DE-BE",
            "service_levels": [{"code": "standard", "cost_minor": 490, "carbon_g": 500}],
            "daily_capacity": 200,
            "kind": "warehouse",
            "location": {"latitude": 52.520008, "longitude": 13.404954},
            "opening_hours": {
                "zone": "Europe/Berlin",
                "spans": [{"day": "monday", "opens": "06:00", "closes": "22:00"}],
            },
            "capacity_weight_g": 500_000_000,
            "capacity_volume_cm3": 2_000_000_000,
            "docks": 8,
        },
    ),
    Post(
        "/{site_id}/change",
        ChangeSite,
        "Change what is said of a site",
        now=("changed_at",),
        example={"daily_capacity": 250, "clear": ["docks"]},
    ),
    Post(
        "/{site_id}/close",
        CloseSite,
        "Close a site",
        now=("closed_at",),
        example={"reason": "lease ended"},
    ),
    Post(
        "/{site_id}/reopen",
        ReopenSite,
        "Open a closed site again",
        now=("reopened_at",),
    ),
)
mount(router, POSTS)

#: The farthest that is near, in kilometres: half way round the earth.
_FARTHEST_KM = 20_038


async def _near(
    near: Annotated[
        str | None,
        Query(
            max_length=100,
            pattern=r"^-?[0-9]+(\.[0-9]+)?,-?[0-9]+(\.[0-9]+)?,[0-9]+(\.[0-9]+)?$",
            description="Only those with a location within so many kilometres of a point: "
            "latitude, longitude (degrees, WGS 84) and kilometres, with commas between them.",
            examples=["52.520008,13.404954,50"],
        ),
    ] = None,
) -> Near | None:
    """The query parameter ``near``.

    Raises:
        RequestValidationError: there is no such point, or it is farther than the earth is wide.
    """
    if near is None:
        return None
    latitude, longitude, km = (float(part) for part in near.split(","))
    if abs(latitude) > 90 or abs(longitude) > 180 or km > _FARTHEST_KM:
        rule = (
            "latitude is from -90 to 90, longitude from -180 to 180, and kilometres are at most "
            f"{_FARTHEST_KM}"
        )
        told = {"type": "near", "loc": ("query", "near"), "msg": rule, "input": near}
        raise RequestValidationError([told])
    return Near(Point(latitude=latitude, longitude=longitude), km)


@router.get("", summary="List sites", responses=documented() | partial(Site, page=True))
async def list_sites(
    read: Annotated[ReadModels, reading("sites.list", "sites")],
    chosen: Annotated[Chosen, choosing(Site)],
    near: Annotated[Near | None, Depends(_near)],
    is_open: Annotated[bool | None, Query(alias="open")] = None,
    region: Annotated[Region | None, Query()] = None,
    kind: Annotated[Kind | None, Query(description="Only those of this kind.")] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(sites.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Site]:
    """Sites by id; `search` looks into id and name."""
    found = await sites.list_sites(
        read,
        is_open=is_open,
        region=region,
        kind=kind,
        near=near,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/{site_id}", summary="Get a site", responses=documented(404))
async def get_site(
    site_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("sites.get", "sites")],
) -> Site:
    """A site and the service levels that it offers."""
    found = await sites.get_site(read, site_id)
    if found is None:
        raise NotFound("site", site_id)
    tagged(response, found.version)
    return found


@router.get("/{site_id}/history", summary="Read a site's history", responses=documented(404))
async def get_site_history(
    site_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("sites.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a site, the oldest first."""
    return await history_of(read, site_stream(site_id), "site", site_id, cursor, limit)
