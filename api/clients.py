"""Clients over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Search, choosing, partial, sortable
from api.routers import Router
from commands.clients import client_stream
from domain.clients import ChangeClient, Priority, RegisterClient, ReinstateClient, RetireClient
from domain.values import Currency, Id
from readmodels import clients
from readmodels.clients import ClientSummary
from readmodels.database import ReadModels
from readmodels.page import Page

router = Router("/clients", tags=["clients"])

POSTS: tuple[Post, ...] = (
    Post(
        "",
        RegisterClient,
        "Register a client",
        now=("registered_at",),
        status=201,
        example={
            "client_id": "C-NORTH",
            "name": "Bakery Chain North GmbH",
            "currency": "EUR",
            "location": {"latitude": 53.5511, "longitude": 9.9937},
            "delivery_hours": {
                "zone": "Europe/Berlin",
                "spans": [{"day": "monday", "opens": "05:00", "closes": "09:00"}],
            },
            "payment_days": 30,
            "credit_limit_minor": 2_500_000,
            "priority": "high",
            "promise_hours": 24,
        },
    ),
    Post(
        "/{client_id}/change",
        ChangeClient,
        "Change what is said of a client",
        now=("changed_at",),
        example={"payment_days": 14, "clear": ["credit_limit_minor"]},
    ),
    Post(
        "/{client_id}/retire",
        RetireClient,
        "End the business with a client",
        now=("retired_at",),
        example={"reason": "contract ended"},
    ),
    Post(
        "/{client_id}/reinstate",
        ReinstateClient,
        "Take up the business with a client again",
        now=("reinstated_at",),
        example={"reason": "new contract"},
    ),
)
mount(router, POSTS)


@router.get("", summary="List clients", responses=documented() | partial(ClientSummary, page=True))
async def list_clients(
    read: Annotated[ReadModels, reading("clients.list", "client_list")],
    chosen: Annotated[Chosen, choosing(ClientSummary)],
    retired: Annotated[bool | None, Query()] = None,
    priority: Annotated[Priority | None, Query()] = None,
    currency: Annotated[Currency | None, Query()] = None,
    default_site_id: Annotated[Id | None, Query()] = None,
    search: Search = None,
    sort: Annotated[str | None, sortable(clients.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ClientSummary]:
    """Clients by id, retired ones too; `search` looks in id and name."""
    found = await clients.list_clients(
        read,
        retired=retired,
        priority=priority,
        currency=currency,
        default_site_id=default_site_id,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get(
    "/{client_id}", summary="Get a client", responses=documented(404) | partial(ClientSummary)
)
async def get_client(
    client_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("clients.get", "client_list")],
    chosen: Annotated[Chosen, choosing(ClientSummary)],
) -> ClientSummary:
    """A client: an account, whose name is a company's."""
    found = await clients.get_client(read, client_id)
    if found is None:
        raise NotFound("client", client_id)
    tagged(response, found.version)
    return chosen.of(found)


@router.get("/{client_id}/history", summary="Read a client's history", responses=documented(404))
async def get_client_history(
    client_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("clients.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to a client, the oldest first."""
    return await history_of(read, client_stream(client_id), "client", client_id, cursor, limit)
