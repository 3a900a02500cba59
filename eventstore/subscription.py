"""Follows the log: batches of events behind a position, for ever, without a miss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventstore.log import StoredEvent, read_after

CHANNEL = "events"
_log = structlog.get_logger(__name__)


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
        await self._listening.wait()
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
        poll is due."""
        try:
            async with asyncio.timeout(self._poll_s):
                await (mark or self._own_mark).wait()
        except TimeoutError:
            pass
        self._own_mark = self._next_ring

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


async def follow(
    url: str, who: str, step: Callable[[AsyncConnection[TupleRow]], Awaitable[bool]]
) -> None:
    """Run ``step`` over and over, on a connection of its own: at once while it says that there is
    more, otherwise when the log moved. Survives a restart of the server by itself.

    Args:
        url: libpq connection string.
        who: the name to log under.
        step: takes one batch in its own transaction; whether there was one.
    """
    async with Bell(url) as bell:
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


class Subscription:
    """An endless iteration over the log in batches, from just behind ``position``.

    Survives a restart of the server by itself. ``position`` moves with each batch.

    Example:
        ``async with Subscription(url, position=0) as batches: async for batch in batches: ...``
    """

    def __init__(self, url: str, *, position: int, batch: int = 1000, poll_s: float = 1.0) -> None:
        self._url = url
        self._batch = batch
        self._bell = Bell(url, poll_s=poll_s)
        self._connection: AsyncConnection[TupleRow] | None = None
        self.position = position

    async def __aenter__(self) -> Self:
        await self._bell.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._bell.__aexit__(kind, error, trace)
        if self._connection is not None:
            await self._connection.close()

    async def __aiter__(self) -> AsyncIterator[list[StoredEvent]]:
        while True:
            batch = await self._read()
            if batch:
                self.position = batch[-1].position
                yield batch
            if len(batch) < self._batch:
                await self._bell.wait()

    async def _read(self) -> list[StoredEvent]:
        try:
            if self._connection is None or self._connection.broken:
                self._connection = await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                )
            return await read_after(self._connection, self.position, self._batch)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _log.warning("reading again", position=self.position, error=str(error).strip())
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            return []
