"""Runs the read models: live behind the log, and rebuilt beside and swapped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import polars as pl
import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.log import Connection, StoredEvent, read_after
from eventstore.subscription import follow
from projections import store
from projections.engine import contributions, merge
from projections.fold import Table
from projections.frames import decode, wanted

_log = structlog.get_logger(__name__)
_CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
#: Called with events done and events in all.
Progress = Callable[[int, int], None]


class Projector:
    """Keeps read models behind the log: rows and position in one transaction, exactly once.

    All tables share the reading and decoding of a batch. Where one of them fails, it stops alone
    with its error written beside its position, and the others go on. A table that was folded from
    a log that is no longer there (a backup was restored) is rebuilt, never folded further.

    Args:
        url: libpq connection string.
        tables: the declarations to run.
        batch: events in one transaction.
    """

    def __init__(self, url: str, tables: Sequence[Table], *, batch: int = 5000) -> None:
        self._url = url
        self._tables = list(tables)
        self._batch = batch

    async def prepare(self) -> None:
        """Create missing tables; rebuild those that another declaration or another log made."""
        async with await self._connect() as connection:
            await store.prepare(connection, self._tables)
            outdated = await store.outdated(connection, self._tables)
        for table in outdated:
            _log.info("declaration or log changed, rebuilding", table=table.name)
            await self.rebuild(table, if_outdated=True)

    async def run(self) -> None:
        """Follow the log for ever; survives a restart of the server by itself."""
        await follow(self._url, "projector", self.step)

    async def catch_up(self) -> int:
        """Fold what the log holds now; the position reached."""
        async with await self._connect() as connection:
            while await self.step(connection):
                pass
            positions = await store.progress(connection, self._tables)
        return min((known.position for known in positions.values()), default=0)

    async def step(self, connection: Connection) -> bool:
        """Fold one batch into the tables that are furthest behind; whether there was one."""
        moved, lost = False, list[Table]()
        try:
            async with connection.transaction():
                moved, lost = await self._fold(connection, self._tables)
        except _CONNECTION_ERRORS:
            raise
        except Exception as error:
            _log.error("batch failed, folding table by table", error=str(error))
            for table in self._tables:
                async with self._stopping_alone(connection, table), connection.transaction():
                    one_moved, one_lost = await self._fold(connection, [table])
                    moved, lost = moved or one_moved, lost + one_lost
        for table in lost:
            _log.warning("the log is another one, rebuilding", table=table.name)
            async with self._stopping_alone(connection, table):
                await self.rebuild(table, if_outdated=True)
                moved = True
        return moved

    @staticmethod
    @asynccontextmanager
    async def _stopping_alone(connection: Connection, table: Table) -> AsyncIterator[None]:
        """An error stops this table, with the error written beside its position, and no other."""
        try:
            yield
        except _CONNECTION_ERRORS:
            raise
        except Exception as error:
            _log.error("projection stopped", table=table.name, error=str(error))
            await connection.execute(
                "UPDATE projections SET error = %s WHERE name = %s", (str(error), table.name)
            )

    async def _fold(
        self, connection: Connection, tables: Sequence[Table]
    ) -> tuple[bool, list[Table]]:
        """Whether there was a batch, and the tables that were left out: their log is gone."""
        # The row locks keep a second projector out until this batch is committed.
        known = await store.progress(connection, tables, lock=True)
        # A table that somebody rebuilt by another declaration is theirs: our columns are not its.
        tables = [
            table
            for table in tables
            if table.name in known and known[table.name].fingerprint == table.fingerprint
        ]
        lost = await store.diverged(connection, tables)
        tables = [table for table in tables if table not in lost]
        known = {table.name: known[table.name] for table in tables}
        if not known:
            return False, lost
        start = min(one.position for one in known.values())
        events = await read_after(connection, start, self._batch)
        if not events:
            return False, lost
        behind = [table for table in tables if known[table.name].position == start]
        limit = min((one.position for one in known.values() if one.position > start), default=None)
        if limit is not None:  # a batch must not run past a table that is further on
            events = [event for event in events if event.position <= limit]
        await self._write(connection, behind, events)
        await store.advance(connection, behind, events[-1])
        return True, lost

    @staticmethod
    async def _write(
        connection: Connection, tables: Sequence[Table], events: Sequence[StoredEvent]
    ) -> None:
        frames = decode(events, wanted(tables))
        for table in tables:
            part = merge(table, [contributions(table, frames)])
            await store.write_part(connection, table, part)

    async def rebuild(
        self, table: Table, report: Progress | None = None, *, if_outdated: bool = False
    ) -> int:
        """Fold the whole log into a new table beside the live one, then swap; events folded.

        Readers see the old rows until the swap, and the new ones after it. With ``if_outdated``
        nothing is done where another runner has rebuilt the table meanwhile.
        """
        async with (
            await self._connect() as connection,
            await self._connect() as writing,
            # Once read, the log cannot be replaced before the swap: a restore waits for its lock.
            connection.transaction(),
        ):
            # Two rebuilds of one table would write into one another's new table.
            await store.lock_rebuild(writing, table)
            if if_outdated and not await store.outdated(writing, [table]):
                return 0
            await store.create(writing, table, store.NEXT)
            head = await _head(connection)
            position, done = 0, 0
            last: UUID | None = None
            parts: list[pl.DataFrame] = []
            while position < head:
                events = await read_after(connection, position, 4 * self._batch)
                events = [event for event in events if event.position <= head]
                if not events:
                    break
                part = merge(table, [contributions(table, decode(events, wanted([table])))])
                # A merged table stays as small as its rows; a row for each event goes out at once.
                if table.every_event:
                    await store.copy_part(writing, table, part, store.NEXT)
                else:
                    parts = [merge(table, [*parts, part])]
                position, last = events[-1].position, events[-1].event_id
                done += len(events)
                if report is not None:
                    report(done, head)
                if position >= head:
                    # What came in meanwhile is folded here too: little is left for the swap, which
                    # readers wait for.
                    newer = await _head(connection)
                    head = newer if newer - head > self._batch else head
            for part in parts:
                await store.copy_part(writing, table, part, store.NEXT)
            async with writing.transaction():
                known = await store.progress(writing, [table], lock=True)
                live = known[table.name].position if table.name in known else position
                if await store.diverged(writing, [table]):
                    live = position  # of another log: it says nothing about this one
                await store.swap(writing, table)
                # What came in meanwhile and was folded into the old table is folded here, so that
                # no reader is thrown back behind a position that it has seen.
                while position < live:
                    events = await read_after(writing, position, self._batch)
                    events = [event for event in events if event.position <= live]
                    await self._write(writing, [table], events)
                    position, last = events[-1].position, events[-1].event_id
                    done += len(events)
                await store.set_progress(writing, table, position, last)
        return done

    async def _connect(self) -> Connection:
        return await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5)


async def _head(connection: Connection) -> int:
    row = await (await connection.execute("SELECT position FROM log_head")).fetchone()
    assert row is not None
    return int(row[0])
