"""Runs the read models on events that come lane by lane: rows and position in one transaction.

The same folds as in ``projector.py``. What cannot be taken from a batch (a table that failed, that
waits for a dead letter, or that the batch does not reach back to) is read from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic, time_ns

import polars as pl
import structlog

from eventstore.kafka.sequence import LaneBatch, Superseded
from eventstore.log import Connection
from eventstore.spans import Spans
from projections import dead_letters, lanes, store
from projections.contributions import contributions
from projections.engine import merge
from projections.folding import fold_or_park, fold_part, fold_rows, is_outage
from projections.followed import tell_events
from projections.frames import decode, wanted
from projections.projector import BACK_OFF_S, STOPPED_S, Failures, Projector
from projections.reading import LogReader
from projections.table import LAST_POSITION, Table

_log = structlog.get_logger(__name__)
#: A rate is believed from so many events on.
_RATED = 500


class LaneProjector:
    """Folds lanes into read models, as a ``LaneConsumer``.

    Any number of these may run: each lane's rows are touched by who has locked the lane.

    Args:
        url: libpq connection string.
        tables: the declarations to run.
        back_off_s: how long a table is left alone after each failure in a row; behind the last one
            what cannot be folded is parked.
        spans: is told of every batch; None: nobody follows.
    """

    def __init__(
        self,
        url: str,
        tables: Sequence[Table],
        *,
        back_off_s: Sequence[float] = BACK_OFF_S,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
        self._url = url
        self._tables = list(tables)
        self._back_off_s = back_off_s
        self._projector = Projector(url, tables)
        self._reader = LogReader(url)
        self._failures: dict[tuple[str, int], Failures] = {}
        self._lost: asyncio.Queue[Table] = asyncio.Queue()
        self._rate: float | None = None

    async def prepare(self) -> list[Table]:
        """Create missing tables; those that ``build`` has to make beside."""
        return await self._projector.start()

    async def build(self, tables: Sequence[Table]) -> None:
        """Build tables beside, and for ever those that turn out to be of a log that is gone."""
        await self._projector.build(tables)
        while True:
            table = await self._lost.get()
            _log.warning("the log is another one, rebuilding", table=table.name)
            await self._projector.build([table])

    async def position(self, connection: Connection, lane: int) -> int:
        """The position up to which every table that moves has all of a lane."""
        now = monotonic()
        tables = [
            table
            for table in self._sound()
            if (failures := self._failures.get((table.name, lane))) is None
            or failures.again_at <= now
        ]
        done = await lanes.done(connection, await lanes.declared(connection, tables), lane)
        return min(done.values(), default=0)

    async def level(self, connection: Connection) -> None:
        """Raise the tables' positions to where they have all lanes."""
        rate, self._rate = self._rate, None
        # Asked here too: of a log that is another one now there may be nothing more to take.
        for table in await store.diverged(connection, self._sound()):
            self._give_up(table)
        await lanes.level(connection, self._sound(), store.CHANNEL, rate)

    async def take(self, connection: Connection, batch: LaneBatch) -> None:
        """Fold a batch into all tables that have come to it, then the others from the log.

        Raises:
            Superseded: the relay has begun anew since the batch was published.
            psycopg.OperationalError: the database went away.
        """
        begun = monotonic()
        behind = self._sound()
        if batch.events:
            folded = await self._taken(connection, behind, batch)
            behind = [table for table in behind if table not in folded]
            if len(batch.events) >= _RATED:
                self._rate = len(batch.events) / (monotonic() - begun)
        for table in behind:
            await self._fill(connection, table, batch)

    async def _taken(
        self, connection: Connection, tables: Sequence[Table], batch: LaneBatch
    ) -> list[Table]:
        """Fold a batch into the tables that are right before it or within; those that have it."""
        sound = [table for table in tables if (table.name, batch.lane) not in self._failures]
        try:
            return await self._fold(connection, sound, batch)
        except Superseded:
            raise
        except Exception as error:
            if is_outage(error):
                raise
            _log.warning("batch failed, folding table by table", error=str(error))
        folded = []
        for table in sound:
            try:
                folded += await self._fold(connection, [table], batch)
            except Exception as error:
                await self._failed(connection, table, batch.lane, error)
        return folded

    async def _fold(
        self, connection: Connection, tables: Sequence[Table], batch: LaneBatch
    ) -> list[Table]:
        began = 0 if self._spans is None else time_ns()
        # Before the locks: while one lane is decoded others are written.
        frames = decode(batch.events, wanted(tables))
        parts = {table: contributions(table, frames) for table in tables}
        async with connection.transaction():
            done, parked = await self._begin(connection, tables, batch)
            ready = [
                table
                for table, position in done.items()
                if batch.after <= position < batch.to and table.name not in parked
            ]
            for table in ready:
                part = parts[table]
                if done[table] > batch.after:  # some of it came before
                    part = part.filter(pl.col(LAST_POSITION) > done[table])
                merged = merge(table, [part])
                await fold_part(connection, self._reader, table, merged, batch.to)
            await lanes.advance(connection, ready, batch, batch.to)
        if self._spans is not None:
            tell_events(self._spans, ready, batch.events, began)
        have = [table for table, position in done.items() if position >= batch.to]
        return ready + have

    async def _begin(
        self, connection: Connection, tables: Sequence[Table], batch: LaneBatch
    ) -> tuple[Mapping[Table, int], frozenset[str]]:
        """Lock the lane of those tables that are ours to fold: up to where each has it, and which
        have dead letters."""
        mine = await lanes.shared(connection, tables)
        done = await lanes.begin(connection, mine, batch)
        outlook = await store.outlook(connection, mine)
        for table in mine:
            if table.name in outlook.lost:
                self._give_up(table)
        return {
            table: done[table.name] for table in mine if table.name not in outlook.lost
        }, outlook.parked

    async def _fill(self, connection: Connection, table: Table, batch: LaneBatch) -> None:
        """Fold what the log has of a lane into a table, window by window, up to where the batch
        goes; what cannot be folded after some tries is parked."""
        key = (table.name, batch.lane)
        while True:
            failures = self._failures.get(key)
            if failures is not None and failures.again_at > monotonic():
                return
            parking = failures is not None and failures.count >= len(self._back_off_s)
            try:
                moved = await self._fill_window(connection, table, batch, parking=parking)
            except Superseded:
                raise
            except Exception as error:
                await self._failed(connection, table, batch.lane, error)
                return
            if failures is not None:
                del self._failures[key]
                await store.recovered(connection, table)
            if not moved:
                return

    async def _fill_window(
        self, connection: Connection, table: Table, batch: LaneBatch, *, parking: bool
    ) -> bool:
        async with connection.transaction():
            done, parked = await self._begin(connection, [table], batch)
            start = done.get(table)
            if start is None or start >= batch.to:
                return False
            end = min(batch.to, start + self._reader.window)
            rows = await self._reader.between(wanted([table]), start, end)
            rows = lanes.rows_in(batch.lane, batch.lanes, rows)
            if parking:
                await fold_or_park(connection, self._reader, table, rows, end)
            else:
                keys = (
                    await dead_letters.parked_keys(connection, table, "")
                    if table.name in parked
                    else set[str]()
                )
                await fold_rows(connection, self._reader, table, rows, end, parked=keys)
            await lanes.advance(connection, [table], batch, end)
        return True

    async def _failed(
        self, connection: Connection, table: Table, lane: int, error: Exception
    ) -> None:
        """Leave a table's lane alone for a while, with its error written beside its position."""
        if is_outage(error):
            raise error
        before = self._failures.get((table.name, lane))
        count = before.count if before else 0
        waits = [*self._back_off_s, STOPPED_S]
        again_at = monotonic() + waits[min(count, len(waits) - 1)]
        self._failures[table.name, lane] = Failures(count + 1, again_at)
        _log.error(
            "projection stopped", table=table.name, lane=lane, error=str(error), failures=count + 1
        )
        await store.fail(connection, table, str(error))

    def _give_up(self, table: Table) -> None:
        """Leave a table of a log that is gone to ``build``."""
        if table.name not in self._projector.building:
            self._projector.leave(table)
            self._lost.put_nowait(table)

    def _sound(self) -> list[Table]:
        """The tables that are not being built beside."""
        building = self._projector.building
        return [table for table in self._tables if table.name not in building]
