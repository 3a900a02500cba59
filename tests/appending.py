"""Units to append, what the log holds after, and locks and cuts: shared by the tests of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool

from eventstore import Entry, Log, NewEvent, StoredEvent, Subscription, Unit, prepare_database
from tests.patience import PATIENCE_S

ORGANISATION = UUID("9c1f8a52-7d5e-4c0c-8c61-5c3c5b7f9d01")


# what is appended


def entry(
    stream: UUID,
    *versions: int,
    command_id: UUID | None = None,
    digest: bytes = b"digest",
    topic: str = "test.Noted.v1",
) -> Entry:
    events = [NewEvent(stream, version, topic, b'{"n":%d}' % version) for version in versions]
    name, last = f"notes/{stream}", versions[-1] if versions else 0
    return Entry(
        command_id or uuid4(), digest, name, last, ORGANISATION, "ana", uuid4(), None, events
    )


def unit(stream: UUID, *versions: int, expected: int | None = None, **options: Any) -> Unit:
    before = versions[0] - 1 if expected is None else expected
    return Unit([entry(stream, *versions, **options)], {stream: before})


def emptied(url: str) -> str:
    """The URL of a database whose log is empty and that has no read models."""
    prepare_database(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE events, commands, snapshots, relay, relay_lanes, kafka_offsets"
        )
        connection.execute("UPDATE log_head SET position = 0, recorded_at = '-infinity'")
        connection.execute(
            "DROP TABLE IF EXISTS projections, projection_lanes, projection_rebuilds,"
            " dead_letters CASCADE"
        )
        connection.execute("DROP SCHEMA IF EXISTS read_models CASCADE")
    return url


# what is looked at


def positions(url: str, after: int = 0) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT notification_id FROM events WHERE notification_id > %s ORDER BY 1", (after,)
        ).fetchall()
    return [row[0] for row in rows]


def head(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT position FROM log_head").fetchone()
    assert row is not None
    return int(row[0])


def versions(url: str, stream: UUID) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT originator_version FROM events WHERE originator_id = %s ORDER BY 1", (stream,)
        ).fetchall()
    return [row[0] for row in rows]


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Log]:
    async with AsyncConnectionPool(url, open=False) as pool:
        yield Log(pool, pool)


async def take(batches: Subscription, count: int) -> list[StoredEvent]:
    """The next events of a subscription."""
    seen: list[StoredEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in batches:
            seen += batch
            if len(seen) >= count:
                break
    return seen


@contextmanager
def head_locked(url: str) -> Iterator[psycopg.Connection]:
    """A transaction that holds the order lock; rolled back at the end unless committed."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT position FROM log_head FOR UPDATE")
        yield connection
        connection.rollback()


def waiting_backends(url: str) -> list[int]:
    """Backends that wait for a lock within an append."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '%append_group%' AND pid <> pg_backend_pid()
            """
        ).fetchall()
    return [row[0] for row in rows]


async def until_waiting(url: str) -> int:
    for _ in range(3000):
        if found := waiting_backends(url):
            return found[0]
        await asyncio.sleep(0.01)
    raise TimeoutError("no append waits for the lock")


def terminate(url: str, *pids: int) -> None:
    """Cut some backends of the database; all others where none is named."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND (pid = ANY(%(pids)s) OR %(pids)s = '{}')""",
            {"pids": list(pids)},
        )
