"""Reads events that Postgres does not hold any more, from the archive's segments.

Events of Postgres and of the archive are put together so that nobody sees a seam: what is asked
for in a dropped range comes from the archive alone, the rest from Postgres alone. Each statement
says in its own snapshot whether a part of its range is dropped, so a drop between two of them goes
unnoticed, and so does a restore. Files are read off the event loop, in threads of their own, and
while no connection is held: a store that is slow or away holds up who needs it and nobody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import astuple
from datetime import datetime
from functools import partial
from threading import Lock
from typing import Any, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import polars as pl
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row, tuple_row

from eventstore.archive.object_store import ArchiveDamaged, ArchiveUnavailable, ObjectStore
from eventstore.archive.segments import Segment, location, parse, read_rows, stored_events
from eventstore.stored import COLUMNS, LogUnavailable, StoredEvent

T = TypeVar("T")
#: Gives a connection for some statements.
Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]]

#: True where no position behind ``after`` and not beyond ``last`` is dropped. As a condition beside
#: others it is looked at once, before the first row: a range with a dropped part gives no rows.
PRESENT = """(SELECT NOT EXISTS (SELECT FROM segments AS dropped
    WHERE dropped.dropped_at IS NOT NULL
        AND dropped.last_position > %(after)s AND dropped.first_position <= %(last)s))"""
_DROPPED = """SELECT s.manifest, (SELECT a.url FROM {0}archive_store a) FROM {0}segments s
    WHERE s.dropped_at IS NOT NULL AND s.last_position > %s AND s.first_position <= %s
    ORDER BY s.number"""
_OF_STREAMS = """SELECT c.stream_id, c.number, s.manifest, (SELECT a.url FROM {0}archive_store a)
    FROM {0}cold_streams c JOIN {0}segments s USING (number)
    WHERE c.stream_id = ANY(%s) ORDER BY c.number"""
# One row at least: whether a part is dropped, in the snapshot of the events.
BETWEEN = f"""SELECT NOT {PRESENT}, found.* FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
        SELECT {COLUMNS} FROM events
        WHERE notification_id > %(after)s AND notification_id <= %(last)s
            AND (%(organisation)s::uuid IS NULL OR organisation_id = %(organisation)s)
            AND (%(topics)s::text[] IS NULL OR topic = ANY(%(topics)s)) AND {PRESENT}
        ORDER BY notification_id LIMIT %(limit)s
    ) AS found ON true ORDER BY position"""
_STREAMS = f"""SELECT {COLUMNS} FROM unnest(%s::uuid[], %s::bigint[]) AS wanted (id, seen)
    JOIN events ON originator_id = wanted.id AND originator_version > wanted.seen
    ORDER BY originator_id, originator_version"""
_HERE = "SELECT notification_id FROM events WHERE notification_id = ANY(%s)"
# In the order of a StoredEvent.
_BRING_BACK = """INSERT INTO events (notification_id, originator_id, originator_version, topic,
        state, event_id, organisation_id, recorded_at, correlation_id, causation_id, actor)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""
#: Rows of a file that are read at once, and how many such pieces are kept.
_PIECE = 25_000
_KEPT = 4
_THREADS = 2
#: How often what was dropped or put back in the middle of a read is read again.
ATTEMPTS = 5


class Archived(NamedTuple):
    """A dropped segment, and where its files are."""

    segment: Segment
    url: str


