"""Reads the log into polars frames, off the loop: archived ranges from their segments' columns, the
rest as fast as Postgres gives it out (Arrow by ADBC).

Only committed events up to a known position are read, so the connection need not be the writer's.
Nobody above knows where events come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import polars as pl
import psycopg
import structlog
from psycopg import sql

from domain.values import Event
from eventstore.archive.cold import ATTEMPTS
from eventstore.archive.object_store import ArchiveUnavailable, ObjectStore
from eventstore.archive.segments import LOCATION, Segment, location, parse
from eventstore.columnar import ArrowConnection
from eventstore.log import LogUnavailable
from projections.frames import Wanted, decode_frame, wanted
from projections.log_queries import (
    PRESENT,
    about,
    between,
    of_topics,
    search,
    select,
    streams_of,
    texts_of,
)
from projections.segments import frames_of, rows_of
from projections.table import Table

_log = structlog.get_logger(__name__)
T = TypeVar("T")

#: What one window is to hold, in bytes of events; small enough that a few fit in any memory.
_WINDOW_BYTES = 12 * 2**20
_LEAST, _MOST = 1_000, 30_000
#: Bytes of a segment's rows, as they are packed, that one window is to hold.
_PACKED_BYTES = 12 * 2**20
#: Files that one reader reads at once, in threads of its own: folds do not wait for a slow store.
_FILES_AT_ONCE = 3
#: Positions that are searched for a text, and streams that are read, in one statement.
_SEARCHED_AT_ONCE = 500_000
_STREAMS_AT_ONCE = 5_000

# A segment is named by its number and when it was written: a log that was restored has others.
_SEGMENTS = """SELECT number, written_at, dropped_at IS NOT NULL AS dropped,
        (SELECT max(last_position) FROM segments) AS archived
    FROM segments WHERE last_position > {after} AND first_position <= {to} ORDER BY number"""
_MANIFESTS = "SELECT number, manifest FROM segments WHERE number = ANY({})"
_COLD_STREAMS = """SELECT DISTINCT s.number, s.written_at, true AS dropped
    FROM cold_streams c JOIN segments s USING (number)
    WHERE c.stream_id = ANY({}) AND s.first_position <= {} ORDER BY 1"""


class LogReader:
    """Reads windows of the log, and the events of some keys. One connection, one read at a time.

    Args:
        url: libpq connection string.
        hold: keep one transaction open from the first read on, so that the log is not replaced
            (a restore waits for it) until the reader is closed.
    """

    def __init__(self, url: str, *, hold: bool = False) -> None:
        self._url = url
        self._hold = hold
        self._connection: ArrowConnection | None = None
        self._turn = asyncio.Lock()
        self._files = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="segments")
        self._bytes_each = 512.0
        self._segments: dict[tuple[int, datetime], Segment] = {}
        self._store: ObjectStore | None = None
        # Up to where the archive goes, as far as was seen; None: nobody has looked.
        self._archived: int | None = None
        # Windows that were announced and not read yet, and their segments.
        self._ahead: dict[tuple[int, int], Segment] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._turn:
            self._close()

    async def window_end(self, after: int, to: int) -> int:
        """Where a window behind ``after`` is to end, ``to`` at the most: with an archived segment
        or an even part of it, or behind as many events as a few windows of fit in any memory."""
        if self._archived is None or after < self._archived:
            for segment in await self._look(after, after + 1):
                parts = -(-segment.log.bytes // _PACKED_BYTES)
                end = min(to, segment.last, after + -(-segment.events // parts))
                self._ahead[after, end] = segment
                return end
        return min(to, after + self.window)

    @property
    def window(self) -> int:
        """How many positions of Postgres to ask for at once, by the size that events had lately."""
        return int(min(max(_WINDOW_BYTES / self._bytes_each, _LEAST), _MOST))

    async def frames(
        self,
        fields: Wanted,
        after: int,
        to: int,
        organisation_id: UUID | None = None,
        without: Collection[int] = (),
    ) -> dict[type[Event], pl.DataFrame]:
        """The wanted fields of the events behind ``after`` and not beyond ``to``: a frame for each
        event type that occurs, in log order.

        Args:
            fields: which fields of which events.
            after: the position behind which events are read.
            to: the last position.
            organisation_id: only events of this organisation.
            without: positions of events that are not even decoded.

        Raises:
            NewerTopic: an event is of a version that this code does not know.
            ArchiveUnavailable: a file of the archive is needed and cannot be read.
            psycopg.OperationalError: the database cannot be read.
        """

        def archived(
            store: ObjectStore, segment: Segment, start: int, end: int
        ) -> dict[type[Event], pl.DataFrame]:
            return frames_of(store, segment, fields, start, end, organisation_id, without)

        def decoded(rows: pl.DataFrame) -> dict[type[Event], pl.DataFrame]:
            return decode_frame(left_out(rows, without), fields)

        query = between(fields, organisation_id)
        pieces = [
            piece
            if isinstance(piece, dict)
            else await asyncio.to_thread(decoded, self._measured(piece))
            for piece in await self._pieces(query, archived, after, to)
        ]
        if len(pieces) == 1:
            return pieces[0]
        found: dict[type[Event], list[pl.DataFrame]] = {}
        for piece in pieces:
            for kind, frame in piece.items():
                found.setdefault(kind, []).append(frame)
        return {
            kind: pl.concat([one.select(frames[0].columns) for one in frames])
            for kind, frames in found.items()
        }

    async def between(
        self, fields: Wanted, after: int, to: int, organisation_id: UUID | None = None
    ) -> pl.DataFrame:
        """The events that ``fields`` ask for, behind ``after`` and not beyond ``to``, in log order,
        as rows for ``frames.decode_frame``: what folds event by event when something is wrong.

        Raises:
            ArchiveUnavailable: a file of the archive is needed and cannot be read.
            psycopg.OperationalError: the database cannot be read.
        """

        def archived(store: ObjectStore, segment: Segment, start: int, end: int) -> pl.DataFrame:
            return rows_of(store, segment, fields, start, end, organisation_id)

        pieces = await self._pieces(between(fields, organisation_id), archived, after, to)
        rows = [self._measured(piece) for piece in pieces]
        return pl.concat(_alike(rows)) if len(rows) > 1 else rows[0]

    def _measured(self, rows: pl.DataFrame) -> pl.DataFrame:
        if rows.height:
            size = rows["state"].bin.size().mean()
            assert isinstance(size, float)
            # Half old, half new: one window of large events is not to make the next one tiny.
            self._bytes_each = (self._bytes_each + size + 200) / 2
        return rows

    async def of_keys(
        self, table: Table, keys: pl.DataFrame, to: int
    ) -> AsyncIterator[pl.DataFrame]:
        """All events up to a position that may say something about some keys of a table, in pieces
        and in no order: of their streams where the key names them, looked for in the log where it
        does not.

        Args:
            table: the declaration.
            keys: ``organisation_id`` and some or all of its other key columns.
            to: the last position that counts.
        """
        located: dict[UUID, None] = {}
        by_stream: dict[type[Event], set[str]] = {}
        by_search: dict[type[Event], set[str]] = {}
        for event, names in wanted([table]).items():
            streams = streams_of(table, event, keys)
            (by_search if streams is None else by_stream)[event] = names
            located |= dict.fromkeys(streams or ())
        ids = list(located)
        for start in range(0, len(ids), _STREAMS_AT_ONCE):
            some = ids[start : start + _STREAMS_AT_ONCE]
            yield await self._of_streams(by_stream, some, to)
        # Event types with the same texts to look for are found in one pass over the log.
        searches: dict[tuple[bytes, ...] | None, dict[type[Event], set[str]]] = {}
        for event, names in by_search.items():
            searches.setdefault(texts_of(table, event, keys), {})[event] = names
        for texts, fields in searches.items():
            where, kept = search(keys, texts, fields), about(keys, texts)
            size = self.window if texts is None else _SEARCHED_AT_ONCE
            for start in range(0, to, size):
                end = min(to, start + size)
                yield await self._searched(fields, start, end, where, kept)

    async def _of_streams(self, fields: Wanted, streams: list[UUID], to: int) -> pl.DataFrame:
        """The events of some streams up to a position."""
        where = sql.SQL("originator_id = ANY({}) AND {}").format(streams, of_topics(fields))
        present = sql.SQL(PRESENT).format(after=0, to=to)
        rows = await self._read(select(fields, 0, to, sql.SQL("{} AND {}").format(where, present)))
        if not rows.is_empty():
            return rows
        query = sql.SQL(_COLD_STREAMS).format(streams, to)

        async def dropped() -> list[Segment]:
            return await self._known(await self._read(query))

        kept = pl.col("stream_id").is_in([one.bytes for one in streams])
        return await self._with_dropped(select(fields, 0, to, where), dropped, fields, 0, to, kept)

    async def _searched(
        self, fields: Wanted, after: int, to: int, where: sql.Composed, kept: pl.Expr
    ) -> pl.DataFrame:
        """The events of a stretch that may say something about some keys."""

        async def dropped() -> list[Segment]:
            return await self._dropped(after, to)

        query = select(fields, after, to, where)
        return await self._with_dropped(query, dropped, fields, after, to, kept)

    async def _with_dropped(
        self,
        query: sql.Composed,
        dropped: Callable[[], Awaitable[list[Segment]]],
        fields: Wanted,
        after: int,
        to: int,
        kept: pl.Expr,
    ) -> pl.DataFrame:
        """Rows of Postgres, those of dropped segments from the archive, as far as ``kept``."""
        segments = await dropped()
        for _ in range(ATTEMPTS):
            rows = await self._read(query)
            # Asked before and after: what went or was put back meanwhile is not whole in the rows.
            before, segments = segments, await dropped()
            if segments == before:
                break
        else:
            raise LogUnavailable("the archive is dropped and put back all the time")
        pieces = [rows]
        for segment in segments:
            within = pl.col("position").is_between(segment.first, segment.last)
            pieces[0] = pieces[0].filter(~within)

            def work(segment: Segment = segment) -> pl.DataFrame:
                store = self._opened()
                return rows_of(store, segment, fields, after, to, where=kept)

            pieces.append(await self._in_thread(work))
        return pl.concat(_alike(pieces)) if segments else rows

    async def _pieces(
        self,
        query: Callable[[int, int], sql.Composed],
        archived: Callable[[ObjectStore, Segment, int, int], T],
        after: int,
        to: int,
    ) -> list[T | pl.DataFrame]:
        """A stretch in log order: what of it is archived by ``archived``, the rest as rows."""
        found: list[T | pl.DataFrame] = []
        segments: list[Segment] = []
        if announced := self._ahead.pop((after, to), None):
            segments = [announced]
        elif self._archived is None or after < self._archived:
            segments = await self._look(after, to)
        for segment in segments:
            end = min(to, segment.last)
            try:
                found.append(
                    await self._in_thread(partial(self._from, archived, segment, after, end))
                )
            except ArchiveUnavailable as error:
                if segment.dropped:
                    raise
                _log.warning("reading Postgres instead of the archive", error=str(error))
                rows = await self._read(query(after, end))
                if rows.is_empty():  # of what was dropped Postgres gives none
                    if await self._dropped(after, end):
                        raise
                    rows = await self._read(query(after, end))
                found.append(rows)
            after = end
        if after < to or not found:
            rows = await self._read(query(after, to))
            # Archived since it was asked: what was dropped, and maybe put back, gives no rows.
            if rows.is_empty() and await self._look(after, to):
                return found + await self._pieces(query, archived, after, to)
            found.append(rows)
        return found

    async def _dropped(self, after: int, to: int) -> list[Segment]:
        """The segments of a stretch whose events Postgres does not have any more."""
        return [one for one in await self._look(after, to) if one.dropped]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Read files, in one of the threads that are for nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    def _from(
        self,
        archived: Callable[[ObjectStore, Segment, int, int], T],
        segment: Segment,
        after: int,
        to: int,
    ) -> T:
        return archived(self._opened(), segment, after, to)

    async def _look(self, after: int, to: int) -> list[Segment]:
        """The segments of a stretch, as they are now."""
        if to <= after:
            return []
        listed = await self._read(sql.SQL(_SEGMENTS).format(after=after, to=to))
        archived = int(listed["archived"][0]) if listed.height else 0
        self._archived = max(self._archived or 0, archived)
        return await self._known(listed.drop("archived"))

    async def _known(self, listed: pl.DataFrame) -> list[Segment]:
        """The segments of some rows (number, when written, whether dropped)."""
        keys = [(number, at) for number, at, _ in listed.iter_rows()]
        missing = [key for key in keys if key not in self._segments]
        if missing:
            query = sql.SQL(_MANIFESTS).format([number for number, _ in missing])
            manifests = dict((await self._read(query)).iter_rows())
            self._segments |= {key: parse(manifests[key[0]]) for key in missing}
            found = await self._read(sql.SQL(LOCATION).format())
            url = location(found.item() if found.height else None)
            if self._store is None or self._store.url != url:
                self._store = await asyncio.to_thread(ObjectStore, url)
        return [
            replace(self._segments[key], dropped=dropped)
            for key, dropped in zip(keys, listed["dropped"], strict=True)
        ]

    def _opened(self) -> ObjectStore:
        assert self._store is not None  # found with the first segment
        return self._store

    async def _read(self, query: sql.Composed) -> pl.DataFrame:
        text = query.as_string(None)
        async with self._turn:
            work = asyncio.get_running_loop().run_in_executor(None, self._fetch, text)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # A thread cannot be stopped: until it ends, the connection is not free.
                while not work.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([work])
                work.exception()
                raise

    def _fetch(self, query: str) -> pl.DataFrame:
        try:
            if self._connection is None:
                self._connection = ArrowConnection(self._url, transaction=self._hold)
            return self._connection.frame(query)
        except psycopg.OperationalError:
            self._close()
            raise

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def left_out(rows: pl.DataFrame, positions: Collection[int]) -> pl.DataFrame:
    """Log rows without those of some positions."""
    return rows.filter(~pl.col("position").is_in(list(positions))) if positions else rows


def _alike(rows: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Rows of Postgres and of the archive, with their columns in one order."""
    return [one.select(rows[0].columns) for one in rows]
