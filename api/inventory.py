"""Sites and stock over HTTP."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.listing import Chosen, choosing, partial, sortable
from domain.inventory import AdjustStock, CloseSite, OpenSite, PickStock, ReceiveStock
from domain.values import Id, Region
from readmodels import inventory
from readmodels.database import ReadModels
from readmodels.inventory import Site, StockLevel
from readmodels.page import Page

router = APIRouter(tags=["inventory"])

POSTS = (
    Post(
        "/sites",
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
        },
    ),
    Post(
        "/sites/{site_id}/close",
        CloseSite,
        "Close a site",
        now=("closed_at",),
        example={"reason": "lease ended"},
    ),
    Post(
        "/stock/{site_id}/{sku}/receive",
        ReceiveStock,
        "Take goods in",
        now=("received_at",),
        example={"quantity": "12"},
    ),
    Post(
        "/stock/{site_id}/{sku}/pick",
        PickStock,
        "Take goods from the shelf",
        now=("picked_at",),
        example={"quantity": "1", "order_id": "O-1"},
    ),
    Post(
        "/stock/{site_id}/{sku}/adjust",
        AdjustStock,
        "Correct what is on hand",
        now=("adjusted_at",),
        example={"change": "-2", "reason": "broken"},
    ),
)
mount(router, POSTS)


@router.get("/sites", summary="List sites", responses=documented() | partial(Site, page=True))
async def list_sites(
    read: Annotated[ReadModels, reading("sites.list", "sites")],
    chosen: Annotated[Chosen, choosing(Site)],
    is_open: Annotated[bool | None, Query(alias="open")] = None,
    region: Annotated[Region | None, Query()] = None,
    sort: Annotated[str | None, sortable(inventory.SITE_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Site]:
    """Sites by id."""
    found = await inventory.list_sites(
        read, is_open=is_open, region=region, sort=sort, cursor=cursor, limit=limit
    )
    return chosen.of(found)


@router.get("/sites/{site_id}", summary="Get a site", responses=documented(404))
async def get_site(
    site_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("sites.get", "sites")],
) -> Site:
    """A site and the service levels that it offers."""
    found = await inventory.get_site(read, site_id)
    if found is None:
        raise NotFound("site", site_id)
    tagged(response, found.version)
    return found


@router.get("/stock", summary="List stock levels", responses=documented())
async def list_stock(
    read: Annotated[ReadModels, reading("stock.list", "stock_levels")],
    site_id: Annotated[Id | None, Query()] = None,
    sku: Annotated[Id | None, Query()] = None,
    below: Annotated[
        Decimal | None,
        Query(max_digits=20, decimal_places=3, description="Less than this is on hand."),
    ] = None,
    sort: Annotated[str | None, sortable(inventory.STOCK_SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[StockLevel]:
    """What is on hand, by site and SKU."""
    return await inventory.list_stock(
        read, site_id=site_id, sku=sku, below=below, sort=sort, cursor=cursor, limit=limit
    )
