"""The log as one organisation may see it: Postgres shows no row of another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import LiteralString
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow, class_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventstore.archive.cold import BETWEEN, Cold, found_between, gapless, range_of
from eventstore.stored import AT, STREAM_AFTER, STREAMS, LogUnavailable, StoredEvent

# Of the transaction alone: the next one on the connection sees nothing.
_OF: LiteralString = "SELECT set_config('chainlytics.organisation', %s, true)"


@asynccontextmanager
async def pooled(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
) -> AsyncIterator[AsyncConnection[TupleRow]]:
    """A connection of a pool.

    Raises:
        LogUnavailable: none came free in time.
    """
    try:
        async with pool.connection() as connection:
            yield connection
    except PoolTimeout as error:
        raise LogUnavailable("the database gave no connection in time") from error


class OrganisationLog:
    """Reads what is one organisation's through connections of the role that queries run as.

    Args:
        pool: its connections are of that role (docs/adr/0035), and commit each statement.
        cold: reads what Postgres does not hold any more.
        organisation_id: whose.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
        cold: Cold,
        organisation_id: UUID,
    ) -> None:
        self._pool = pool
        self._cold = cold
        self._organisation_id = organisation_id

    def connection(self) -> AbstractAsyncContextManager[AsyncConnection[TupleRow]]:
        """A pooled connection; LogUnavailable if none comes free in time. By itself it sees
        nobody's rows: see ``together``."""
        return pooled(self._pool)

    @asynccontextmanager
    async def together(
        self, connection: AsyncConnection[TupleRow], also: LiteralString = "NULL", *values: object
    ) -> AsyncIterator[AsyncCursor[TupleRow]]:
        """The statements sent in here are one transaction and one round trip, and see the
        organisation's rows. Fetch behind it: that would be a round trip more.

        ``also``: an expression that the first statement answers too, with its ``values``: its
        cursor's row is whose rows are seen, and this.
        """
        # A pipeline without BEGIN is one transaction until it is synced, which psycopg does at its
        # end.
        async with connection.pipeline():
            own = (str(self._organisation_id), *values)
            yield await connection.execute(f"{_OF}, {also}", own)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """A transaction that sees the organisation's rows, for who reads one thing after the other.

        Raises:
            LogUnavailable: no connection came free in time.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute(_OF, (str(self._organisation_id),))
            yield connection

    async def after(self, position: int, limit: int, *, to: int) -> list[StoredEvent]:
        """At most ``limit`` of the organisation's events behind ``position`` and not beyond ``to``,
        in log order."""
        own = self._organisation_id
        async with (
            self.connection() as connection,
            connection.cursor(row_factory=tuple_row, binary=True) as cursor,
        ):
            async with self.together(connection):
                # Planned each time: a plan made while the log was short would read all of it.
                bound = range_of(position, to, limit, organisation_id=own)
                await cursor.execute(BETWEEN, bound, prepare=False)
            found = found_between(await cursor.fetchall())
        if found is not None:
            return found
        return await self._cold.between(self.transaction, position, to, limit, organisation_id=own)

    async def at(self, positions: Sequence[int]) -> dict[int, StoredEvent]:
        """The organisation's events at some positions, wherever they are."""
        found: dict[int, StoredEvent] = {}
        missing = list(positions)
        # Twice: what was put back between the two questions is in neither answer.
        for _ in range(2):
            if not missing:
                break
            found |= {one.position: one for one in await self._read(AT, missing)}
            if missing := [position for position in missing if position not in found]:
                found |= await self._cold.at(self.transaction, missing)
                missing = [position for position in missing if position not in found]
        # Files of the archive hold everybody's events.
        own = self._organisation_id
        return {at: event for at, event in found.items() if event.organisation_id == own}

    async def streams(self, stream_ids: Collection[UUID]) -> dict[UUID, list[StoredEvent]]:
        """All events of some of the organisation's streams; an empty list for an unknown one."""
        found: dict[UUID, list[StoredEvent]] = {stream_id: [] for stream_id in stream_ids}
        for event in await self._read(STREAMS, list(found)):
            found[event.stream_id].append(event)
        lacking = {one: -1 for one, events in found.items() if not gapless(events, -1)}
        if lacking:
            found |= await self._cold.streams(self.transaction, lacking)
        return found

    async def stream_after(self, stream_id: UUID, version: int, limit: int) -> list[StoredEvent]:
        """At most ``limit`` events of one of the organisation's streams behind a version, in its
        order, wherever they are: a page of a long stream costs no more than one of a short one."""
        async with (
            self.connection() as connection,
            connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor,
        ):
            async with self.together(connection):
                await cursor.execute(STREAM_AFTER, (stream_id, version, limit))
            found = await cursor.fetchall()
        if gapless(found, version):
            return found
        return (await self._cold.streams(self.transaction, {stream_id: version}))[stream_id][:limit]

    async def _read(self, query: str, wanted: Sequence[int] | Sequence[UUID]) -> list[StoredEvent]:
        async with (
            self.connection() as connection,
            connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor,
        ):
            async with self.together(connection):
                await cursor.execute(query, (wanted,))
            return await cursor.fetchall()
