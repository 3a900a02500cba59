"""What was asked and not let through: noted in memory, written behind, never in anybody's way.

Like attempts of one minute are one row with a count, and an actor that tries one command on ever
other streams gets a bounded number of rows: a flood does not fill the disk. How many rows there may
be is counted by actor and by organisation, so whoever floods the trail loses rows of his own first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Literal, NamedTuple, Self
from uuid import UUID, uuid4

import psycopg
import structlog

from eventstore.log import Log, LogUnavailable

Outcome = Literal["denied", "refused", "reused", "conflict", "unauthenticated"]

WINDOW_S = 60.0
#: Streams that one actor's like attempts of one minute are told apart by.
MOST_STREAMS = 100
#: Rows that one actor, and all of one organisation, may have of a minute or in memory. An actor
#: gets as many again that name no stream: nobody hides an attempt behind a flood of others.
MOST_OF_ACTOR = 500
MOST_OF_ORGANISATION = 5_000
_ROWS = 500  # in one statement

# Counts are sums of this process, so a row that is written twice says the same as one written once.
# Moments are by the database's clock, as those of accepted commands are.
_WRITE = """INSERT INTO attempts (id, organisation_id, at, last_at, actor, roles, command, stream,
    result, code, correlation_id, times)
VALUES (%s, %s, now() - make_interval(secs => %s), now() - make_interval(secs => %s),
    %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE
SET times = greatest(attempts.times, excluded.times), last_at = excluded.last_at"""
_log = structlog.get_logger(__name__)


class Attempt(NamedTuple):
    """Who was refused what, and by which rule.

    Attributes:
        command: a command's or a query's name, or an endpoint where nobody was let in.
        stream: what it was about; empty where that is not known.
        code: the rule's code.
    """

    organisation_id: UUID | None
    actor: str
    roles: Collection[str]
    command: str
    stream: str
    result: Outcome
    code: str
    correlation_id: UUID | None


_Key = tuple[UUID | None, str, frozenset[str], str, str, str, str]


@dataclass(slots=True, eq=False)
class _Counted:
    id: UUID
    first: Attempt
    stream: str
    begun: float
    last: float
    window: int
    times: int = 1
    written: int = 0


class Attempts:
    """Notes attempts and writes them behind, until it is left; what is noted then is written.

    Args:
        log: whose database they are written to.
        most: rows that may be in memory, of everybody; what would be more is counted and lost.
        every_s: how often what was noted is written.
        patience_s: how long a write may take.
    """

    def __init__(
        self, log: Log, *, most: int = 40_000, every_s: float = 0.25, patience_s: float = 15.0
    ) -> None:
        self._log = log
        self._most = most
        self._every_s = every_s
        self._patience_s = patience_s
        self._window = 0
        self._like: dict[_Key, _Counted] = {}
        self._streams: dict[_Key, int] = {}
        self._waiting: dict[UUID, _Counted] = {}
        #: Rows of this minute, and those of former ones that wait, by whose they are.
        self._rows: Counter[tuple[object, ...]] = Counter()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._away = False
        #: Attempts that were not written and will not be.
        self.lost = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="attempts")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits; what the database does not take is counted as lost."""
        # Cut off in the middle of a pipeline, psycopg may answer with an error of its own: then the
        # task has not seen that it was cancelled.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)
        await self._flush()
        left = sum(one.times - one.written for one in self._waiting.values())
        if left:
            self.lost += left
            _log.error("attempts were not written down", lost=left, in_all=self.lost)

    def note(self, attempt: Attempt) -> None:
        """Note an attempt; it waits for nothing and raises nothing."""
        now = monotonic()
        window = int(now / WINDOW_S)
        if window != self._window:
            self._window = window
            self._like.clear()
            self._streams.clear()
            self._rows.clear()
            for one in self._waiting.values():
                self._rows.update(_whose(one.first))
        own, actor, roles, command, stream, result, code, _ = attempt
        held = frozenset(
            roles
        )  # who was denied with some roles and then with others did two things
        alike: _Key = (own, actor, held, command, "", result, code)
        key: _Key = (own, actor, held, command, stream, result, code)
        counted = self._like.get(key)
        if counted is None and stream and self._crowded(attempt, alike):
            key, stream = alike, ""
            counted = self._like.get(key)
        if counted is not None:
            counted.times += 1
            counted.last = now
        elif self._full(attempt, 2 * MOST_OF_ACTOR):
            self._lose(1)
            return
        else:
            counted = self._like[key] = _Counted(uuid4(), attempt, stream, now, now, window)
            self._streams[alike] = self._streams.get(alike, 0) + 1
            self._rows.update(_whose(attempt))
        self._waiting[counted.id] = counted
        self._news.set()

    def _crowded(self, attempt: Attempt, alike: _Key) -> bool:
        """Whether its stream gets no row of its own any more."""
        return self._streams.get(alike, 0) >= MOST_STREAMS or self._full(attempt, MOST_OF_ACTOR)

    def _full(self, attempt: Attempt, of_actor: int) -> bool:
        """Whether there are so many rows of whose it is that no more are made."""
        most = (of_actor, MOST_OF_ORGANISATION, self._most)
        return any(self._rows[one] >= some for one, some in zip(_whose(attempt), most, strict=True))

    def _lose(self, count: int) -> None:
        self.lost += count
        if self.lost.bit_count() == 1:  # 1, 2, 4, ...: the log of a flood is no flood
            _log.error("attempts were not written down: there are too many", in_all=self.lost)

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(self._every_s)
            self._news.clear()
            if not await self._flush():
                self._news.set()  # it is tried again
                await asyncio.sleep(1.0)

    async def _flush(self) -> bool:
        """Write what waits; whether the database took it."""
        while self._waiting:
            some = [(one, one.times) for one in islice(self._waiting.values(), _ROWS)]
            now = monotonic()
            try:
                async with (
                    asyncio.timeout(self._patience_s),
                    self._log.connection() as connection,
                    connection.transaction(),
                    connection.cursor() as cursor,
                ):
                    await cursor.executemany(_WRITE, [_row(*one, now) for one in some])
            except (psycopg.Error, LogUnavailable, TimeoutError) as error:
                if not self._away:
                    _log.warning("attempts are written down later", error=str(error).strip())
                self._away = True
                return False
            self._away = False
            for one, times in some:
                one.written = times
                if one.times != times:
                    continue
                del self._waiting[one.id]
                # Those of this minute may be counted on, so they stay in memory.
                if one.window != self._window:
                    self._rows.subtract(_whose(one.first))
        return True


def _whose(attempt: Attempt) -> tuple[tuple[object, ...], ...]:
    """What a row counts for: its actor, its organisation, everybody."""
    own = attempt.organisation_id
    return (own, attempt.actor), (own,), ()


def _row(one: _Counted, times: int, now: float) -> tuple[object, ...]:
    first = one.first
    return (
        one.id,
        first.organisation_id,
        now - one.begun,
        now - one.last,
        _text(first.actor),
        sorted(first.roles),
        _text(first.command),
        _text(one.stream),
        first.result,
        first.code,
        first.correlation_id,
        times,
    )


def _text(told: str) -> str:
    """As PostgreSQL can hold it, and no longer than a name is."""
    return told[:300].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
