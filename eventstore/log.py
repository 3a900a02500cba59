"""The log as values, and how it is read: by position, by stream, by command."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row
from psycopg_pool import AsyncConnectionPool

from eventstore.archive.cold import ATTEMPTS, Cold, gapless, on, present
from eventstore.organisation_log import OrganisationLog, pooled
from eventstore.stored import AT, COLUMNS, STREAMS
from eventstore.stored import LogUnavailable as LogUnavailable
from eventstore.stored import StoredEvent as StoredEvent

Connection = AsyncConnection[TupleRow]


class NewEvent(NamedTuple):
    """An event about to be appended: stream, its version there, topic and stored bytes."""

    stream_id: UUID
    version: int
    topic: str
    state: bytes


class Entry(NamedTuple):
    """One command's part of an append: who asked, what is remembered of it, and its events.

    ``digest`` tells a retry (same id, same digest) from a reused id. ``stream`` and ``version``
    are the answer that a retry gets. ``command`` and ``roles`` say what was asked, and as whom.
    """

    command_id: UUID
    digest: bytes
    stream: str
    version: int
    organisation_id: UUID
    actor: str
    correlation_id: UUID
    causation_id: UUID | None
    events: Sequence[NewEvent]
    command: str = ""
    roles: frozenset[str] = frozenset()


class Unit(NamedTuple):
    """Entries that are stored together or not at all, if every stream has its expected version.

    ``expected`` names streams that are appended to and streams that were only read;
    0 says that a stream must not exist.
    """

    entries: Sequence[Entry]
    expected: Mapping[UUID, int] = MappingProxyType({})


class Receipt(NamedTuple):
    """The answer to a stored command. ``position``: of its last event in the log."""

    stream: str
    version: int
    position: int
    repeated: bool = False


class VersionConflict(Exception):
    """A stream was not at its expected version."""

    def __init__(self, stream_id: UUID, expected: int, actual: int) -> None:
        self.stream_id, self.expected, self.actual = stream_id, expected, actual
        super().__init__(f"stream {stream_id}: expected version {expected}, found {actual}")


class CommandReused(Exception):
    """A command id came back with another payload."""

    def __init__(self, command_id: UUID) -> None:
        self.command_id = command_id
        super().__init__(f"command id {command_id} was used before with another payload")


class RepeatedCommands(Exception):
    """Commands of a unit with several entries are in the log already."""

    def __init__(self, receipts: Mapping[UUID, Receipt]) -> None:
        self.receipts = receipts
        super().__init__(f"{len(receipts)} commands of the unit are in the log already")


class PredecessorFailed(Exception):
    """The unit was to be stored behind another one, which was not stored; nor was it."""


_HEAD = "SELECT position FROM log_head"
_AFTER = (
    f"SELECT {COLUMNS} FROM events WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
)
# And the next one that Postgres holds: between the two everything is dropped.
_POSITION_AT = """SELECT found.position, coalesce((SELECT min(e.notification_id) FROM events e
    WHERE e.notification_id > found.position), found.position + 1)
