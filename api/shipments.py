"""Stock for orders, shipments and returns over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Path, Query

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading
from api.errors import documented
from api.listing import Search, sortable
from api.routers import Router
from domain.orders import (
    DeliverShipment,
    FillBackorder,
    ReleaseOrder,
    ReserveOrder,
    ReturnOrder,
    ShipPart,
)
from domain.values import Id
from readmodels import orders, shipments
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.shipments import Backorder, Return, Shipment

router = Router(tags=["orders"])

_LINES = [{"line_no": 1, "quantity": "1"}]

POSTS = (
    Post(
        "/orders/{order_id}/reserve",
        ReserveOrder,
        "Put stock aside for an order",
        now=("reserved_at",),
        example={"partial": True},
    ),
    Post(
        "/orders/{order_id}/release",
        ReleaseOrder,
        "Give an order's stock free",
        now=("released_at",),
    ),
    Post(
        "/orders/{order_id}/fill",
        FillBackorder,
        "Put stock aside for lines that wait",
        now=("filled_at",),
        example={"line_no": 1},
    ),
    Post(
        "/orders/{order_id}/shipments",
        ShipPart,
        "Ship a part of an order",
        now=("shipped_at",),
        status=201,
        example={"shipment_id": "P-1", "lines": _LINES, "carrier": "DHL"},
    ),
    Post(
        "/orders/{order_id}/shipments/{shipment_id}/deliver",
        DeliverShipment,
        "Hand a shipment to the customer",
        now=("delivered_at",),
        example={"proof": {"kind": "signature", "sha256": "0" * 64, "reference": "POD-1"}},
    ),
    Post(
        "/orders/{order_id}/returns",
        ReturnOrder,
        "Take goods back",
        now=("returned_at",),
        status=201,
        example={
            "return_id": "R-1",
            "lines": _LINES,
            "reason": "does not fit",
            "site_id": "S-AMS",
            "restock": True,
        },
    ),
)
mount(router, POSTS)

_OfOrder = Annotated[Id | None, Query(description="Of this order only.")]
_AtSite = Annotated[Id | None, Query(description="At this site only.")]


@router.get("/shipments", summary="List shipments", responses=documented())
async def list_shipments(
    read: Annotated[ReadModels, reading("shipments.list", "shipments", "order_summary")],
    order_id: _OfOrder = None,
    status: Annotated[Literal["shipped", "delivered"] | None, Query()] = None,
    site_id: _AtSite = None,
    vehicle_id: Annotated[Id | None, Query()] = None,
    late: Annotated[bool | None, Query(description="Delivered late, or in time.")] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(shipments.SHIPMENTS_BY)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Shipment]:
    """What left sites, and whether it arrived; `search` looks into ids and carriers."""
    return await shipments.list_shipments(
        read,
        order_id=order_id,
        status=status,
        site_id=site_id,
        vehicle_id=vehicle_id,
        late=late,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )


@router.get("/returns", summary="List returns", responses=documented())
async def list_returns(
    read: Annotated[ReadModels, reading("returns.list", "returns")],
    order_id: _OfOrder = None,
    site_id: _AtSite = None,
    restock: Annotated[bool | None, Query(description="Back onto the shelf, or not.")] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(shipments.RETURNS_BY)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Return]:
    """What came back; `search` looks into ids and reasons."""
    return await shipments.list_returns(
        read,
        order_id=order_id,
        site_id=site_id,
        restock=restock,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )


@router.get("/backorders", summary="List lines that wait for stock", responses=documented())
async def list_backorders(
    read: Annotated[ReadModels, reading("backorders.list", "backorders")],
    order_id: _OfOrder = None,
    site_id: _AtSite = None,
    sku: Annotated[Id | None, Query()] = None,
    sort: Annotated[str | None, sortable(shipments.BACKORDERS_BY)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Backorder]:
    """What orders wait for, those first that have waited longest: fill them in this order."""
    return await shipments.list_backorders(
        read, order_id=order_id, site_id=site_id, sku=sku, sort=sort, cursor=cursor, limit=limit
    )


@router.get(
    "/orders/{order_id}/shipments",
    summary="List an order's shipments",
    responses=documented(404),
)
async def list_shipments_of_order(
    order_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("shipments.list", "shipments", "order_summary")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Shipment]:
    """What left of an order, the latest first."""
    found = await shipments.list_shipments(read, order_id=order_id, cursor=cursor, limit=limit)
    await _known(read, order_id, found.items)
    return found


@router.get(
    "/orders/{order_id}/returns", summary="List an order's returns", responses=documented(404)
)
async def list_returns_of_order(
    order_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("returns.list", "returns", "order_summary")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Return]:
    """What came back of an order, the latest first."""
    found = await shipments.list_returns(read, order_id=order_id, cursor=cursor, limit=limit)
    await _known(read, order_id, found.items)
    return found


async def _known(read: ReadModels, order_id: str, found: Sequence[object]) -> None:
    """Raises NotFound where nothing was found because there is no such order."""
    if not found and await orders.get_order(read, order_id) is None:
        raise NotFound("order", order_id)
