"""Notifications: what somebody is to see, the unseen first, and what they are told of by mail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from readmodels.alerts import AlertPage, list_alerts
from readmodels.database import ReadModels, Row

_SUBSCRIPTION = """SELECT subscriber, version, active, told, ended_reason, last_told_at,
        last_position
    FROM read_models.alert_subscriptions
    WHERE organisation_id = %(organisation_id)s AND subscriber = %(subscriber)s"""


class _Stored(Row):
    subscriber: str
    version: int
    active: bool
    told: dict[str, Any]
    ended_reason: str | None
    last_told_at: datetime | None
    last_position: int


class SubscriptionSummary(Row):
    """What somebody is told of by mail. ``ended_reason``: why it ended, where that was not their
    wish."""

    subscriber: str
    version: int
    active: bool
    kinds: tuple[str, ...]
    least_severity: str
    channel: str
    digest: str
    hour: int
    zone: str
    subscribed_at: datetime
    ended_reason: str | None
    last_told_at: datetime | None
    last_position: int


async def list_notifications(
    read: ReadModels, reader: str, *, cursor: str | None = None, limit: int = 50
) -> AlertPage:
    """Alerts as somebody sees them: those that they have not seen first, of each the latest."""
    return await list_alerts(
        read, reader, sort="-unread,-raised_position", cursor=cursor, limit=limit
    )


async def get_subscription(read: ReadModels, subscriber: str) -> SubscriptionSummary | None:
    """What somebody is told of, or was; None: they never subscribed."""
    found = await read.one(_Stored, _SUBSCRIPTION, subscriber=subscriber)
    if found is None:
        return None
    told = {
        name: found.told[name] for name in SubscriptionSummary.model_fields if name in found.told
    }
    rest = found.model_dump(exclude={"told"})
    if found.active:
        rest["ended_reason"] = None
    return SubscriptionSummary(**(told | rest))