FROM position_at(%s) AS found (position)"""
_COMMANDS = """SELECT command_id, digest, stream, version, position
    FROM commands WHERE command_id = ANY(%s)"""


class Log:
    """Reads the log through a pool of connections.

    Args:
        pool: connections of the log's owner.
        queries: connections of the role that queries run as (docs/adr/0035).
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        queries: AsyncConnectionPool[Connection] | None = None,
    ) -> None:
        self._pool = pool
        self._queries = queries
        self._cold = Cold()

    def of(self, organisation_id: UUID) -> OrganisationLog:
        """The log as one organisation may see it.

        Raises:
            ValueError: it was opened without connections for queries.
        """
        if self._queries is None:
            raise ValueError("the log was opened without connections for queries")
        return OrganisationLog(self._queries, self._cold, organisation_id)

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A pooled connection; LogUnavailable if none comes free in time."""
        return pooled(self._pool)

    async def head(self) -> int:
        """The last position given; 0 for an empty log."""
        async with self.connection() as connection:
            row = await (await connection.execute(_HEAD)).fetchone()
        assert row is not None
        return int(row[0])

    async def after(self, position: int, limit: int) -> list[StoredEvent]:
        """At most ``limit`` events behind ``position``, in log order."""
        async with self.connection() as connection:
            found = await _hot_after(connection, position, limit)
        if _is_whole(found, position):
            return found
        return await self._cold.between(self.connection, position, found[-1].position, limit)

    async def after_of(
        self, organisation_id: UUID, position: int, limit: int, *, to: int
    ) -> list[StoredEvent]:
        """As ``after``, of one organisation and not beyond position ``to``."""
        async with self.connection() as connection:
            found = await present(connection, position, to, limit, organisation_id=organisation_id)
        if found is not None:
            return found
        return await self._cold.between(
            self.connection, position, to, limit, organisation_id=organisation_id
        )

    async def at(self, positions: Sequence[int]) -> dict[int, StoredEvent]:
        """The events at some positions, as far as they are there."""
        found: dict[int, StoredEvent] = {}
        missing = list(positions)
        # Twice: what was put back between the two questions is in neither answer.
        for _ in range(2):
            async with (
                self.connection() as connection,
                connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor,
            ):
                await cursor.execute(AT, (missing,))
                found |= {event.position: event for event in await cursor.fetchall()}
            if missing := [position for position in missing if position not in found]:
                found |= await self._cold.at(self.connection, missing)
            if not (missing := [position for position in missing if position not in found]):
                break
        return found

    async def position_at(self, moment: datetime) -> int:
        """The last position recorded at or before a moment with zone; 0 before the first event.

        What was known then is what the log held up to that position.
        """
        position = 0
        for _ in range(ATTEMPTS):
            async with self.connection() as connection:
                row = await (await connection.execute(_POSITION_AT, (moment,))).fetchone()
            assert row is not None
            position, following = row
            if following == position + 1:
                return int(position)
            found = await self._cold.position_at(self.connection, moment, position, following - 1)
            if found is not None:
                return found
        raise LogUnavailable(f"the log has a hole behind position {position:,}")

    async def streams(self, stream_ids: Collection[UUID]) -> dict[UUID, list[StoredEvent]]:
        """All events of some streams in one round trip; an empty list for an unknown one."""
        found: dict[UUID, list[StoredEvent]] = {stream_id: [] for stream_id in stream_ids}
        async with (
            self.connection() as connection,
            connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor,
        ):
            await cursor.execute(STREAMS, (list(found),))
            for event in await cursor.fetchall():
                found[event.stream_id].append(event)
        lacking = {one: -1 for one, events in found.items() if not gapless(events, -1)}
        if lacking:
            found |= await self._cold.streams(self.connection, lacking)
        return found

    async def answers(self, command_ids: Collection[UUID]) -> dict[UUID, tuple[bytes, Receipt]]:
        """Digest and first answer of those of the commands that are in the log.

        Raises:
            LogUnavailable: the database did not answer in the time that the pool gives.
        """
        try:
            async with asyncio.timeout(self._pool.timeout), self.connection() as connection:
                rows = await (await connection.execute(_COMMANDS, (list(command_ids),))).fetchall()
        except TimeoutError as error:
            raise LogUnavailable("the database did not answer in time") from error
        return {
            command_id: (digest, Receipt(stream, version, position, repeated=True))
            for command_id, digest, stream, version, position in rows
        }


async def read_after(
    connection: Connection, position: int, limit: int, cold: Cold | None = None
) -> list[StoredEvent]:
    """At most ``limit`` events behind ``position``, read on the caller's own connection.

    ``cold``: reads what Postgres does not hold any more; who reads on and on passes its own.
    """
    found = await _hot_after(connection, position, limit)
    if _is_whole(found, position):
        return found
    return await (cold or Cold()).between(on(connection), position, found[-1].position, limit)


async def _hot_after(connection: Connection, position: int, limit: int) -> list[StoredEvent]:
    async with connection.cursor(row_factory=class_row(StoredEvent), binary=True) as cursor:
        await cursor.execute(_AFTER, (position, limit))
        return await cursor.fetchall()


def _is_whole(found: Sequence[StoredEvent], position: int) -> bool:
    """Whether nothing is missing behind a position: positions have no gaps, and the last event is
    never dropped."""
    return not found or found[-1].position == position + len(found)
