"""Runs the read models live behind the log: rows and position in one transaction, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic, time_ns
from weakref import WeakKeyDictionary

import polars as pl
import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.log import Connection
from eventstore.spans import Spans
from eventstore.subscription import follow
from projections import dead_letters, lanes, store
from projections.contributions import contributions
from projections.engine import merge
from projections.folding import fold_or_park, fold_part, fold_rows, is_outage
from projections.followed import Folded, tell
from projections.frames import decode_frame, wanted
from projections.reading import LogReader
from projections.rebuild import rebuild
from projections.table import Table

_log = structlog.get_logger(__name__)
#: Called with events done and events in all.
Progress = Callable[[int, int], None]
#: How long a table is left alone after each failure in a row, in seconds. Behind the last one what
#: cannot be folded is parked; a table that cannot even do that is tried again every so often.
BACK_OFF_S = (0.1, 0.5, 2.0)
STOPPED_S = 5.0
#: How long the end of the log is waited for where nothing moves, in seconds.
_PATIENCE_S = 30.0
#: How often tables that are at the head are looked at closely, in seconds: whether the log is still
#: the one that they were folded from.
_LOOK_EVERY_S = 0.5
#: How often a runner asks for the tables that somebody else runs, in seconds.
_ASK_AGAIN_S = 1.0
#: A new table is built beside, not filled before the eyes of readers, where the log is longer.
_LONG = 10_000
#: How often the log is told how far a rebuild is, in seconds.
_TELL_EVERY_S = 3.0
#: Windows of the log in one transaction of a backlog: its rows are written once for all of them.
_WINDOWS = 3
#: A rate is believed from so many events on.
_RATED = 500


@dataclass(slots=True)
class Failures:
    """How often a table failed in a row, and when it is tried again."""

    count: int
    again_at: float


@dataclass(slots=True)
class _Leases:
    """The tables that a connection has the right to run, and when it asked last."""

    tables: list[Table]
    asked_at: float


class Projector:
    """Keeps read models behind the log.

    Tables at the same position share the reading and decoding of a batch. A table that fails is
    left alone for a while and tried by itself; what it still cannot fold is parked as a dead letter
    with the later events of its key, and the rest goes on. A table that was folded from a log that
    is no longer there (a backup was restored) is rebuilt, never folded further.

    Args:
        url: libpq connection string.
        tables: the declarations to run.
        batch: events in one transaction, at most; by their size without it.
        back_off_s: how long a table is left alone after each failure in a row.
        spans: is told of every batch; None: nobody follows.
    """

    def __init__(
        self,
        url: str,
        tables: Sequence[Table],
        *,
        batch: int | None = None,
        back_off_s: Sequence[float] = BACK_OFF_S,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
        self._folded: list[Folded] = []
        self._url = url
        self._tables = list(tables)
        self._batch = batch
        self._back_off_s = back_off_s
        self._reader = LogReader(url)
        self._failures: dict[str, Failures] = {}
        self._building: set[str] = set()
        self._looked_at = -_LOOK_EVERY_S
        self._leases: WeakKeyDictionary[Connection, _Leases] = WeakKeyDictionary()

    async def create(self) -> None:
        """Create missing tables; nothing is folded."""
        async with await self._connect() as connection:
            await store.prepare(connection, self._tables)

    async def prepare(self) -> None:
        """Create missing tables; rebuild those that another declaration or another log made, and
        build new ones beside where the log is long."""
        await self.create()
        for table in await self._to_build():
            await self._build(table)

    async def run(self) -> None:
        """Follow the log for ever; survives a restart of the server by itself. What has to be
        rebuilt is rebuilt meanwhile."""
        building = await self.start()
        async with self._reader, asyncio.TaskGroup() as group:
            group.create_task(self.build(building), name="rebuild")
            group.create_task(follow(self._url, "projector", self.step), name="follow")

    async def start(self) -> list[Table]:
        """Create missing tables; those that are to be built beside, which nobody folds until
        ``build`` has."""
        await self.create()
        building = await self._to_build()
        self._building = {table.name for table in building}
        return building

    def leave(self, table: Table) -> None:
        """Fold a table no further until it was built."""
        self._building.add(table.name)

    @property
    def building(self) -> frozenset[str]:
        """The tables that are to be built before they are folded live."""
        return frozenset(self._building)

    async def _to_build(self) -> list[Table]:
        async with await self._connect() as connection:
            outdated = await store.outdated(connection, self._tables)
            known = await store.progress(connection, self._tables)
            head = await _head(connection)
        # Readers are to see nothing of a new table rather than a part of it.
        return outdated + [
            table
            for table in self._tables
            if table not in outdated
            and head > _LONG
            and known[table.name].position == 0
            and known[table.name].fingerprint == table.fingerprint
        ]

    async def _build(self, table: Table) -> None:
        _log.info("rebuilding", table=table.name)
        report = _logged(table)
        async with await self._connect() as connection:
            outdated = bool(await store.outdated(connection, [table]))
        if outdated:
            await rebuild(self._url, table, report, if_outdated=True)
        else:
            await rebuild(self._url, table, report, if_new=True)

    async def build(self, tables: Sequence[Table]) -> None:
        """Build tables one after the other; one that fails is tried again after the others."""
        self._building |= {table.name for table in tables}
        left = list(tables)
        while left:
            table = left.pop(0)
            try:
                await self._build(table)
            except Exception as error:
                _log.error("rebuild failed, trying again", table=table.name, error=str(error))
                if not is_outage(error):
                    with suppress(psycopg.Error):  # what is wrong with it is in the log too
                        async with await self._connect() as connection:
                            await store.fail(connection, table, str(error))
                await asyncio.sleep(STOPPED_S)
                left.append(table)
            else:
                self._building.discard(table.name)

    async def catch_up(self) -> int:
        """Fold what the log holds now, or wait until who runs the tables has; the position reached
        by the table that is furthest behind. Tables that stand still are not waited for."""
        async with await self._connect() as connection, self._reader:
            head = await _head(connection)
            self._looked_at = -_LOOK_EVERY_S  # closely, once
            moved_at = monotonic()
            before: object = None
            while True:
                while await self.step(connection):
                    pass
                known = await store.progress(connection, self._tables)
                if known != before:
                    before, moved_at = known, monotonic()
                if monotonic() - moved_at > _PATIENCE_S or not self._awaited(known, head):
                    break
                await asyncio.sleep(0.05)
        return min((one.position for one in known.values()), default=0)

    def _awaited(self, known: Mapping[str, store.Progress], head: int) -> bool:
        """Whether a table is behind and can be expected to come to the head."""
        for table in self._tables:
            one = known.get(table.name)
            if one is None or one.held or one.fingerprint != table.fingerprint:
                continue
            failures = self._failures.get(table.name)
            if failures is not None and failures.count > len(self._back_off_s):
                continue
            if one.position < head:
                return True
        return False

    async def step(self, connection: Connection) -> bool:
        """Fold one batch into each group of tables that are at one position, the ones that are
        furthest on first, so that nobody waits for a table that has a long way to go; whether there
        was one."""
        leased = await self._leased(connection)
        tables = [table for table in leased if table.name not in self._building]
        now = monotonic()
        sound = [table for table in tables if table.name not in self._failures]
        moved = await self._step(connection, sound)
        for table in tables:
            failures = self._failures.get(table.name)
            if failures is not None and failures.again_at <= now:
                moved |= await self._step_alone(connection, table)
        return moved

    async def _leased(self, connection: Connection) -> list[Table]:
        """The tables that are ours to run."""
        known = self._leases.get(connection)
        now = monotonic()
        if known is None or (
            len(known.tables) < len(self._tables) and now - known.asked_at > _ASK_AGAIN_S
        ):
            mine = known.tables if known else []
            others = [table for table in self._tables if table not in mine]
            taken = {*mine, *await store.lease(connection, others)}
            known = _Leases([table for table in self._tables if table in taken], now)
            self._leases[connection] = known
        return known.tables

    async def _step(self, connection: Connection, tables: Sequence[Table]) -> bool:
        if not tables:
            return False
        moved, lost = False, list[Table]()
        try:
            now = monotonic()
            if now - self._looked_at < _LOOK_EVERY_S and await store.all_at_head(
                connection, tables
            ):
                return False
            self._looked_at = now
            positions = await store.progress(connection, tables)
            starts = {one.position for one in positions.values()}
            for start in sorted(starts, reverse=True):
                async with self._told(connection), connection.transaction():
                    one_moved, one_lost = await self._fold(connection, tables, start)
                moved, lost = moved | one_moved, lost + one_lost
        except Exception as error:
            if is_outage(error):
                raise
            _log.warning("batch failed, folding table by table", error=str(error))
            for table in tables:
                moved |= await self._step_alone(connection, table)
        for table in lost:
            _log.warning("the log is another one, rebuilding", table=table.name)
            moved |= await self._rebuild_lost(connection, table)
        return moved

    async def _rebuild_lost(self, connection: Connection, table: Table) -> bool:
        try:
            await self.rebuild(table, _logged(table), if_outdated=True)
        except Exception as error:
            await self._failed(connection, table, error)
            return False
        return True

    async def _step_alone(self, connection: Connection, table: Table) -> bool:
        """Fold a batch into one table; what cannot be folded after some tries is parked."""
        failures = self._failures.get(table.name)
        parking = failures is not None and failures.count >= len(self._back_off_s)
        moved, lost = False, list[Table]()
        try:
            async with self._told(connection), connection.transaction():
                positions = await store.progress(connection, [table])
                for one in positions.values():
                    moved, lost = await self._fold(
                        connection, [table], one.position, parking=parking
                    )
        except Exception as error:
            await self._failed(connection, table, error)
            return False
        if lost and not await self._rebuild_lost(connection, table):
            return False
        self._failures.pop(table.name, None)
        return moved or bool(lost)

    async def _failed(self, connection: Connection, table: Table, error: Exception) -> None:
        """Leave a table alone for a while, with its error written beside its position."""
        if is_outage(error):
            raise error
        before = self._failures.get(table.name)
        count = before.count if before else 0
        waits = [*self._back_off_s, STOPPED_S]
        _log.error("projection stopped", table=table.name, error=str(error), failures=count + 1)
        self._failures[table.name] = Failures(
            count + 1, monotonic() + waits[min(count, len(waits) - 1)]
        )
        await store.fail(connection, table, str(error))

    async def _fold(
        self,
        connection: Connection,
        tables: Sequence[Table],
        start: int,
        *,
        parking: bool = False,
    ) -> tuple[bool, list[Table]]:
        """Whether there was a batch behind ``start``, and tables left out: their log is gone."""
        begun, began = monotonic(), 0 if self._spans is None else time_ns()
        # The row locks keep a rebuild's swap out until this batch is committed.
        # A table whose row somebody else has locked is theirs for the moment.
        known = await store.progress(connection, tables, lock=True, skip=True)
        # A table that somebody rebuilt by another declaration is theirs: our columns are not its.
        tables = [
            table
            for table in tables
            if table.name in known and known[table.name].fingerprint == table.fingerprint
        ]
        outlook = await store.outlook(connection, tables)
        lost = [table for table in tables if table.name in outlook.lost]
        tables = [table for table in tables if table not in lost]
        behind = [table for table in tables if known[table.name].position == start]
        if not behind:
            return False, lost
        # A batch must not run past a table that is further on: the two go on together from there.
        further = [known[t.name].position for t in tables if known[t.name].position > start]
        to = min([outlook.head, start + (self._batch or _WINDOWS * self._reader.window), *further])
        if to <= start:
            return False, lost
        fields = wanted(behind)
        log_rows = await self._reader.between(fields, start, to)
        # Where a table took events by Kafka before, some lanes may be further than its position.
        ahead = await lanes.ahead(connection, behind) if outlook.ahead else {}
        if parking:
            for table in behind:
                left = _left(log_rows, ahead.get(table.name))
                await fold_or_park(connection, self._reader, table, left, to)
        else:
            frames = decode_frame(log_rows, fields)
            for table in behind:
                if table.name in ahead:
                    left = ahead[table.name].rows_left(log_rows)
                    keys = await dead_letters.parked_keys(connection, table, "")
                    await fold_rows(connection, self._reader, table, left, to, parked=keys)
                    continue
                if table.name in outlook.parked:
                    keys = await dead_letters.parked_keys(connection, table, "")
                    await fold_rows(connection, self._reader, table, log_rows, to, parked=keys)
                    continue
                if frames.keys().isdisjoint(table.events):
                    continue
                part = merge(table, [contributions(table, frames)])
                await fold_part(connection, self._reader, table, part, to)
        seconds = monotonic() - begun
        rate = (to - start) / seconds if to - start >= _RATED else None
        await store.advance(connection, behind, to, rate)
        if began:
            self._folded.append(Folded(behind, start, to, began))
        return True, lost

    @asynccontextmanager
    async def _told(self, connection: Connection) -> AsyncIterator[None]:
        """Tell who follows what is committed within."""
        self._folded.clear()
        yield
        if self._spans is not None and self._folded:
            await tell(self._spans, connection, self._folded)

    async def rebuild(
        self, table: Table, report: Progress | None = None, *, if_outdated: bool = False
    ) -> int:
        """Fold the whole log into a new table beside the live one, then swap; events folded. See
        ``projections.rebuild.rebuild``."""
        return await rebuild(self._url, table, report, if_outdated=if_outdated)

    async def _connect(self) -> Connection:
        return await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5)


def _left(log_rows: pl.DataFrame, further: lanes.Ahead | None) -> pl.DataFrame:
    return log_rows if further is None else further.rows_left(log_rows)


def _logged(table: Table) -> Progress:
    """Tells the log how far a rebuild is, its rate and the time that is left, every few seconds."""
    begun = told = monotonic()

    def report(done: int, of: int) -> None:
        nonlocal told
        now = monotonic()
        if now - told < _TELL_EVERY_S:
            return
        told = now
        rate = done / (now - begun)
        left = round((of - done) / rate, 1) if rate else None
        _log.info(
            "rebuilding", table=table.name, done=done, of=of, per_second=round(rate), left_s=left
        )

    return report


async def _head(connection: Connection) -> int:
    row = await (await connection.execute("SELECT position FROM log_head")).fetchone()
    assert row is not None
    return int(row[0])
