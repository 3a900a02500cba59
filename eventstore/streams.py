"""Loads streams: the newest snapshot that fits, and the events behind it, in one round trip.

As in the writer there is no timer: what is asked for while a load is under way is loaded together
by the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.archive.cold import Cold
from eventstore.log import LogUnavailable
from eventstore.wire import BIGINTS, BYTES, TEXTS, UUIDS, Statement, Wire

# LATERAL keeps it a look-up by index for each stream, whatever the planner thinks of the table.
# A snapshot counts only while the event that it was taken at is on the log.
_LOAD = Statement(
    "load",
    """WITH wanted AS MATERIALIZED (
        SELECT w.n, w.stream, s.version AS taken, s.state, coalesce(s.version, w.seen) AS seen
        FROM unnest($1, $2, $3) WITH ORDINALITY AS w (stream, seen, fingerprint, n)
        LEFT JOIN LATERAL (
            SELECT s.version, s.state FROM snapshots s
            WHERE s.stream_id = w.stream AND s.fingerprint = w.fingerprint AND s.version > w.seen
            AND EXISTS (SELECT FROM events e WHERE e.originator_id = s.stream_id
                        AND e.originator_version = s.version)
        ) AS s ON true
    )
    SELECT n, taken AS version, NULL AS topic, state FROM wanted WHERE taken IS NOT NULL
    UNION ALL
    SELECT w.n, e.originator_version, e.topic, e.state FROM wanted w CROSS JOIN LATERAL (
        SELECT e.originator_version, e.topic, e.state FROM events e
        WHERE e.originator_id = w.stream AND e.originator_version > w.seen
        ORDER BY e.originator_version
    ) AS e
    ORDER BY n, version""",
    (UUIDS, BIGINTS, TEXTS),
)

_SAVE = Statement(
    "save",
    """INSERT INTO snapshots AS s (stream_id, fingerprint, version, state)
    SELECT * FROM unnest($1, $2, $3, $4)
    ON CONFLICT (stream_id) DO UPDATE SET fingerprint = excluded.fingerprint,
        version = excluded.version, state = excluded.state, taken_at = now()
    WHERE s.version < excluded.version OR s.fingerprint <> excluded.fingerprint""",
    (UUIDS, TEXTS, BIGINTS, BYTES),
)
_MOST = 1000  # streams in one load
_COLD_AT_ONCE = 4
_WAITING = 10_000  # loads that may wait for one under way
_log = structlog.get_logger(__name__)


class Wanted(NamedTuple):
    """What is wanted of a stream: the events behind ``seen``, or a snapshot of these rules."""

    seen: int
    fingerprint: bytes


class Snapshot(NamedTuple):
    """A stream's state at a version, as bytes, and by which rules it was folded."""

    version: int
    fingerprint: bytes
    state: bytes


class Loaded(NamedTuple):
    """What was found of a stream: events (version, topic, state) in order, behind the snapshot."""

    snapshot: Snapshot | None
    events: list[tuple[int, str, bytes]]


class _Asked(NamedTuple):
    wanted: Mapping[UUID, Wanted]
    found: asyncio.Future[dict[UUID, Loaded]]
    since: float


