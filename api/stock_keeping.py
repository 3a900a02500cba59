"""Stock keeping over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.stock_keeping import stock_keeping_stream
from domain.stock_keeping import ChangeStockKeeping, EndStockKeeping, KeepStock
from domain.values import Id
from readmodels import stock_keeping
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.stock_keeping import StockKeeping

router = Router("/stock-keeping", tags=["inventory"])

POSTS: tuple[Post, ...] = (
    Post(
        "/{site_id}/{sku}",
        KeepStock,
        "Begin to keep a SKU at a site",
        now=("kept_at",),
        status=201,
        example={
            "reorder_point": "20",
            "safety_stock": "8",
            "max_level": "120",
            "bin": "A-12-3",
            "unit_cost_minor": 640,
            "currency": "EUR",
        },
    ),
    Post(
        "/{site_id}/{sku}/change",
        ChangeStockKeeping,
        "Change how a SKU is kept",
        now=("changed_at",),
        example={"reorder_point": "30", "clear": ["bin"]},
    ),
    Post(
        "/{site_id}/{sku}/end",
        EndStockKeeping,
        "Keep a SKU at a site no more",
        now=("ended_at",),
        example={"reason": "sold from another site now"},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List what sites keep",
    responses=documented() | partial(StockKeeping, page=True),
)
async def list_stock_keeping(
    read: Annotated[ReadModels, reading("stock_keeping.list", *stock_keeping.TABLES)],
    chosen: Annotated[Chosen, choosing(StockKeeping)],
    site_id: Annotated[Id | None, Query()] = None,
    sku: Annotated[Id | None, Query()] = None,
    kept: Annotated[bool | None, Query()] = None,
    to_reorder: Annotated[bool | None, Query()] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(stock_keeping.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[StockKeeping]:
    """What sites keep or kept, by site and SKU; `search` looks into SKU and bin."""
    found = await stock_keeping.list_stock_keeping(
        read,
        site_id=site_id,
        sku=sku,
        kept=kept,
        to_reorder=to_reorder,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/{site_id}/{sku}", summary="Get how a SKU is kept", responses=documented(404))
async def get_stock_keeping(
    site_id: Annotated[Id, Path()],
    sku: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("stock_keeping.get", *stock_keeping.TABLES)],
) -> StockKeeping:
    """How a SKU is kept at a site, and what of it is there."""
    found = await stock_keeping.get_stock_keeping(read, site_id, sku)
    if found is None:
        raise NotFound("stock keeping", f"{site_id}/{sku}")
    # What is on hand changes without the keeping's own stream.
    tagged(response, found.version, str(found.last_position))
    return found


@router.get(
    "/{site_id}/{sku}/history",
    summary="Read the history of how a SKU is kept",
    responses=documented(404),
)
async def get_stock_keeping_history(
    site_id: Annotated[Id, Path()],
    sku: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("stock_keeping.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """How a SKU was kept at a site, the oldest first; its movements are the stock's history."""
    stream = stock_keeping_stream(site_id, sku)
    return await history_of(read, stream, "stock keeping", f"{site_id}/{sku}", cursor, limit)
