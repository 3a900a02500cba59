"""Forgets the ids of old commands, in small steps that no append waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

_PRUNING = 0x_C4A1_0003
# By ranges of pages: each is read once, however much was deleted before it.
_STEP = """DELETE FROM commands
WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid AND recorded_at < %(before)s"""
_SIZE = """SELECT now() - %s,
    pg_relation_size('commands') / current_setting('block_size')::bigint"""
_log = structlog.get_logger(__name__)


async def prune(
    connection: AsyncConnection[TupleRow],
    older_than: timedelta,
    *,
    pages: int = 128,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Forget commands accepted longer ago than ``older_than``; how many those were.

    A retry of a forgotten command is run as a new one. Each step looks at so many ``pages`` of the
    table, in a transaction of its own, and locks the rows that it deletes, nothing else.
    ``report`` is told the count after each.

    Raises:
        psycopg.Error: the database refused; what was forgotten before stays so.
    """
    row = await (await connection.execute(_SIZE, (older_than,))).fetchone()
    assert row is not None
    before, size = row
    count = 0
    for first in range(0, int(size), pages):
        step = {"first": f"({first},0)", "end": f"({first + pages},0)", "before": before}
        count += (await connection.execute(_STEP, step)).rowcount
        report(count)
    return count


async def keep_pruned(url: str, older_than: timedelta, *, every: timedelta) -> None:
    """Prune now and then, until cancelled; of several processes one does it."""
    while True:
        try:
            async with await AsyncConnection.connect(
                url, autocommit=True, connect_timeout=5
            ) as connection:
                row = await (
                    await connection.execute("SELECT pg_try_advisory_lock(%s)", (_PRUNING,))
                ).fetchone()
                if row is not None and row[0]:
                    count = await prune(connection, older_than)
                    if count:
                        _log.info("old command ids forgotten", commands=count)
        except psycopg.Error as error:
            _log.warning("pruning later", error=str(error).strip())
        await asyncio.sleep(every.total_seconds())
