"""Stock over HTTP."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Search, sortable
from api.routers import Router
from commands.inventory import stock_stream
from domain.inventory import AdjustStock, PickStock, ReceiveStock
from domain.values import Id
from readmodels import inventory
from readmodels.database import ReadModels
from readmodels.inventory import StockLevel
from readmodels.page import Page

router = Router(tags=["inventory"])

POSTS = (
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


@router.get("/stock", summary="List stock levels", responses=documented())
async def list_stock(
    read: Annotated[ReadModels, reading("stock.list", "stock_levels")],
    site_id: Annotated[Id | None, Query()] = None,
    sku: Annotated[Id | None, Query()] = None,
    below: Annotated[
        Decimal | None,
        Query(max_digits=20, decimal_places=3, description="Less than this is on hand."),
    ] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(inventory.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[StockLevel]:
    """What is on hand, by site and SKU; `search` finds a part of either."""
    return await inventory.list_stock(
        read,
        site_id=site_id,
        sku=sku,
        below=below,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )


@router.get("/stock/{site_id}/{sku}", summary="Get a stock level", responses=documented(404))
async def get_stock(
    site_id: Annotated[Id, Path()],
    sku: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("stock.get", "stock_levels")],
) -> StockLevel:
    """What is on hand of one SKU at one site, once any of it came there."""
    found = await inventory.get_stock(read, site_id, sku)
    if found is None:
        raise NotFound("stock", f"{site_id}/{sku}")
    tagged(response, found.last_position)
    return found


@router.get(
    "/stock/{site_id}/{sku}/history",
    summary="Read the movements of a stock",
    responses=documented(404),
)
async def get_stock_history(
    site_id: Annotated[Id, Path()],
    sku: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("stock.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """Every movement of one SKU at one site, the oldest first."""
    stream = stock_stream(site_id, sku)
    return await history_of(read, stream, "stock", f"{site_id}/{sku}", cursor, limit)