class Cold:
    """Events of dropped segments. What was read last is kept: who reads on does so from memory.

    Args:
        patience_s: how long files may take before ``ArchiveUnavailable``.
    """

    def __init__(self, *, patience_s: float = 15.0) -> None:
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="archive")
        self._stores: dict[str, ObjectStore] = {}
        self._pieces: OrderedDict[tuple[str, str, int], pl.DataFrame] = OrderedDict()
        self._lock = Lock()

    async def between(
        self,
        connect: Connect,
        after: int,
        to: int,
        limit: int,
        *,
        organisation_id: UUID | None = None,
        topics: Collection[str] | None = None,
    ) -> list[StoredEvent]:
        """At most ``limit`` events behind ``after`` and not beyond ``to``, in log order, wherever
        they are.

        Raises:
            ArchiveUnavailable: a file of the archive is needed and cannot be read.
        """
        found: list[StoredEvent] = []
        until = to  # up to where Postgres is asked
        while after < to and len(found) < limit:
            room = limit - len(found)
            async with connect() as connection:
                rows = await present(
                    connection, after, until, room, organisation_id=organisation_id, topics=topics
                )
                dropped = [] if rows is not None else await self.dropped(connection, after, to)
            if rows is not None:
                found += rows
                after, until = until, to
            elif dropped and dropped[0].segment.first <= after + 1:
                end = min(to, dropped[0].segment.last)
                found += await self._read(
                    self.events, dropped[0], after, end, room, organisation_id, topics
                )
                after, until = end, to
            else:  # nothing any more: it was put back
                until = dropped[0].segment.first - 1 if dropped else to
        return found

    async def dropped(
        self, connection: AsyncConnection[Any], after: int, to: int
    ) -> list[Archived]:
        """The dropped segments with a part of a range, in their order."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_within(_DROPPED, None), (after, to))
            return [_archived(*row) for row in await cursor.fetchall()]

    async def streams(
        self, connect: Connect, seen: Mapping[UUID, int]
    ) -> dict[UUID, list[StoredEvent]]:
        """All events of some streams, each behind the version that was seen of it, wherever they
        are.

        Raises:
            ArchiveUnavailable: a file of the archive is needed and cannot be read.
            LogUnavailable: a stream has a hole.
        """
        for _ in range(ATTEMPTS):
            hot: dict[UUID, list[StoredEvent]] = {stream_id: [] for stream_id in seen}
            async with connect() as connection:
                async with connection.cursor(
                    row_factory=class_row(StoredEvent), binary=True
                ) as cursor:
                    await cursor.execute(_STREAMS, (list(seen), list(seen.values())))
                    for event in await cursor.fetchall():
                        hot[event.stream_id].append(event)
                async with connection.cursor(row_factory=tuple_row) as cursor:
                    await cursor.execute(_within(_OF_STREAMS, None), (list(seen),))
                    rows = await cursor.fetchall()
            if rows:
                cold = await self._read(self.of_streams, rows, seen)
                hot = {stream_id: merged(hot[stream_id], cold[stream_id]) for stream_id in seen}
            if all(gapless(events, seen[stream_id]) for stream_id, events in hot.items()):
                return hot
            # What was put back between the two statements is in neither answer.
        raise LogUnavailable("a stream has a hole: neither Postgres nor the archive has its events")

    async def at(self, connect: Connect, positions: Collection[int]) -> dict[int, StoredEvent]:
        """The events at some positions, as far as they are dropped."""
        async with connect() as connection:
            dropped = await self.dropped(connection, min(positions) - 1, max(positions))

        def work() -> dict[int, StoredEvent]:
            found: dict[int, StoredEvent] = {}
            for one in dropped:
                span = range(one.segment.first, one.segment.last + 1)
                for position in sorted(position for position in positions if position in span):
                    [found[position]] = self.events(one, position - 1, position)
            return found

        return await self._read(work) if dropped else {}

    async def bring_back(self, connection: AsyncConnection[Any], positions: list[int]) -> None:
        """Put the events at some positions into Postgres again, as far as they are dropped: what
        names an event by its position finds it there."""
        cursor = await connection.execute(_HERE, (positions,))
        here = {position for (position,) in await cursor.fetchall()}
        missing = [position for position in positions if position not in here]
        if missing and (found := await self.at(on(connection), missing)):
            async with connection.cursor() as writing:
                await writing.executemany(_BRING_BACK, [astuple(one) for one in found.values()])

    async def position_at(
        self, connect: Connect, moment: datetime, after: int, to: int
    ) -> int | None:
        """The last position behind ``after`` and not beyond ``to``, all of them dropped, that was
        recorded at or before a moment; ``after`` if there is none. None: they are not dropped."""
        async with connect() as connection:
            dropped = await self.dropped(connection, after, to)

        def work() -> int:
            for one in reversed(dropped):
                rows = read_rows(
                    self._store(one.url),
                    one.segment,
                    after,
                    to,
                    columns=("position", "recorded_at"),
                )
                earlier = rows.filter(pl.col("recorded_at") <= moment)
                if earlier.height:
                    return int(earlier["position"][-1])
            return after

        return await self._read(work) if dropped else None

    async def rows(
        self, connection: AsyncConnection[Any], after: int, to: int, *, size: int = 5_000
    ) -> AsyncIterator[list[StoredEvent]]:
        """All events behind ``after`` and not beyond ``to`` in log order, in lists of at most
        ``size``, wherever they are."""
        while after < to:
            found = await self.between(on(connection), after, to, size)
            if not found:
                return
            yield found
            after = found[-1].position

    async def _read(self, work: Callable[..., T], *args: object) -> T:
        """Read files in a thread. One that hangs keeps its thread; who waits is told."""
        try:
            async with asyncio.timeout(self._patience_s):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, partial(work, *args))
        except TimeoutError as error:
            raise ArchiveUnavailable("the archive did not answer in time") from error

    # files, off the event loop

    def events(
        self,
        archived: Archived,
        after: int,
        to: int,
        limit: int | None = None,
        organisation_id: UUID | None = None,
        topics: Collection[str] | None = None,
        actor: str | None = None,
    ) -> list[StoredEvent]:
        """At most ``limit`` events of a dropped segment behind ``after`` and not beyond ``to``."""
        segment = archived.segment
        found: list[StoredEvent] = []
        after, to = max(after, segment.first - 1), min(to, segment.last)
        while after < to and (limit is None or len(found) < limit):
            start = (after - segment.first + 1) // _PIECE * _PIECE + segment.first - 1
            end = min(to, start + _PIECE)
            rows = self._piece(archived, start).filter(
                pl.col("position").is_between(after + 1, end)
            )
            if organisation_id is not None:
                rows = rows.filter(pl.col("organisation_id") == pl.lit(organisation_id.bytes))
            if topics is not None:
                rows = rows.filter(pl.col("topic").is_in(list(topics)))
            if actor is not None:
                rows = rows.filter(pl.col("actor") == actor)
            found += stored_events(rows if limit is None else rows.head(limit - len(found)))
            after = end
        return found

    def of_streams(
        self, rows: Sequence[tuple[UUID, int, bytes, str | None]], seen: Mapping[UUID, int]
    ) -> dict[UUID, list[StoredEvent]]:
        """As ``streams``, of rows of ``cold_streams`` with the manifests of their segments."""
        found: dict[UUID, list[StoredEvent]] = {stream: [] for stream in seen}
        by_segment: dict[int, tuple[Archived, list[UUID]]] = {}
        for stream, number, manifest, url in rows:
            if number not in by_segment:
                by_segment[number] = (_archived(manifest, url), [])
            by_segment[number][1].append(stream)
        for archived, streams in by_segment.values():
            segment = archived.segment
            kept = read_rows(
                self._store(archived.url), segment, segment.first - 1, segment.last, streams=streams
            )
            for event in stored_events(kept):
                if event.version > seen[event.stream_id]:
                    found[event.stream_id].append(event)
        return found

    def _piece(self, archived: Archived, start: int) -> pl.DataFrame:
        """The rows of a segment from behind ``start`` on, as many as are read at once."""
        segment = archived.segment
        key = (archived.url, segment.log.sha256, start)
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
        end = min(segment.last, start + _PIECE)
        rows = read_rows(self._store(archived.url), segment, start, end)
        if rows.height != end - start:
            raise ArchiveDamaged(f"{segment.log.path} of the archive lacks rows behind {start:,}")
        with self._lock:
            self._pieces[key] = rows
            while len(self._pieces) > _KEPT:
                self._pieces.popitem(last=False)
        return rows

    def _store(self, url: str) -> ObjectStore:
        if url not in self._stores:
            self._stores[url] = ObjectStore(url)
        return self._stores[url]


def dropped_segments(
    connection: psycopg.Connection[Any], after: int, to: int, schema: str | None = None
) -> list[Archived]:
    """As ``Cold.dropped``, for who has no event loop. ``schema``: where the log's tables are, if
    not on the search path."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_within(_DROPPED, schema), (after, to))
        return [_archived(*row) for row in cursor.fetchall()]


