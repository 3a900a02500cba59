"""The hot path: commands of one process are committed in groups, one round trip a group.

There is no timer. While a group commits, the next one forms; alone, a command waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic, time_ns
from typing import Self

import psycopg
import structlog

from eventstore.group import APPEND, Answer, Waiting, answer, columns, stored
from eventstore.log import LogUnavailable, PredecessorFailed, Receipt, Unit
from eventstore.spans import Spans
from eventstore.wire import Wire


class AppendRefused(LogUnavailable):
    """The database answered, and did not store the unit: a full disk, a value it cannot hold."""


_WHOLE = 16  # units that are not worth being divided into two groups
_log = structlog.get_logger(__name__)


class Writer:
    """Appends units to the log over one connection of its own.

    Args:
        url: libpq connection string.
        max_pending: events that may wait; beyond, callers wait for room (back-pressure).
        max_group: events in one group.
        patience_s: how long a caller waits for room, and how long a broken connection is mended,
            before ``LogUnavailable``.
        spans: is told of every group that is committed; None: nobody follows.
    """

    def __init__(
        self,
        url: str,
        *,
        max_pending: int = 20_000,
        max_group: int = 4_000,
        patience_s: float = 15.0,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
        self._max_pending = max_pending
        self._max_group = max_group
        self._patience_s = patience_s
        self._queue: deque[Waiting] = deque()
        self._pending = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()  # callers that wait for room
        self._work = asyncio.Event()
        self._wire = Wire(url, [APPEND], patience_s=patience_s)
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
        await self._wire.close()

    @property
    def pending(self) -> int:
        """Events that wait for the database now."""
        return self._pending

    async def append(self, unit: Unit) -> list[Receipt]:
        """Store a unit; a receipt for each entry, in order.

        Raises:
            VersionConflict: a stream was not at its expected version. Nothing was stored.
            CommandReused: a command id was used before with another payload. Nothing was stored.
            RepeatedCommands: entries of a unit of several are stored already. Nothing was stored.
            LogUnavailable: no room or no database in time. It may have been stored.
            ValueError: an event does not follow on its stream's expected version.
        """
        return await (await self.hand_in(unit))

    async def hand_in(self, unit: Unit, *, after: Answer | None = None) -> Answer:
        """As ``append``, but return when the unit is in line; its answer comes when it is stored.

        ``after``: the answer to a unit that was handed in before. Unless that one is stored, this
        one is not, and its answer is ``PredecessorFailed``. Versions alone would not tell: another
        process may have brought a stream to the version that the first unit was to bring it to.
        """
        # Not the loop's time: uvloop's goes by milliseconds.
        told = asyncio.get_running_loop().create_future()
        waiting = Waiting.of(unit, told, monotonic())
        waiting.after = after
        if self._line or not self._fits(waiting.weight):
            await self._wait_for_room(waiting.weight)
        else:
            self._pending += waiting.weight
        # Asked after the wait: who queues behind the last group would wait for ever.
        if self._closing:
            self._pending -= waiting.weight
            raise LogUnavailable("the log writer is closing")
        self._queue.append(waiting)
        self._work.set()
        return waiting.answer

    def _fits(self, weight: int) -> bool:
        return not self._pending or self._pending + weight <= self._max_pending

    async def _wait_for_room(self, weight: int) -> None:
        """Return when the room is the caller's. First come, first served: small units do not
        overtake a large one for ever."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (weight, admitted)
        self._line.append(place)
        try:
            async with asyncio.timeout(self._patience_s):
                await admitted
        except (TimeoutError, asyncio.CancelledError) as error:
            if not admitted.cancelled():  # it had come just then
                self._pending -= weight
            elif place in self._line:
                self._line.remove(place)
            self._admit()  # who was behind may fit
            if isinstance(error, TimeoutError):
                raise LogUnavailable(
                    f"{self._pending} events wait for the database, more than it takes now"
                ) from None
            raise

    def _admit(self) -> None:
        """Give the room that there is to those who wait for it."""
        while self._line:
            weight, admitted = self._line[0]
            if not admitted.done():  # otherwise its caller has just left
                if not self._fits(weight):
                    return
                self._pending += weight
                admitted.set_result(None)
            self._line.popleft()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            group = self._next_group()
            if group:
                try:
                    await self._commit(group)
                except Exception as error:  # whatever it is, nobody waits for ever
                    _log.exception("append failed")
                    _fail(group, LogUnavailable(f"the append failed: {error!r}"))
                finally:
                    self._pending -= sum(waiting.weight for waiting in group)
            elif self._closing:
                return
            else:
                self._work.clear()
            self._admit()

    async def _commit(self, group: Sequence[Waiting]) -> None:
        try:
            if self._spans is None:
                answer(group, await self._wire.run(APPEND, columns(group)))
            else:
                began = time_ns()
                answer(group, await self._wire.run(APPEND, columns(group)))
                now = monotonic()
                self._spans.appended(stored(group, now, time_ns()), began)
        except LogUnavailable as error:
            _log.error("append failed", error=str(error), units=len(group))
            _fail(group, error)
            self._fail_the_impatient(error)
        except psycopg.Error as error:
            if len(group) == 1:
                _log.error("append refused", error=str(error))
                _fail(group, AppendRefused(f"the database did not take the append: {error}"))
                return
            # One unit holds what the database cannot store, so nothing was stored: one by one, it
            # alone fails and its neighbours do not.
            for number, waiting in enumerate(group):
                await self._commit([waiting])
                if self._away(waiting):
                    _fail(group[number + 1 :], LogUnavailable("the database went away"))
                    return

    @staticmethod
    def _away(waiting: Waiting) -> bool:
        """Whether a unit was given up because the database does not answer."""
        done = waiting.answer
        return (
            done.done()
            and not done.cancelled()
            and isinstance(done.exception(), LogUnavailable)
            and not isinstance(done.exception(), AppendRefused)
        )

    def _fail_the_impatient(self, error: LogUnavailable) -> None:
        """Who has waited as long as the group that failed is told too, not after as long again."""
        now = monotonic()
        while self._queue and now - self._queue[0].since >= self._patience_s:
            waiting = self._queue.popleft()
            self._pending -= waiting.weight
            _fail([waiting], error)

    def _next_group(self) -> list[Waiting]:
        """The next units in order of arrival that share no stream.

        Of many, half: while they commit, the callers of the other half are answered and come again,
        so that the database and this process work at the same time.
        """
        most = max(_WHOLE, -(-len(self._queue) // 2))
        group: list[Waiting] = []
        later: deque[Waiting] = deque()
        appended: set[int] = set()
        commands: set[int] = set()
        size = 0
        while self._queue and len(group) < most and size < self._max_group:
            waiting = self._queue.popleft()
            if waiting.orphaned:
                self._pending -= waiting.weight
                if not waiting.answer.done():
                    waiting.answer.set_exception(PredecessorFailed())
                continue
            # Two units on one stream, or one command twice, cannot both be judged by what is
            # stored: the later one waits for the next group and is judged there.
            if (
                not waiting.held
                and appended.isdisjoint(waiting.appends)
                and appended.isdisjoint(waiting.looks)
                and commands.isdisjoint(waiting.commands)
            ):
                group.append(waiting)
                size += waiting.weight
            else:
                later.append(waiting)
            appended |= waiting.appends
            commands |= waiting.commands
        self._queue.extendleft(reversed(later))
        return group


def _fail(group: Sequence[Waiting], error: LogUnavailable) -> None:
    for waiting in group:
        if not waiting.answer.done():  # otherwise its caller was cancelled
            waiting.answer.set_exception(type(error)(str(error)))