class Streams:
    """Loads streams and keeps their snapshots, over one connection of its own.

    Args:
        url: libpq connection string.
        patience_s: how long a load may take before ``LogUnavailable``.
    """

    def __init__(self, url: str, *, patience_s: float = 15.0) -> None:
        self._url = url
        self._cold = Cold(patience_s=patience_s)
        self._cold_turn = asyncio.Semaphore(_COLD_AT_ONCE)
        self._wire = Wire(url, [_LOAD, _SAVE], patience_s=patience_s)
        self._patience_s = patience_s
        self._queue: deque[_Asked] = deque()
        self._snapshots: dict[UUID, Snapshot] = {}
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Save the snapshots that wait, then close."""
        if self._task is not None:
            await self._task
        await self._wire.close()

    async def load(self, wanted: Mapping[UUID, Wanted]) -> dict[UUID, Loaded]:
        """What is known of each stream behind the version that was seen of it.

        Raises:
            LogUnavailable: the database, or the archive, did not answer in time.
        """
        return await self._completed(wanted, await self._hot(wanted))

    async def _hot(self, wanted: Mapping[UUID, Wanted]) -> dict[UUID, Loaded]:
        """What Postgres has of the streams."""
        if self._busy:
            if len(self._queue) >= _WAITING:
                raise LogUnavailable(f"{len(self._queue)} loads wait for the database already")
            loop = asyncio.get_running_loop()
            found: asyncio.Future[dict[UUID, Loaded]] = loop.create_future()
            self._queue.append(_Asked(wanted, found, loop.time()))
            return await found
        # Alone, a load waits for nobody, nor for a task to be made for it.
        self._busy = True
        try:
            return dict(zip(wanted, await self._fetch(list(wanted.items())), strict=True))
        except (LogUnavailable, psycopg.Error) as error:
            raise LogUnavailable(f"streams cannot be loaded: {error}") from error
        finally:
            self._busy = False
            self._go_on()

    def save(self, stream_id: UUID, snapshot: Snapshot) -> None:
        """Keep a snapshot, soon. One that could not be kept is only slower to do without."""
        waiting = self._snapshots.get(stream_id)
        if waiting is None or waiting.version < snapshot.version:
            self._snapshots[stream_id] = snapshot
        self._go_on()

    def _go_on(self) -> None:
        if not self._busy and (self._queue or self._snapshots):
            self._busy = True
            self._task = asyncio.create_task(self._run(), name="streams")

    async def _run(self) -> None:
        try:
            while self._queue or self._snapshots:
                # Somebody waits for a load, nobody for a snapshot.
                await (self._load_next() if self._queue else self._save_all())
        finally:
            self._busy = False

    async def _load_next(self) -> None:
        batch = [self._queue.popleft()]
        count = len(batch[0].wanted)
        while self._queue and count + len(self._queue[0].wanted) <= _MOST:
            batch.append(self._queue.popleft())
            count += len(batch[-1].wanted)
        try:
            found = await self._fetch([one for asked in batch for one in asked.wanted.items()])
        except (LogUnavailable, psycopg.Error) as error:
            # Who has waited as long as these is told too, not after as long again.
            late = asyncio.get_running_loop().time() - self._patience_s
            while self._queue and self._queue[0].since <= late:
                batch.append(self._queue.popleft())
            for asked in batch:
                if not asked.found.done():
                    asked.found.set_exception(LogUnavailable(f"streams cannot be loaded: {error}"))
            return
        start = 0
        for wanted, answer, _ in batch:
            mine = dict(zip(wanted, found[start : start + len(wanted)], strict=True))
            start += len(wanted)
            if not answer.done():
                answer.set_result(mine)

    async def _fetch(self, wanted: Sequence[tuple[UUID, Wanted]]) -> list[Loaded]:
        result = await self._wire.run(
            _LOAD,
            (
                [stream_id.bytes for stream_id, _ in wanted],
                [one.seen for _, one in wanted],
                [one.fingerprint for _, one in wanted],
            ),
        )
        found = [Loaded(None, []) for _ in wanted]
        value, integer = result.get_value, int.from_bytes
        for row in range(result.ntuples):
            number = integer(value(row, 0) or b"", "big") - 1
            version = integer(value(row, 1) or b"", "big")
            topic, state = value(row, 2), value(row, 3) or b""
            if topic is None:
                snapshot = Snapshot(version, wanted[number][1].fingerprint, state)
                found[number] = found[number]._replace(snapshot=snapshot)
            else:
                found[number].events.append((version, topic.decode(), state))
        return found

    async def _completed(
        self, wanted: Mapping[UUID, Wanted], found: dict[UUID, Loaded]
    ) -> dict[UUID, Loaded]:
        """With what Postgres does not hold any more, of streams that nobody has loaded for long.
        Loads of other streams go on meanwhile."""
        lacking = {
            stream_id: _behind(one, wanted[stream_id].seen)
            for stream_id, one in found.items()
            if not _whole(one, wanted[stream_id].seen)
        }
        if not lacking:
            return found
        try:
            async with asyncio.timeout(self._patience_s), self._cold_turn:
                events = await self._cold.streams(self._connect, lacking)
        except TimeoutError as error:
            raise LogUnavailable("streams cannot be loaded: no answer in time") from error
        except psycopg.Error as error:
            raise LogUnavailable(f"streams cannot be loaded: {error}") from error
        return found | {
            stream_id: found[stream_id]._replace(
                events=[(one.version, one.topic, one.state) for one in events[stream_id]]
            )
            for stream_id in lacking
        }

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5
        ) as connection:
            yield connection

    async def _save_all(self) -> None:
        taken, self._snapshots = self._snapshots, {}
        try:
            await self._wire.run(
                _SAVE,
                (
                    [stream_id.bytes for stream_id in taken],
                    [one.fingerprint for one in taken.values()],
                    [one.version for one in taken.values()],
                    [one.state for one in taken.values()],
                ),
            )
        except (LogUnavailable, psycopg.Error) as error:
            _log.warning("snapshots not kept", streams=len(taken), error=str(error).strip())


def _behind(found: Loaded, seen: int) -> int:
    """The version behind which events were asked for."""
    return seen if found.snapshot is None else found.snapshot.version


def _whole(found: Loaded, seen: int) -> bool:
    """Whether these are all events behind what is known: the newest one of a stream is never
    dropped, so that what is missing shows as a gap."""
    events = found.events
    return not events or events[-1][0] == _behind(found, seen) + len(events)
