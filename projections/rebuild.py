"""Rebuilds a read model beside the live one and swaps; or some of its rows in their place.

What is done so far stands in the table beside, with its position in the same transaction: a rebuild
that is killed goes on there. Folds have no side effects, so a rebuild has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from uuid import UUID

import polars as pl
import psycopg
import structlog
from psycopg import AsyncConnection

from eventstore.log import Connection
from projections import dead_letters, lanes, rows, store
from projections.accumulate import Accumulator, parts
from projections.contributions import contributions
from projections.engine import finish
from projections.folding import fold_or_park, fold_part, is_outage, refold
from projections.frames import wanted
from projections.reading import LogReader
from projections.store import NEXT
from projections.table import Table

_log = structlog.get_logger(__name__)
#: Called with events done and events in all.
Report = Callable[[int, int], None]
#: Rows in memory, and positions, after which they are written to the table beside.
_ROWS_IN_MEMORY = 250_000
_POSITIONS_AT_ONCE = 2_000_000
#: Events of a stretch that are folded at once where something in it cannot be.
_CAREFULLY = 5_000
#: What the swap may still have to fold, which readers wait for.
_TAIL = 5_000
#: Keys made again in one transaction.
_KEYS_AT_ONCE = 10_000
#: Contributions of one pass of a table that is recomputed.
_CONTRIBUTIONS = 2_000_000


async def rebuild(
    url: str,
    table: Table,
    report: Report | None = None,
    *,
    if_outdated: bool = False,
    if_new: bool = False,
    rows_in_memory: int = _ROWS_IN_MEMORY,
    positions_at_once: int = _POSITIONS_AT_ONCE,
) -> int:
    """Fold the whole log into a new table beside the live one, then swap; events folded.

    Readers see the old rows until the swap and the new ones after it; the old table is kept for a
    rollback. A rebuild of the same declaration that was cut off is gone on with.

    Args:
        url: libpq connection string.
        table: the declaration.
        report: told how far it is.
        if_outdated: do nothing where another runner has rebuilt the table meanwhile.
        if_new: do nothing where the table has come further than position 0 meanwhile.
        rows_in_memory: rows after which they are written down.
        positions_at_once: log positions after which they are written down.

    Raises:
        psycopg.OperationalError: the database went away; what is done is kept.
    """
    # Once read, the log cannot be replaced before the swap: a restore waits for the reader's lock.
    async with await _connect(url) as writing, LogReader(url, hold=True) as reader:
        # Two rebuilds of one table would write into one another's new table.
        await store.lock_rebuild(writing, table)
        if if_outdated and not await store.outdated(writing, [table]):
            return 0
        known = await store.progress(writing, [table])
        if if_new and table.name in known and known[table.name].position:
            return 0
        begun = await store.begin_rebuild(writing, table)
        position = begun.position
        head = await _head(writing)
        while position < head:
            to = min(head, position + positions_at_once)
            if table.recompute is not None:
                to = head
            position = await _stretch(writing, reader, table, position, to, rows_in_memory, report)
            if position >= head:
                # What came in meanwhile is folded here too: little is left for the swap.
                newer = await _head(writing)
                head = newer if newer - head > _TAIL else head
        position = await _swap_in_time(writing, reader, table, position)
        if report is not None:
            report(position, position)
    return position - begun.position


async def _stretch(
    writing: Connection,
    reader: LogReader,
    table: Table,
    after: int,
    to: int,
    rows_in_memory: int,
    report: Report | None,
) -> int:
    """Fold a stretch into the table beside, or as much of it as memory holds; where it goes to."""
    started = monotonic()
    try:
        if table.recompute is not None:
            await _recompute(writing, reader, table, after, to, report)
            return to
        held = Accumulator(table)
        reached = after
        async for done, part in parts(reader, table, after, to):
            held.add(part)
            reached = done
            if report is not None:
                report(done, to)
            if held.height > rows_in_memory and held.part().height > rows_in_memory:
                break
        async with writing.transaction():
            rate = (reached - after) / max(monotonic() - started, 1e-6)
            if after == 0:
                made = finish(table, held.part())
                await rows.copy_rows(writing, table, made, NEXT)
            else:
                await _refuse_parked(writing, table)
                await fold_part(writing, reader, table, held.part(), reached, suffix=NEXT)
            await store.advance_rebuild(writing, table, reached, rate)
        return reached
    except Exception as error:
        if is_outage(error):
            raise
        _log.warning("stretch failed, folding with care", table=table.name, error=str(error))
    while after < to:
        end = min(to, after + _CAREFULLY)
        log_rows = await reader.between(wanted([table]), after, end)
        async with writing.transaction():
            await fold_or_park(writing, reader, table, log_rows, end, suffix=NEXT)
            await store.advance_rebuild(writing, table, end)
        after = end
        if report is not None:
            report(after, to)
    return to


class _Parked(Exception):
    """Keys are parked: every event has to be looked at before it is folded."""


async def _refuse_parked(writing: Connection, table: Table) -> None:
    if await dead_letters.parked_keys(writing, table, NEXT):
        raise _Parked("keys are parked")


async def _recompute(
    writing: Connection,
    reader: LogReader,
    table: Table,
    after: int,
    to: int,
    report: Report | None,
) -> None:
    """All rows of a table that is recomputed: the log is read once for each share of the keys, so
    that memory holds all events of those. Begins anew where it was cut off."""
    passes = 1 + to // _CONTRIBUTIONS
    async with writing.transaction():
        for number in range(passes):
            held = Accumulator(table)
            async for done, part in parts(
                reader, table, after, to, counts=partial(_share, table, passes, number)
            ):
                held.add(part)
                if report is not None:
                    report((number * to + done) // passes, to)
            await rows.copy_rows(writing, table, finish(table, held.part()), NEXT)
        await store.advance_rebuild(writing, table, to)


def _share(table: Table, passes: int, number: int, part: pl.DataFrame) -> pl.DataFrame:
    return part.filter(pl.struct(table.keys).hash(1) % passes == number)


async def _swap_in_time(writing: Connection, reader: LogReader, table: Table, position: int) -> int:
    """Swap as soon as nobody reads the table for longer than a moment."""
    while True:
        try:
            async with writing.transaction():
                await writing.execute(store.PATIENCE)
                return await _swap(writing, reader, table, position)
        except psycopg.errors.LockNotAvailable:
            _log.info("waiting to swap: the table is being read", table=table.name)
            await asyncio.sleep(1)


async def _swap(writing: Connection, reader: LogReader, table: Table, position: int) -> int:
    """Put the new table in place; the position that it is at."""
    known = await store.progress(writing, [table], lock=True)
    live = known[table.name].position if table.name in known else position
    if further := (await lanes.ahead(writing, [table])).get(table.name):
        live = further.furthest
    if await store.diverged(writing, [table]):
        live = position  # of another log: it says nothing about this one
    # What came in meanwhile and was folded into the old table is folded here, so that no reader is
    # thrown back behind a position that it has seen.
    while position < live:
        to = min(live, position + reader.window)
        log_rows = await reader.between(wanted([table]), position, to)
        await fold_or_park(writing, reader, table, log_rows, to, suffix=NEXT)
        position = to
    await store.swap(writing, table)
    await store.set_progress(writing, table, position, await _event_at(writing, position))
    return position


# some rows, in their place


async def rebuild_keys(url: str, table: Table, keys: pl.DataFrame) -> int:
    """Make the rows of some keys again from all of their events; how many keys.

    Args:
        url: libpq connection string.
        table: the declaration.
        keys: a frame of its key columns.

    Raises:
        NotLive: the live table is of another declaration or another log.
    """
    different = keys.select(table.keys).unique(maintain_order=True)
    for start in range(0, different.height, _KEYS_AT_ONCE):
        async with _live(url, table) as (writing, reader, position):
            some = different.slice(start, _KEYS_AT_ONCE)
            further = (await lanes.ahead(writing, [table])).get(table.name)
            for to, keys in lanes.by_position(some, position, further):
                await refold(writing, reader, table, keys, to)
    return different.height


async def rebuild_between(
    url: str, table: Table, after: int, to: int, report: Report | None = None
) -> int:
    """Make the rows again that events behind ``after`` and not beyond ``to`` say something about;
    how many. Each is made of all of its events."""
    touched = pl.DataFrame(schema={name: table.types[name] for name in table.keys})
    async with await _connect(url) as connection, LogReader(url) as reader:
        parked = await dead_letters.parked_positions(connection, table)
        end = after
        while end < to:
            start, end = end, await reader.window_end(end, to)
            frames = await reader.frames(wanted([table]), start, end, without=parked)
            part = contributions(table, frames)
            touched = pl.concat([touched, part.select(table.keys)]).unique()
            if report is not None:
                report(end - after, to - after)
    return await rebuild_keys(url, table, touched) if touched.height else 0


async def rebuild_organisation(
    url: str, table: Table, organisation_id: UUID, report: Report | None = None
) -> int:
    """Make all rows of one organisation again; how many. Those of others are not touched.

    Raises:
        NotLive: the live table is of another declaration or another log.
    """
    held = Accumulator(table)
    async with await _connect(url) as connection, LogReader(url) as reader:
        parked = await dead_letters.parked_positions(connection, table)
        known = await store.progress(connection, [table])
        before = known[table.name].position if table.name in known else 0

        async for done, part in parts(
            reader, table, 0, before, organisation_id=organisation_id, without=parked
        ):
            held.add(part)
            if report is not None:
                report(done, before)
    async with _live(url, table) as (writing, reader, position):
        further = (await lanes.ahead(writing, [table])).get(table.name)
        if further is not None:
            position = max(position, further.of(organisation_id))
        if position < before or await dead_letters.parked_positions(writing, table) != parked:
            raise NotLive(f"{table.name} was rolled back or parked something meanwhile: try again")
        # Little came in meanwhile: the table stands still only as long as this takes.
        async for _, part in parts(
            reader, table, before, position, organisation_id=organisation_id, without=parked
        ):
            held.add(part)
        made = finish(table, held.part())
        await rows.delete_all(writing, table, str(organisation_id))
        await rows.copy_rows(writing, table, made)
    return made.height


class NotLive(Exception):
    """A table whose rows cannot be made again in their place: all of it is of another making."""


@asynccontextmanager
async def _live(url: str, table: Table) -> AsyncIterator[tuple[Connection, LogReader, int]]:
    """A transaction that keeps others from folding the table, and the position it is at."""
    async with (
        await _connect(url) as writing,
        LogReader(url) as reader,
        writing.transaction(),
    ):
        known = await store.progress(writing, [table], lock=True)
        found = known.get(table.name)
        if found is None or found.fingerprint != table.fingerprint:
            raise NotLive(f"{table.name} was made by another declaration: rebuild all of it")
        if await store.diverged(writing, [table]):
            raise NotLive(f"{table.name} was made from another log: rebuild all of it")
        yield writing, reader, found.position


async def _connect(url: str) -> Connection:
    return await AsyncConnection.connect(url, autocommit=True, connect_timeout=5)


async def _head(connection: Connection) -> int:
    row = await (await connection.execute("SELECT position FROM log_head")).fetchone()
    assert row is not None
    return int(row[0])


async def _event_at(connection: Connection, position: int) -> UUID | None:
    cursor = await connection.execute(
        "SELECT event_id FROM events WHERE notification_id = %s", (position,), prepare=False
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]
