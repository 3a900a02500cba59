"""Webhooks: which there are, what was sent to them, what waits, and what was given up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field

from eventstore import Log
from eventstore.webhooks.queue import LEASE
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.sorting import Column, Sorting

_COLUMNS = """webhook_id, version, url, coalesce(told->'events', '[]'::jsonb) AS events,
    coalesce(told->>'description', '') AS description, registered_by, registered_at,
    coalesce(paused, false) AS paused, CASE WHEN paused THEN paused_by END AS paused_by,
    CASE WHEN paused THEN paused_reason END AS paused_reason,
    CASE WHEN paused THEN paused_at END AS paused_at,
    rotated_at, former_until, last_position"""

_GET = f"""SELECT {_COLUMNS} FROM read_models.webhook_list
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
        AND removed_at IS NULL"""

_LIST = f"""SELECT {_COLUMNS} FROM read_models.webhook_list
    WHERE organisation_id = %(organisation_id)s AND removed_at IS NULL"""

SORTING = Sorting(
    {"webhook_id": Column(str), "registered_at": Column(datetime)},
    usual="webhook_id",
    key=("webhook_id",),
)

_DELIVERIES = """SELECT position, event_id, event, status, attempts, due_at, status_code, error,
        queued_at, changed_at, changed_by
    FROM webhook_deliveries
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
        AND position < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
    ORDER BY position DESC LIMIT %(limit)s"""

# Those that wait for a dead one stand behind it: by stream, each stream where its dead letter is.
_LETTERS = """SELECT position, event_id, event, status, attempts, due_at, status_code, error,
        queued_at, changed_at, changed_by,
        (SELECT count(*) FROM webhook_deliveries h
         WHERE h.organisation_id = d.organisation_id AND h.webhook_id = d.webhook_id
            AND h.stream_id = d.stream_id AND h.status = 'held') AS holding
    FROM webhook_deliveries d
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
        AND position > %(after)s AND status = 'dead'
    ORDER BY position LIMIT %(limit)s"""

_ATTEMPTS = """SELECT attempt, at, duration_ms, status_code, error FROM webhook_attempts
    WHERE organisation_id = %(organisation_id)s AND webhook_id = %(webhook_id)s
        AND position = %(position)s
    ORDER BY attempt DESC LIMIT 100"""

_BACKLOG = """SELECT
        (SELECT count(*) FROM webhook_deliveries d
         WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
            AND d.status = 'pending') AS pending,
        (SELECT count(*) FROM webhook_deliveries d
         WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
            AND d.status = 'held') AS held,
        (SELECT count(*) FROM webhook_deliveries d
         WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
            AND d.status = 'dead') AS dead,
        (SELECT min(d.queued_at) FROM webhook_deliveries d
         WHERE d.organisation_id = e.organisation_id AND d.webhook_id = e.webhook_id
            AND d.status = 'pending') AS oldest_pending_at,
        e.position, e.failures, e.failing_since,
        CASE WHEN e.not_before > clock_timestamp() THEN e.not_before END AS resting_until
    FROM webhook_endpoints e
    WHERE e.organisation_id = %(organisation_id)s AND e.webhook_id = %(webhook_id)s"""

_LAG = """SELECT
    (SELECT count(*) FROM webhook_endpoints WHERE NOT paused),
    (SELECT count(*) FROM webhook_endpoints WHERE paused),
    (SELECT count(*) FROM webhook_endpoints WHERE failures > 0 AND NOT paused),
    count(*) FILTER (WHERE d.status = 'pending'),
    count(*) FILTER (WHERE d.status = 'held'),
    count(*) FILTER (WHERE d.status = 'dead'),
    coalesce(extract(epoch FROM clock_timestamp() - min(d.queued_at)
        FILTER (WHERE d.status = 'pending' AND NOT e.paused)), 0)::float8,
    EXISTS (
        SELECT FROM pg_locks k
        WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
            AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND k.classid = 0::oid AND k.objid = %s::oid)
    FROM webhook_deliveries d
    LEFT JOIN webhook_endpoints e USING (organisation_id, webhook_id)
    WHERE d.status IN ('pending', 'held', 'dead')"""

#: How a delivery can be.
STATUSES = ("pending", "held", "dead", "delivered", "discarded")


class WebhookSummary(Row):
    """A webhook. ``events``: names of areas and events; none: it is told everything.
    ``former_until``: until then requests carry the signature of the former secret too."""

    webhook_id: str
    version: int
    url: str
    events: list[str]
    description: str
    registered_by: str
    registered_at: datetime
    paused: bool
    paused_by: str | None
    paused_reason: str | None
    paused_at: datetime | None
    rotated_at: datetime | None
    former_until: datetime | None
    last_position: int


class Delivery(Row):
    """One event for one webhook. ``held``: it waits for an earlier one of its stream; ``dead``: it
    was given up. ``status_code`` is the last answer's."""

    position: int
    event_id: UUID
    event: str
    status: str
    attempts: int
    due_at: datetime
    status_code: int | None
    error: str | None
    queued_at: datetime
    changed_at: datetime
    changed_by: str | None = Field(description="Who replayed or discarded it last.")


