"""Orders over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, either, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Moment, Search, choosing, partial, sortable
from api.routers import Router
from commands.orders import order_stream
from domain.order_delivery import ChangeOrder
from domain.orders import (
    AllocateOrder,
    CancelLines,
    CancelOrder,
    DeliverOrder,
    PlaceOrder,
    RepromiseOrder,
    ShipOrder,
    SplitOrder,
    Status,
)
from domain.people import Pseudonym
from domain.values import Id, Region
from readmodels import orders
from readmodels.database import ReadModels
from readmodels.orders import OrderDetail, OrderLineRow, OrderSummary, TimelineEntry
from readmodels.page import Page

router = Router("/orders", tags=["orders"])

_STATUSES = [status.value for status in Status if status is not Status.UNKNOWN]

POSTS = (
    Post(
        "",
        PlaceOrder,
        "Place an order",
        now=("placed_at",),
        status=201,
        errors=(409,),
        example={
            "order_id": "O-1",
            "customer_id": "C-1",
            "currency": "EUR",
            "region": "DE-BE",
            "promised_at": "2030-01-01T00:00:00Z",
            "lines": [
                {
                    "line_no": 1,
                    "sku": "SKU-001",
                    "quantity": "2",
                    "unit_price_minor": 1999,
                    "weight_g": 800,
                }
            ],
            "recipient": {"person_id": "P-1", "name": "Ada Example", "city": "Berlin"},
        },
    ),
    Post(
        "/{order_id}/allocate",
        AllocateOrder,
        "Choose the site and the service level",
        now=("allocated_at",),
        example={"site_id": "S-AMS", "service_level": "standard", "vehicle_id": "V-AMS-VAN"},
    ),
    Post(
        "/{order_id}/ship",
        ShipOrder,
        "Hand the order to a carrier",
        now=("shipped_at",),
        example={"carrier": "DHL"},
    ),
    Post(
        "/{order_id}/deliver",
        DeliverOrder,
        "Hand the order to its customer",
        now=("delivered_at",),
    ),
    Post(
        "/{order_id}/cancel",
        CancelOrder,
        "Give the order up",
        now=("cancelled_at",),
        example={"reason": "changed mind"},
    ),
    Post(
        "/{order_id}/cancel-lines",
        CancelLines,
        "Give lines up, or parts of them",
        now=("cancelled_at",),
        example={"lines": [{"line_no": 1, "quantity": "1"}], "reason": "not needed"},
    ),
    Post(
        "/{order_id}/split",
        SplitOrder,
        "Make lines an order of their own",
        now=("split_at",),
        example={"new_order_id": "O-1-B", "lines": [{"line_no": 1, "quantity": "1"}]},
    ),
    Post(
        "/{order_id}/change",
        ChangeOrder,
        "Change where and when the order is wanted",
        now=("changed_at",),
        errors=(404, 409, 422),
        example={
            "destination": {"latitude": 52.52, "longitude": 13.4},
            "clear": ["delivery_window"],
        },
    ),
    Post(
        "/{order_id}/repromise",
        RepromiseOrder,
        "Promise another moment",
        now=("repromised_at",),
        example={"promised_at": "2030-01-03T00:00:00Z", "reason": "the lorry broke down"},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List orders, the latest first",
    responses=documented() | partial(OrderSummary, page=True),
)
async def list_orders(
    read: Annotated[ReadModels, reading("orders.list", "order_summary")],
    chosen: Annotated[Chosen, choosing(OrderSummary)],
    status: Annotated[str | None, Query(pattern=either(_STATUSES))] = None,
    region: Annotated[Region | None, Query()] = None,
    customer_id: Annotated[Id | None, Query()] = None,
    person: Annotated[Pseudonym | None, Query()] = None,
    site_id: Annotated[Id | None, Query(description="Allocated to this site.")] = None,
    late: Annotated[bool | None, Query(description="Delivered late, or in time.")] = None,
    backordered: Annotated[bool | None, Query(description="Waits for stock, or not.")] = None,
    search: Search = None,
    placed_since: Moment = None,
    placed_until: Moment = None,
    promised_since: Moment = None,
    promised_until: Moment = None,
    sort: Annotated[str | None, sortable(orders.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[OrderSummary]:
    """A page of orders; filters are joined by «and». Of times, `since` is in and `until` is out;
    `search` looks into the ids of order and customer."""
    found = await orders.list_orders(
        read,
        status=status,
        region=region,
        customer_id=customer_id,
        person=person,
        site_id=site_id,
        late=late,
        backordered=backordered,
        search=search,
        placed_since=placed_since,
        placed_until=placed_until,
        promised_since=promised_since,
        promised_until=promised_until,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/{order_id}",
    summary="Get an order",
    responses=documented(404) | partial(OrderDetail),
)
async def get_order(
    order_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("orders.get", "order_summary")],
    chosen: Annotated[Chosen, choosing(OrderDetail)],
) -> OrderDetail:
    """An order with its lines; the ETag is its version."""
    found = await orders.get_order(read, order_id)
    if found is None:
        raise NotFound("order", order_id)
    tagged(response, found.version, *(["erased"] if found.person_erased else []))
    return chosen.of(found)


@router.get("/{order_id}/timeline", summary="Read an order's story", responses=documented(404))
async def get_order_timeline(
    order_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("orders.timeline", "order_timeline")],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[TimelineEntry]:
    """What happened to an order, step by step."""
    found = await orders.order_timeline(read, order_id, cursor=cursor, limit=limit)
    if not found.items and cursor is None:
        raise NotFound("order", order_id)
    return found


@router.get("/{order_id}/lines", summary="List an order's lines", responses=documented(404))
async def get_order_lines(
    order_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("orders.lines", "order_lines", "order_summary")],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[OrderLineRow]:
    """What became of each line: reserved, backordered, shipped, delivered, returned, cancelled."""
    found = await orders.order_lines(read, order_id, cursor=cursor, limit=limit)
    if not found.items and cursor is None and await orders.get_order(read, order_id) is None:
        raise NotFound("order", order_id)
    return found


@router.get("/{order_id}/history", summary="Read an order's history", responses=documented(404))
async def get_order_history(
    order_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("orders.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """The order's events as the log has them, the oldest first."""
    return await history_of(read, order_stream(order_id), "order", order_id, cursor, limit)
