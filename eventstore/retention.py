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
# By ranges of places in the table: each page is looked at once, however much was deleted before it.
_STEP = """
WITH old AS MATERIALIZED (
    SELECT ctid FROM commands
    WHERE ctid > %(behind)s::tid AND recorded_at < %(before)s ORDER BY ctid LIMIT %(step)s
), gone AS (
    DELETE FROM commands WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT max(ctid)::text FROM old)"""
_log = structlog.get_logger(__name__)


async def prune(
    connection: AsyncConnection[TupleRow],
    older_than: timedelta,
    *,
    step: int = 5000,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Forget commands accepted longer ago than ``older_than``; how many those were.

    A retry of a forgotten command is run as a new one. Each step is a transaction of its own and
    locks the rows that it deletes, nothing else. ``report`` is told the count after each.

    Raises:
        psycopg.Error: the database refused; what was forgotten before stays so.
    """
    row = await (await connection.execute("SELECT now() - %s", (older_than,))).fetchone()
    assert row is not None
    behind, count = "(0,0)", 0
    while True:
        found = await (
            await connection.execute(_STEP, {"behind": behind, "before": row[0], "step": step})
        ).fetchone()
        assert found is not None
        if found[1] is None:
            return count
        count, behind = count + int(found[0]), found[1]
        report(count)


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
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _log.warning("pruning later", error=str(error).strip())
        await asyncio.sleep(every.total_seconds())