class Letter(Delivery):
    """A delivery that was given up. ``holding``: so many later events of its stream wait for it."""

    holding: int


class DeliveryAttempt(Row):
    """A request. ``status_code`` is null where there was no answer."""

    attempt: int
    at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None


class Backlog(Row):
    """How far a webhook is. ``position``: up to here the log was looked at for it; ``failures`` in
    a row since ``failing_since``; nothing is sent before ``resting_until``."""

    pending: int
    held: int
    dead: int
    oldest_pending_at: datetime | None
    position: int
    failures: int
    failing_since: datetime | None
    resting_until: datetime | None


class WebhookLag(NamedTuple):
    """All webhooks together: how many run, are paused, fail; how many deliveries are in which
    state; the age of the oldest that is pending, in seconds; whether some process delivers."""

    running: int
    paused: int
    failing: int
    pending: int
    held: int
    dead: int
    oldest_pending_s: float
    active: bool


async def get_webhook(read: ReadModels, webhook_id: str) -> WebhookSummary | None:
    """A webhook; None where there is none, or none any more."""
    return await read.one(WebhookSummary, _GET, webhook_id=webhook_id)


async def list_webhooks(
    read: ReadModels, *, sort: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[WebhookSummary]:
    """The webhooks, by id.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(WebhookSummary, _LIST + by.sql, limit=limit + 1, **by.parameters)
    return by.page(rows, limit)


async def list_deliveries(
    read: ReadModels,
    webhook_id: str,
    *,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Delivery]:
    """What is or was to be sent to a webhook, the newest first."""
    (before,) = decode(cursor, int) if cursor else (2**63 - 1,)
    values: dict[str, Any] = {"webhook_id": webhook_id, "before": before, "status": status}
    rows = await read.records(Delivery, _DELIVERIES, **values, limit=limit + 1)
    return page(rows, limit, lambda row: (row.position,))


async def list_dead_letters(
    read: ReadModels, webhook_id: str, *, cursor: str | None = None, limit: int = 50
) -> Page[Letter]:
    """What was given up, in log order."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.records(Letter, _LETTERS, webhook_id=webhook_id, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.position,))


async def attempts(read: ReadModels, webhook_id: str, position: int) -> list[DeliveryAttempt]:
    """The latest requests of a delivery, the newest first."""
    return await read.records(DeliveryAttempt, _ATTEMPTS, webhook_id=webhook_id, position=position)


async def backlog(read: ReadModels, webhook_id: str) -> Backlog | None:
    """How far a webhook is; None where the deliverer has not taken it in yet."""
    found = await read.records(Backlog, _BACKLOG, webhook_id=webhook_id)
    return found[0] if found else None


async def webhook_lag(log: Log) -> WebhookLag:
    """How all webhooks of the database are, for who watches the system."""
    async with log.connection() as connection:
        row = await (await connection.execute(_LAG, (LEASE,))).fetchone()
    assert row is not None
    return WebhookLag(*row)
