"""Folds events into the stored rows of one table: the one way for live, rebuilt and replayed.

What cannot be folded is found by halving and parked; everything else goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import polars as pl
import psycopg
import structlog
from polars.exceptions import PolarsError

from eventstore.log import Connection
from projections import dead_letters, rows
from projections.contributions import contributions
from projections.engine import finish, merge
from projections.frames import NewerTopic, decode_frame, wanted
from projections.part import AT, FIRST_EFFECTIVE, empty_part
from projections.reading import LogReader, left_out
from projections.table import LAST_EFFECTIVE, LAST_POSITION, Table

_log = structlog.get_logger(__name__)
#: Classes of SQLSTATE that say nothing about an event: connection, rollback, resources, operator.
#: Those that do: data, integrity, program limits.
_DATA = ("22", "23", "54")
_PASSING = ("08", "40", "53", "55", "57", "58")


#: Where more events of one batch fail, they are not what is wrong.
MOST_FAILURES = 100
#: So many events that failed may be parked beside a table in all.
MOST_LETTERS = 1000


#: No column of a table is called so.
_NEWEST = f"{AT}newest"


class TooManyFail(Exception):
    """So many events cannot be folded that the declaration is wrong: the table stops."""


def is_of_the_event(error: BaseException) -> bool:
    """Whether an error is an event's doing: its values, not the code, memory, disk or rights."""
    if isinstance(error, psycopg.Error):
        return (error.sqlstate or "")[:2] in _DATA
    return isinstance(error, PolarsError | ValueError | ArithmeticError)


