"""The queue of tasks at a glance: what waits, what runs, who works, and how quickly it goes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field

from readmodels.database import ReadModels, Row

#: So far back it is looked at for what was finished, and for who has worked.
THROUGHPUT = timedelta(hours=1)
WORKERS = timedelta(days=1)

_OPEN = """SELECT kind, priority, count(*) FILTER (WHERE NOT coalesce(running, false)) AS waiting,
        count(*) FILTER (WHERE running) AS running,
        min(requested_at) FILTER (WHERE NOT coalesce(running, false)) AS oldest_at
    FROM read_models.task_queue
    WHERE organisation_id = %(organisation_id)s AND requested_position IS NOT NULL
    GROUP BY kind, priority ORDER BY priority DESC, kind"""

# By the index on finished_at.
_DONE = """SELECT kind, count(*) FILTER (WHERE state = 'completed') AS completed,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
        avg(extract(epoch FROM finished_at - started_at))
            FILTER (WHERE state = 'completed')::float8 AS mean_s
    FROM read_models.task_list
    WHERE organisation_id = %(organisation_id)s AND finished_at > %(since)s
    GROUP BY kind ORDER BY kind"""

_WORKERS = """SELECT worker, count(*) AS tasks, max(started_at) AS last_seen_at,
        count(*) FILTER (WHERE finished_at IS NULL) AS running
    FROM read_models.task_list
    WHERE organisation_id = %(organisation_id)s AND worker IS NOT NULL
        AND (finished_at IS NULL OR finished_at > %(since)s)
    GROUP BY worker ORDER BY max(started_at) DESC LIMIT 100"""


class Waiting(Row):
    """What of a kind waits and runs, of one priority."""

    kind: str = Field(examples=["simulation"])
    priority: int
    waiting: int
    running: int
    oldest_at: datetime | None = Field(description="When the one was asked for that waits longest.")


class Done(Row):
    """What of a kind was finished in the last hour; ``mean_s``: of the completed ones, on the
    average, from the last start to the end."""

    kind: str
    completed: int
    failed: int
    cancelled: int
    mean_s: float | None


class Worker(Row):
    """Who has done tasks of the organisation in the last day."""

    worker: str = Field(examples=["machine:4711"])
    tasks: int
    running: int
    last_seen_at: datetime


class QueueOverview(Row):
    """The queue of the organisation's tasks. ``oldest_wait_s``: how long the one has waited that
    waits longest."""

    waiting: int
    running: int
    oldest_wait_s: float | None
    by_kind: tuple[Waiting, ...]
    last_hour: tuple[Done, ...]
    workers: tuple[Worker, ...]


async def queue_overview(read: ReadModels, now: datetime | None = None) -> QueueOverview:
    """What waits, what runs, and how it goes, in three queries."""
    now = now or datetime.now(UTC)
    by_kind = await read.rows(Waiting, _OPEN)
    last_hour = await read.rows(Done, _DONE, since=now - THROUGHPUT)
    workers = await read.rows(Worker, _WORKERS, since=now - WORKERS)
    return overview(by_kind, last_hour, workers, now)


def overview(
    by_kind: Sequence[Waiting], last_hour: Sequence[Done], workers: Sequence[Worker], now: datetime
) -> QueueOverview:
    """The same, of what was found."""
    oldest = min((one.oldest_at for one in by_kind if one.oldest_at is not None), default=None)
    figures: dict[str, Any] = {
        "waiting": sum(one.waiting for one in by_kind),
        "running": sum(one.running for one in by_kind),
        "oldest_wait_s": None if oldest is None else max((now - oldest).total_seconds(), 0.0),
    }
    return QueueOverview(
        **figures, by_kind=tuple(by_kind), last_hour=tuple(last_hour), workers=tuple(workers)
    )