def dropped_rows(connection: psycopg.Connection[Any], after: int, to: int) -> Iterator[StoredEvent]:
    """All events of the dropped segments behind ``after`` and not beyond ``to``, in log order; what
    Postgres still has of these ranges is among them.

    Raises:
        ArchiveUnavailable: a file of the archive is needed and cannot be read.
    """
    cold = Cold()
    for one in dropped_segments(connection, after, to):
        start = max(after, one.segment.first - 1)
        while start < min(to, one.segment.last):
            events = cold.events(one, start, to, _PIECE)
            yield from events
            start = events[-1].position


def dropped_of_stream(
    connection: psycopg.Connection[Any],
    stream_id: UUID,
    seen: int,
    schema: str | None = None,
) -> list[StoredEvent]:
    """The dropped events of a stream behind a version, for who has no event loop."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_within(_OF_STREAMS, schema), ([stream_id],))
        rows = cursor.fetchall()
    return Cold().of_streams(rows, {stream_id: seen})[stream_id] if rows else []


def on(connection: AsyncConnection[Any]) -> Connect:
    """A connection that somebody holds anyway."""
    return lambda: nullcontext(connection)


async def present(
    connection: AsyncConnection[Any],
    after: int,
    to: int,
    limit: int,
    *,
    organisation_id: UUID | None = None,
    topics: Collection[str] | None = None,
) -> list[StoredEvent] | None:
    """At most ``limit`` events of a range, in log order; None: a part of it is dropped."""
    bound = range_of(after, to, limit, organisation_id=organisation_id, topics=topics)
    async with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        # Planned each time: a plan made while the log was short would read all of it later on.
        await cursor.execute(BETWEEN, bound, prepare=False)
        return found_between(await cursor.fetchall())


def range_of(
    after: int,
    to: int,
    limit: int,
    *,
    organisation_id: UUID | None = None,
    topics: Collection[str] | None = None,
) -> dict[str, Any]:
    """The parameters of ``BETWEEN``."""
    return {
        "after": after,
        "last": to,
        "organisation": organisation_id,
        "topics": None if topics is None else list(topics),
        "limit": limit,
    }


def found_between(rows: Sequence[tuple[Any, ...]]) -> list[StoredEvent] | None:
    """What ``BETWEEN`` found; None: a part of the range is dropped."""
    if rows[0][0]:
        return None
    return [StoredEvent(*row[1:]) for row in rows if row[1] is not None]


def gapless(events: Sequence[StoredEvent], seen: int) -> bool:
    """Whether these can be all events of a stream behind a version; the newest is never dropped."""
    if not events:
        return True
    first, last = events[0].version, events[-1].version
    return first <= max(seen, 0) + 1 and last - first + 1 == len(events)


def merged(hot: Sequence[StoredEvent], cold: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events of a stream in order: those of Postgres, and those that it does not hold.

    Raises:
        ArchiveDamaged: the two say different things.
    """
    by_version = {event.version: event for event in cold}
    for event in hot:
        if by_version.setdefault(event.version, event) != event:
            raise ArchiveDamaged(
                f"the event at position {event.position:,} is another one in Postgres than in the "
                "archive"
            )
    return [by_version[version] for version in sorted(by_version)]


def _within(query: LiteralString, schema: str | None) -> sql.Composed:
    where = sql.SQL("") if schema is None else sql.SQL("{}.").format(sql.Identifier(schema))
    return sql.SQL(query).format(where)


def _archived(manifest: bytes, url: str | None) -> Archived:
    return Archived(parse(bytes(manifest), dropped=True), location(url))