def is_outage(error: BaseException) -> bool:
    """Whether the database went away or was busy: nothing is wrong with any event."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in _PASSING


async def fold_part(
    connection: Connection,
    reader: LogReader,
    table: Table,
    part: pl.DataFrame,
    to: int,
    *,
    suffix: str = "",
) -> None:
    """Fold a part that is newer than the stored rows into them, in the caller's transaction.

    Args:
        connection: in a transaction.
        reader: for keys whose rows must be made from all of their events again.
        table: the declaration.
        part: what the events between the stored rows' position and ``to`` contribute.
        to: the log position that the rows will stand for.
        suffix: which of the read model's tables.
    """
    if part.is_empty():
        return
    if not table.refolds:
        await rows.merge_part(connection, table, part, suffix=suffix)
        return
    again = part.select(table.keys).unique(maintain_order=True)
    if table.recompute is None:
        # A row whose newest event counts from later than what comes in now: its order is another.
        stored = await rows.read_rows(connection, table, part, suffix)
        known = stored.select(*table.keys, pl.col(LAST_EFFECTIVE).alias(_NEWEST))
        late = part.join(known, on=table.keys).filter(pl.col(FIRST_EFFECTIVE) < pl.col(_NEWEST))
        again = late.select(table.keys)
        if not again.is_empty():
            part = part.join(again, on=table.keys, how="anti")
            stored = stored.join(again, on=table.keys, how="anti")
        await rows.merge_part(connection, table, part, suffix=suffix, stored=stored)
    if not again.is_empty():
        await refold(connection, reader, table, again, to, suffix=suffix)


async def refold(
    connection: Connection,
    reader: LogReader,
    table: Table,
    keys: pl.DataFrame,
    to: int,
    *,
    suffix: str = "",
) -> None:
    """Make the rows of some keys from all of their events up to a position again."""
    parked = await dead_letters.parked_positions(connection, table, suffix)
    part = await part_of_keys(reader, table, keys, to, without=parked)
    made = finish(table, merge(table, [part]))
    await rows.replace_rows(connection, table, keys, made, suffix=suffix)


async def part_of_keys(
    reader: LogReader,
    table: Table,
    keys: pl.DataFrame,
    to: int,
    *,
    without: Collection[int] = (),
) -> pl.DataFrame:
    """The contributions of all events up to a position to some keys of a table (a frame of
    ``organisation_id`` and some or all of its other key columns), without those of some
    positions."""
    named = [name for name in table.keys if name in keys.columns]
    asked = keys.select(named).unique()
    told = [empty_part(table)]
    async for found in reader.of_keys(table, keys, to):
        frames = decode_frame(left_out(found, without), wanted([table]))
        told.append(contributions(table, frames).join(asked, on=named, how="semi"))
    return pl.concat(told).sort(LAST_POSITION, maintain_order=True)


async def fold_rows(
    connection: Connection,
    reader: LogReader,
    table: Table,
    log_rows: pl.DataFrame,
    to: int,
    *,
    parked: Collection[str] = (),
    suffix: str = "",
) -> None:
    """Fold log rows; events whose keys are parked are parked behind them."""
    frames = decode_frame(log_rows, wanted([table]))
    held: dict[int, Sequence[str]] = {}
    if parked and not log_rows.is_empty():
        keys = dead_letters.keys_by_position(table, frames)
        span = (int(log_rows["position"][0]), int(log_rows["position"][-1]))
        streamed = await dead_letters.in_parked_streams(connection, parked, span)
        mine = set(log_rows["position"])
        for position, streams in streamed.items():
            if position not in mine:  # an event that the table does not fold
                continue
            held[position] = (*streams, *keys.get(position, ()))
        closed = {*parked, *(key for of in held.values() for key in of)}
        held |= dead_letters.waiting(keys, closed)
        await dead_letters.park(connection, table, held, suffix=suffix)
    part = contributions(table, frames)
    if held:
        part = part.filter(~pl.col(LAST_POSITION).is_in(list(held)))
    await fold_part(connection, reader, table, merge(table, [part]), to, suffix=suffix)


async def fold_or_park(
    connection: Connection,
    reader: LogReader,
    table: Table,
    log_rows: pl.DataFrame,
    to: int,
    *,
    suffix: str = "",
) -> None:
    """As ``fold_rows``, in the caller's transaction; events that cannot be folded are found by
    halving and parked, with the later ones of their keys.

    Raises:
        NewerTopic: newer code wrote an event: it waits for that code, it is not wrong.
        TooManyFail: so many events fail that the declaration is what is wrong.
        psycopg.OperationalError: the database went away.
    """
    await _fold_or_park(connection, reader, table, log_rows, to, suffix, Counter())


async def _fold_or_park(
    connection: Connection,
    reader: LogReader,
    table: Table,
    log_rows: pl.DataFrame,
    to: int,
    suffix: str,
    failed: Counter[str],
) -> None:
    if log_rows.is_empty():
        return
    parked = await dead_letters.parked_keys(connection, table, suffix)
    try:
        async with connection.transaction():
            await fold_rows(connection, reader, table, log_rows, to, parked=parked, suffix=suffix)
        return
    except NewerTopic:
        raise
    except Exception as error:
        if not is_of_the_event(error):
            raise
        if log_rows.height == 1:
            failed[table.name] += 1
            if failed[table.name] > MOST_FAILURES:
                raise TooManyFail(
                    f"more than {MOST_FAILURES} events of one batch cannot be folded: {error}"
                ) from error
            if await dead_letters.failures(connection, table, suffix) >= MOST_LETTERS:
                raise TooManyFail(
                    f"{MOST_LETTERS} dead letters with errors are enough: {error}"
                ) from error
            position = int(log_rows["position"][0])
            _log.error("event parked", table=table.name, position=position, error=str(error))
            keys = _keys_of(table, log_rows, position)
            await dead_letters.park(
                connection, table, {position: keys}, error=str(error), suffix=suffix
            )
            return
    middle = log_rows.height // 2
    first, second = log_rows.slice(0, middle), log_rows.slice(middle)
    between = int(first["position"][-1])
    await _fold_or_park(connection, reader, table, first, between, suffix, failed)
    await _fold_or_park(connection, reader, table, second, to, suffix, failed)


def _keys_of(table: Table, log_rows: pl.DataFrame, position: int) -> list[str] | None:
    """The keys of one event; None where it cannot even be read."""
    try:
        fields = {event: table.key_fields(event) for event in table.events}
        return dead_letters.keys_by_position(table, decode_frame(log_rows, fields))[position]
    except Exception as error:
        _log.debug("event has no key", table=table.name, position=position, error=str(error))
        return None
