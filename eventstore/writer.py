"""The hot path: commands of one process are committed in groups, one round trip a group.

There is no timer. While a group commits, the next one forms; alone, a command waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID, uuid5

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from eventstore.log import (
    CommandReused,
    LogUnavailable,
    Receipt,
    RepeatedCommands,
    Unit,
    VersionConflict,
)

_APPEND = """SELECT unit, command, outcome, stream, version, "position", stream_id, expected
FROM append_group(
    %b::int[], %b::uuid[], %b::bytea[], %b::text[], %b::bigint[], %b::bigint[],
    %b::int[], %b::uuid[], %b::bigint[],
    %b::int[], %b::uuid[], %b::bigint[], %b::text[], %b::bytea[], %b::uuid[],
    %b::uuid[], %b::uuid[], %b::uuid[], %b::text[])"""

_CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    unit: Unit
    answer: asyncio.Future[list[Receipt]]
    weight: int


class Writer:
    """Appends units to the log over one connection of its own.

    Args:
        url: libpq connection string.
        max_pending: events that may wait; beyond, callers wait for room (back-pressure).
        max_group: events in one group.
        patience_s: how long a caller waits for room, and how long a broken connection is mended,
            before ``LogUnavailable``.
    """

    def __init__(
        self,
        url: str,
        *,
        max_pending: int = 20_000,
        max_group: int = 4_000,
        patience_s: float = 15.0,
    ) -> None:
        self._url = url
        self._max_pending = max_pending
        self._max_group = max_group
        self._patience_s = patience_s
        self._queue: deque[_Waiting] = deque()
        self._pending = 0
        self._work = asyncio.Event()
        self._room = asyncio.Condition()
        self._connection: AsyncConnection[TupleRow] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="log writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Commit what waits, then stop."""
        self._closing = True
        self._work.set()
        if self._task is not None:
            await self._task
        if self._connection is not None:
            await self._connection.close()

    async def append(self, unit: Unit) -> list[Receipt]:
        """Store a unit; a receipt for each entry, in order.

        Raises:
            VersionConflict: a stream was not at its expected version. Nothing was stored.
            CommandReused: a command id was used before with another payload. Nothing was stored.
            RepeatedCommands: entries of a unit of several are stored already. Nothing was stored.
            LogUnavailable: no room or no database in time. It may have been stored.
        """
        weight = max(1, sum(len(entry.events) for entry in unit.entries))
        if self._pending and self._pending + weight > self._max_pending:
            await self._wait_for_room(weight)
        # Asked after the wait: who queues behind the last group would wait for ever.
        if self._closing:
            raise LogUnavailable("the log writer is closing")
        self._pending += weight
        waiting = _Waiting(unit, asyncio.get_running_loop().create_future(), weight)
        self._queue.append(waiting)
        self._work.set()
        return await waiting.answer

    async def _wait_for_room(self, weight: int) -> None:
        try:
            async with asyncio.timeout(self._patience_s), self._room:
                await self._room.wait_for(
                    lambda: not self._pending or self._pending + weight <= self._max_pending
                )
        except TimeoutError:
            raise LogUnavailable(
                f"{self._pending} events wait for the database, more than it takes now"
            ) from None

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            group = self._next_group()
            if not group:
                if self._closing:
                    return
                self._work.clear()
                continue
            try:
                await self._commit(group)
            finally:
                self._pending -= sum(waiting.weight for waiting in group)
                async with self._room:
                    self._room.notify_all()

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            self._answer(group, await self._store(group))
        except Exception as error:
            if len(group) > 1 and not isinstance(error, _CONNECTION_ERRORS):
                # One unit holds what the database cannot store, so nothing was stored:
                # one by one, it alone fails and its neighbours do not.
                for waiting in group:
                    await self._commit([waiting])
                return
            _log.error("append failed", error=str(error), units=len(group))
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(
                        LogUnavailable(f"the database did not take the append: {error}")
                    )

    def _next_group(self) -> list[_Waiting]:
        """The next units in order of arrival that share no stream."""
        group: list[_Waiting] = []
        later: deque[_Waiting] = deque()
        streams: set[UUID] = set()
        commands: set[UUID] = set()
        size = 0
        while self._queue and size < self._max_group:
            waiting = self._queue.popleft()
            unit = waiting.unit
            touched = {event.stream_id for entry in unit.entries for event in entry.events}
            ids = {entry.command_id for entry in unit.entries}
            # Two units on one stream, or one command twice, cannot both be judged by what is
            # stored: the later one waits for the next group and is judged there.
            if streams.isdisjoint(touched | unit.expected.keys()) and commands.isdisjoint(ids):
                group.append(waiting)
                size += waiting.weight
            else:
                later.append(waiting)
            streams |= touched
            commands |= ids
        self._queue.extendleft(reversed(later))
        return group

    async def _store(self, group: Sequence[_Waiting]) -> list[TupleRow]:
        """One round trip; on a broken connection mend and send again (ids make that safe)."""
        arguments = _arguments([waiting.unit for waiting in group])
        give_up = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                if self._connection is None or self._connection.broken:
                    self._connection = await AsyncConnection.connect(
                        self._url, autocommit=True, connect_timeout=5, prepare_threshold=0
                    )
                async with self._connection.cursor(binary=True) as cursor:
                    await cursor.execute(_APPEND, arguments)
                    return await cursor.fetchall()
            except _CONNECTION_ERRORS as error:
                if self._connection is not None:
                    await self._connection.close()
                    self._connection = None
                if asyncio.get_running_loop().time() > give_up:
                    raise
                _log.warning("log connection lost, trying again", error=str(error).strip())
                await asyncio.sleep(0.1)

    def _answer(self, group: Sequence[_Waiting], rows: Sequence[TupleRow]) -> None:
        receipts: dict[UUID, Receipt] = {}
        repeated: dict[int, dict[UUID, Receipt]] = {}
        errors: dict[int, Exception] = {}
        for unit, command, outcome, stream, version, position, stream_id, expected in rows:
            match outcome:
                case "stored":
                    receipts[command] = Receipt(stream, version, position)
                case "repeated":
                    repeated.setdefault(unit, {})[command] = Receipt(
                        stream, version, position, repeated=True
                    )
                case "reused":
                    errors[unit] = CommandReused(command)
                case _:
                    errors.setdefault(unit, VersionConflict(stream_id, expected, version))
        for number, waiting in enumerate(group):
            if waiting.answer.done():  # its caller was cancelled
                continue
            entries = waiting.unit.entries
            again = repeated.get(number)
            error = errors.get(number)
            # A repeated command conflicts with its own first run: the first answer comes first.
            if isinstance(error, CommandReused):
                waiting.answer.set_exception(error)
            elif again is not None:
                if len(entries) == 1:
                    waiting.answer.set_result(list(again.values()))
                else:
                    waiting.answer.set_exception(RepeatedCommands(again))
            elif error is not None:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result([receipts[entry.command_id] for entry in entries])


def _arguments(units: Sequence[Unit]) -> tuple[list[Any], ...]:
    """The columns of ``append_group``: entries, expectations, events."""
    entries: list[tuple[Any, ...]] = []
    expectations: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    for number, unit in enumerate(units):
        for stream_id, version in unit.expected.items():
            expectations.append((number, stream_id, version))
        for entry in unit.entries:
            for index, event in enumerate(entry.events):
                events.append(
                    (
                        number,
                        event.stream_id,
                        event.version,
                        event.topic,
                        event.state,
                        # From the command's id, so that sending a group again changes nothing.
                        uuid5(entry.command_id, str(index)),
                        entry.organisation_id,
                        entry.correlation_id,
                        entry.causation_id,
                        entry.actor,
                    )
                )
            entries.append(
                (
                    number,
                    entry.command_id,
                    entry.digest,
                    entry.stream,
                    entry.version,
                    len(events) if entry.events else None,
                )
            )
    return (*_columns(entries, 6), *_columns(expectations, 3), *_columns(events, 10))


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
