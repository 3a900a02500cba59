"""Reads the log into polars frames, as fast as Postgres gives it out: Arrow by ADBC, off the loop.

Only committed events up to a known position are read, so the connection need not be the writer's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import polars as pl
import psycopg
from adbc_driver_manager import Error as DriverError
from adbc_driver_postgresql import dbapi
from psycopg import sql

from domain import catalogue
from domain.values import Event
from eventstore.ids import named_id
from projections.frames import Wanted, metadata_of, wanted
from projections.schema import METADATA, is_column
from projections.table import Table

#: What one window is to hold, in bytes of events; small enough that a few fit in any memory.
_WINDOW_BYTES = 12 * 2**20
_LEAST, _MOST = 1_000, 30_000
#: Positions that are searched for a text, and streams that are read, in one statement.
_SEARCHED_AT_ONCE = 500_000
_STREAMS_AT_ONCE = 5_000
#: Texts looked for in events before they are decoded; more of them cost more than they save.
_MOST_TEXTS = 100

_COLUMNS = {
    "position": "notification_id",
    "stream_id": "originator_id",
    "version": "originator_version",
}


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
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self._bytes_each = 512.0

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

    @property
    def window(self) -> int:
        """How many positions to ask for at once, by the size that events had lately."""
        return int(min(max(_WINDOW_BYTES / self._bytes_each, _LEAST), _MOST))

    async def between(
        self, fields: Wanted, after: int, to: int, organisation_id: UUID | None = None
    ) -> pl.DataFrame:
        """The events that ``fields`` ask for, behind ``after`` and not beyond ``to``, in log order,
        as rows for ``frames.decode_frame``.

        Raises:
            psycopg.OperationalError: the database cannot be read.
        """
        query = sql.SQL(
            "SELECT {columns} FROM events WHERE notification_id > {after}"
            " AND notification_id <= {to} AND {topics}{organisation} ORDER BY notification_id"
        ).format(
            columns=_columns(fields),
            after=after,
            to=to,
            topics=_topics(fields),
            organisation=sql.SQL("")
            if organisation_id is None
            else sql.SQL(" AND organisation_id = {}").format(organisation_id),
        )
        rows = await self._read(query)
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
            streams = _streams(table, event, keys)
            (by_search if streams is None else by_stream)[event] = names
            located |= dict.fromkeys(streams or ())
        ids = list(located)
        for start in range(0, len(ids), _STREAMS_AT_ONCE):
            some = ids[start : start + _STREAMS_AT_ONCE]
            where = sql.SQL("originator_id = ANY({}) AND {}").format(some, _topics(by_stream))
            yield await self._read(_select(by_stream, 0, to, where))
        # Event types with the same texts to look for are found in one pass over the log.
        searches: dict[tuple[bytes, ...] | None, dict[type[Event], set[str]]] = {}
        for event, names in by_search.items():
            searches.setdefault(_texts(table, event, keys), {})[event] = names
        for texts, fields in searches.items():
            where = _search(keys, texts, fields)
            size = self.window if texts is None else _SEARCHED_AT_ONCE
            for start in range(0, to, size):
                yield await self._read(_select(fields, start, min(to, start + size), where))

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
                self._connection = dbapi.connect(self._url, autocommit=not self._hold)
            with self._connection.cursor() as cursor:
                cursor.execute(query)
                return pl.DataFrame(cursor.fetch_arrow())
        except DriverError as error:
            self._close()
            raise psycopg.OperationalError(str(error)) from error

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except DriverError:  # what is broken is closed
                return


def _select(fields: Wanted, after: int, to: int, where: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "SELECT {} FROM events WHERE notification_id > {} AND notification_id <= {} AND {}"
    ).format(_columns(fields), after, to, where)


def _columns(fields: Wanted) -> sql.Composed:
    names = [name for name in metadata_of(fields) if name in METADATA]
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.Identifier(_COLUMNS.get(name, name)), sql.Identifier(name))
        for name in (*names, "topic", "state")
    )


def _topics(events: Iterable[type[Event]]) -> sql.Composed:
    """The topics of some events, older ones too, and those that this code does not know: one of
    them may be a newer one of ours."""
    mine = [topic for topic in _known() if catalogue.type_of(topic) in set(events)]
    return sql.SQL("(topic = ANY({}) OR topic <> ALL({}))").format(mine, _known())


def _known() -> list[str]:
    return [*catalogue.TYPES, *catalogue.UPCASTERS]


def _streams(table: Table, event: type[Event], keys: pl.DataFrame) -> list[UUID] | None:
    """The streams that hold all events of this type about some keys; None: the key does not say."""
    if event in table.explode or len(table.keys_of(event)) != 1:
        return None
    [key] = table.keys_of(event)
    columns = {one.meta.root_names()[0]: name for name, one in key.items() if is_column(one)}
    template = catalogue.STREAMS[event]
    fields = catalogue.fields_of_stream(template)
    if not all(columns.get(field) in keys.columns for field in fields):
        return None
    different = keys.select("organisation_id", *(columns[field] for field in fields)).unique()
    return [
        named_id(UUID(organisation), template.format(**dict(zip(fields, values, strict=True))))
        for organisation, *values in different.iter_rows()
    ]


def _search(keys: pl.DataFrame, texts: tuple[bytes, ...] | None, fields: Wanted) -> sql.Composed:
    organisations = [UUID(one) for one in keys["organisation_id"].unique()]
    where = sql.SQL("organisation_id = ANY({}) AND {}").format(organisations, _topics(fields))
    if texts is None:
        return where
    # The text of a key stands in the JSON of its events. Postgres looks for it faster than we.
    held = sql.SQL(" OR ").join(sql.SQL("position({} in state) > 0").format(one) for one in texts)
    return sql.SQL("{} AND ({})").format(where, held)


def _texts(table: Table, event: type[Event], keys: pl.DataFrame) -> tuple[bytes, ...] | None:
    """JSON texts of which an event about one of the keys holds at least one; None: not known."""
    older = any(catalogue.type_of(topic) is event for topic in catalogue.UPCASTERS)
    found: set[bytes] = set()
    for key in table.keys_of(event):
        plain = [
            name
            for name, one in key.items()
            if is_column(one)
            and keys.schema.get(name) == pl.String()
            and one.meta.root_names()[0] not in METADATA
        ]
        if older or not plain or event in table.explode:
            return None
        chosen = max(plain, key=lambda name: keys[name].n_unique())
        found |= {json.dumps(one, ensure_ascii=False).encode() for one in keys[chosen].unique()}
    return tuple(sorted(found)) if len(found) <= _MOST_TEXTS else None
