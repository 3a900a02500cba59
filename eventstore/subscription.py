"""Follows the log: batches of events behind a position, for ever, without a miss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import NamedTuple, Self

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventstore.archive.cold import PRESENT, Cold, on
from eventstore.log import Connection, StoredEvent, read_after

CHANNEL = "events"
_log = structlog.get_logger(__name__)

# Head and rows are of one snapshot. The log has no gaps and is committed in its order, so that
# nothing can still come in at or before that head: what did not match may be passed over.
_MATCHING = f"""SELECT head.position, NOT {PRESENT}, matching.*
    FROM log_head AS head LEFT JOIN LATERAL (
        SELECT notification_id, originator_id, originator_version, topic, state, event_id,
            organisation_id, recorded_at, correlation_id, causation_id, actor
        FROM events
        WHERE notification_id > %(after)s AND notification_id <= least(%(last)s, head.position)
            AND topic = ANY(%(topics)s)
        ORDER BY notification_id LIMIT %(limit)s
    ) AS matching ON true ORDER BY notification_id"""


class Bell:
    """Wakes who waits when a channel was notified, and at least every ``poll_s``.

    One connection serves any number of waiters: each takes a ``mark`` before it reads, and waits
    for what came after it. ``wait`` without a mark is for one waiter alone.

    LISTEN comes before the first read: an event committed between the two would otherwise be seen
    only with the next one. The poll is for a notification lost with its connection.
    """

    def __init__(self, url: str, channel: str = CHANNEL, *, poll_s: float = 1.0) -> None:
        self._url = url
        self._channel = channel
        self._poll_s = poll_s
        self._next_ring = asyncio.Event()
        self._own_mark = self._next_ring
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen(), name=f"listen {self._channel}")
        try:
            await self._listening.wait()
            self._check()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def mark(self) -> asyncio.Event:
        """This moment, to be taken before a look at the log."""
        return self._next_ring

    async def wait(self, mark: asyncio.Event | None = None) -> None:
        """Return when the channel was notified since ``mark`` (the last call, without one), or the
        poll is due.

        Raises:
            psycopg.Error: listening ended with it; a lost connection is made anew instead.
        """
        try:
            async with asyncio.timeout(self._poll_s):
                await (mark or self._own_mark).wait()
        except TimeoutError:
            pass
        self._own_mark = self._next_ring
        self._check()

    def _check(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def _ring(self) -> None:
        rung, self._next_ring = self._next_ring, asyncio.Event()
        rung.set()

    async def _listen(self) -> None:
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                ) as connection:
                    await connection.execute(f'LISTEN "{self._channel}"')
                    self._listening.set()
                    self._ring()
                    async for _ in connection.notifies():
                        self._ring()
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                _log.warning("listening again", channel=self._channel, error=str(error).strip())
                self._listening.set()
                await asyncio.sleep(min(self._poll_s, 0.5))
            except Exception:
                self._listening.set()
                self._ring()  # who waits is to hear of it
                raise


async def follow(
    url: str,
    who: str,
    step: Callable[[AsyncConnection[TupleRow]], Awaitable[bool]],
    channel: str = CHANNEL,
) -> None:
    """Run ``step`` over and over, on a connection of its own: at once while it says that there is
    more, otherwise when the log moved. Survives a restart of the server by itself.

    Args:
        url: libpq connection string.
        who: the name to log under.
        step: takes one batch in its own transaction; whether there was one.
        channel: what is notified when there is more; appends do the default one.
    """
    async with Bell(url, channel) as bell:
        while True:
            try:
                async with await AsyncConnection.connect(
                    url, autocommit=True, connect_timeout=5
                ) as connection:
                    while True:
                        while await step(connection):
                            pass
                        await bell.wait()
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                _log.warning("connecting again", who=who, error=str(error).strip())
                await asyncio.sleep(0.5)
            except Exception:
                # What a batch cannot do now it may do later; it is not skipped and not half done.
                _log.exception("batch failed, trying again", who=who)
                await asyncio.sleep(2.0)


class Page(NamedTuple):
    """One bounded look at the log.

    Everything up to ``position`` is in ``events``, was in an earlier page, or does not match.
    ``more``: the log goes on behind it.
    """

    events: list[StoredEvent]
    position: int
    more: bool


async def read_page(
    connection: Connection,
    position: int,
    limit: int,
    *,
    topics: Collection[str] | None = None,
    window: int = 10_000,
    cold: Cold | None = None,
) -> Page:
    """At most ``limit`` events behind ``position``; with ``topics``, those of the next ``window``
    positions that are of these topics. ``cold``: reads what Postgres does not hold any more."""
    if topics is None:
        events = await read_after(connection, position, limit, cold)
        return Page(events, events[-1].position if events else position, len(events) == limit)
    last = position + window
    async with connection.cursor(binary=True) as cursor:
        # Planned each time: a plan made while the log was short would read all of it later on.
        await cursor.execute(
            _MATCHING,
            {"after": position, "last": last, "topics": list(topics), "limit": limit},
            prepare=False,
        )
        rows = await cursor.fetchall()
    head = rows[0][0]
    if rows[0][1]:  # a part of the window is dropped
        events = await (cold or Cold()).between(
            on(connection), position, min(last, head), limit, topics=topics
        )
    else:
        events = [StoredEvent(*row[2:]) for row in rows if row[2] is not None]
    full = len(events) == limit
    reached = events[-1].position if full else max(position, min(last, head))
    return Page(events, reached, reached < head)


class Subscription:
    """An endless iteration over the log in batches, from just behind ``position``.

    While one batch is worked on, the next ones are read. Survives a restart of the server by
    itself. Any other error ends the iteration with it; leaving the ``async with`` ends it quietly.

    ``position`` is what to remember: all up to it was handed out or does not match. It moves
    with each batch and, while the next one is waited for, over events that do not match. So that it
    can be stored then too, an empty batch comes where a whole ``window`` of positions has none.

    Args:
        url: libpq connection string.
        position: begin behind it; 0 for the start of the log.
        batch: events in one batch, at most.
        poll_s: look at least that often, whether notified or not.
        topics: hand out events of these topics only; all without it.
        window: positions looked at in one statement when there are ``topics``.
        buffer: batches read ahead, at most.

    Example:
        ``async with Subscription(url, position=0) as batches: async for batch in batches: ...``
    """

    def __init__(
        self,
        url: str,
        *,
        position: int,
        batch: int = 1000,
        poll_s: float = 1.0,
        topics: Collection[str] | None = None,
        window: int = 10_000,
        buffer: int = 1,
    ) -> None:
        self._url = url
        self._batch = batch
        self._topics = topics
        self._window = window
        self._bell = Bell(url, poll_s=poll_s)
        self._connection: AsyncConnection[TupleRow] | None = None
        self._cold = Cold()
        self._reader: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(buffer)
        self._ahead: asyncio.Queue[Page | Exception] = asyncio.Queue()  # `_room` bounds it
        self._waiting = False
        self.position = position

    async def __aenter__(self) -> Self:
        await self._bell.__aenter__()
        self._reader = asyncio.create_task(self._read_ahead(), name="read the log ahead")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        while not self._ahead.empty():
            self._ahead.get_nowait()
        self._ahead.put_nowait(StopAsyncIteration())
        await self._bell.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StoredEvent]:
        if self._reader is None:
            raise RuntimeError("a subscription reads within `async with` only")
        self._waiting = True
        try:
            page = await self._ahead.get()
        finally:
            self._waiting = False
        if isinstance(page, Exception):
            self._ahead.put_nowait(page)  # nothing comes behind it: who asks again hears the same
            raise page
        self._room.release()
        self.position = page.position
        return page.events

    async def _read_ahead(self) -> None:
        position = told = self.position
        try:
            await self._room.acquire()
            while True:
                page = await self._read(position)
                position = page.position
                if page.events or position - told >= self._window:
                    self._ahead.put_nowait(page)
                    told = position
                    await self._room.acquire()  # before the next read: memory is bounded too
                elif self._waiting and self._ahead.empty():
                    self.position = position
                if not page.more:
                    await self._bell.wait()
        except Exception as error:
            self._ahead.put_nowait(error)
        finally:
            await self._disconnect()

    async def _read(self, position: int) -> Page:
        try:
            if self._connection is None or self._connection.broken:
                self._connection = await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                )
            return await read_page(
                self._connection,
                position,
                self._batch,
                topics=self._topics,
                window=self._window,
                cold=self._cold,
            )
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _log.warning("reading again", position=position, error=str(error).strip())
            await self._disconnect()
            return Page([], position, more=False)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
