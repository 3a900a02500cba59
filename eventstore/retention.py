"""How long each class of record is kept, and its end, in small steps that no append waits for.

Events are not among them: they are never deleted, only moved to the archive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

_PRUNING = 0x_C4A1_0003
#: Tables whose rows have an end, and the column that says how old a row is.
_AGE: Mapping[str, str] = {
    "commands": "recorded_at",
    "attempts": "last_at",
    "personal_access": "at",
}
# By ranges of pages: each is read once, however much was deleted before it.
_STEP = """DELETE FROM {table}
WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid AND {age} < %(before)s"""
_SIZE = """SELECT now() - %s,
    pg_relation_size({name}::regclass) / current_setting('block_size')::bigint"""
_KEPT = "SELECT count(*), min({age}) FROM {table}"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each class of record is kept; None: for ever.

    Attributes:
        answers: of accepted commands, so that a retry gets the first one.
        who_did_what: accepted commands with actor and roles, and attempts that were not taken. A
            command's answer and its line are one row, kept for the longer of the two.
        personal_access: who looked at whose personal data.
    """

    answers: timedelta | None = None
    who_did_what: timedelta | None = None
    personal_access: timedelta | None = None

    @property
    def by_table(self) -> Mapping[str, timedelta | None]:
        """How long the rows of each table are kept."""
        forever = self.answers is None or self.who_did_what is None
        longest = None if forever else max(self.answers, self.who_did_what)  # type: ignore[type-var]
        return {
            "commands": longest,
            "attempts": self.who_did_what,
            "personal_access": self.personal_access,
        }


class Kept(NamedTuple):
    """What there is of a class of record, and how long it is kept in days; None: for ever."""

    table: str
    days: int | None
    rows: int
    oldest: datetime | None


async def kept(connection: AsyncConnection[TupleRow], retention: Retention) -> list[Kept]:
    """What there is of each class of record; the tables are counted."""
    found: list[Kept] = []
    for table, duration in retention.by_table.items():
        row = await (await connection.execute(_of(table, _KEPT))).fetchone()
        assert row is not None
        days = None if duration is None else duration.days
        found.append(Kept(table, days, *row))
    return found


async def prune(
    connection: AsyncConnection[TupleRow],
    older_than: timedelta,
    *,
    table: str = "commands",
    pages: int = 128,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Forget what is older than ``older_than``; how many rows those were.

    A retry of a forgotten command is run as a new one. Each step looks at so many ``pages`` of the
    table, in a transaction of its own, and locks the rows that it deletes, nothing else.
    ``report`` is told the count after each.

    Raises:
        psycopg.Error: the database refused; what was forgotten before stays so.
    """
    row = await (await connection.execute(_of(table, _SIZE), (older_than,))).fetchone()
    assert row is not None
    before, size = row
    count = 0
    for first in range(0, int(size), pages):
        step = {"first": f"({first},0)", "end": f"({first + pages},0)", "before": before}
        count += (await connection.execute(_of(table, _STEP), step)).rowcount
        report(count)
    return count


async def keep_pruned(url: str, retention: Retention, *, every: timedelta) -> None:
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
                    for table, older_than in retention.by_table.items():
                        if older_than is not None:
                            count = await prune(connection, older_than, table=table)
                            if count:
                                _log.info("old records forgotten", table=table, rows=count)
        except psycopg.Error as error:
            _log.warning("pruning later", error=str(error).strip())
        await asyncio.sleep(every.total_seconds())


def _of(table: str, query: str) -> sql.Composed:
    """A query about one of the tables."""
    return sql.SQL(query).format(
        table=sql.Identifier(table), age=sql.Identifier(_AGE[table]), name=sql.Literal(table)
    )
