"""Notifications over HTTP: what the caller is to see, and what they are told of by mail."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Response

from api.commands import Post, mount
from api.dependencies import Caller, Cursor, Dependencies, Limit, NotFound, reading, tagged
from api.errors import documented
from api.notifier import address_of
from api.routers import Router
from domain.errors import Refused
from domain.notifications import SubscribeToAlerts, UnsubscribeFromAlerts
from readmodels import notifications
from readmodels.alerts import AlertPage
from readmodels.database import ReadModels
from readmodels.notifications import SubscriptionSummary

router = Router("/notifications", tags=["notifications"])


async def _can_be_told(deps: Dependencies, _: UUID, command: Any) -> None:
    """Refuse who has no address here, and everybody where no mail goes out."""
    if deps.accounts is None or not deps.accounts.mails:
        raise Refused("notification.no_mail")
    if await address_of(deps.log, command.subscriber) is None:
        raise Refused("notification.no_address", subscriber=command.subscriber)


POSTS = (
    Post(
        "/subscriptions",
        SubscribeToAlerts,
        "Be told of alerts by mail",
        now=("subscribed_at",),
        caller=("subscriber",),
        check=_can_be_told,
        example={
            "kinds": ["order_late", "stock_out"],
            "least_severity": "warning",
            "digest": "daily",
            "hour": 7,
            "zone": "Europe/Berlin",
        },
    ),
    Post(
        "/subscriptions/end",
        UnsubscribeFromAlerts,
        "Be told of alerts no more",
        now=("unsubscribed_at",),
        caller=("subscriber",),
    ),
)
mount(router, POSTS)


@router.get("", summary="What the caller is to see", responses=documented())
async def list_notifications(
    caller: Caller,
    read: Annotated[
        ReadModels, reading("notifications.list", "alert_list", "alert_reads", "alert_readers")
    ],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AlertPage:
    """Alerts, those first that the caller has not seen, and how many open ones those are."""
    return await notifications.list_notifications(read, caller.actor, cursor=cursor, limit=limit)


@router.get(
    "/subscriptions", summary="What the caller is told of by mail", responses=documented(404)
)
async def get_subscription(
    caller: Caller,
    response: Response,
    read: Annotated[ReadModels, reading("notifications.subscription", "alert_subscriptions")],
) -> SubscriptionSummary:
    """The caller's own subscription, or that it has ended."""
    found = await notifications.get_subscription(read, caller.actor)
    if found is None:
        raise NotFound("subscription of", caller.actor)
    tagged(response, found.version)
    return found
