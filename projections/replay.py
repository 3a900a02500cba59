"""Folds dead letters again: one, some or all, in the order of their keys, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from psycopg import AsyncConnection

from eventstore.log import Connection
from projections import dead_letters, lanes, store
from projections.contributions import contributions
from projections.dead_letters import DeadLetter
from projections.engine import merge
from projections.folding import fold_part, is_outage, refold
from projections.frames import decode_frame, wanted
from projections.reading import LogReader
from projections.table import Table


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of dead letters: folded now, failed once more, waiting for an earlier one of
    their keys; and how many there are left."""

    projection: str
    folded: int
    failed: int
    waiting: int
    left: int


class NoSuchLetter(Exception):
    """A position that is not a dead letter of the table."""


async def replay(
    url: str,
    table: Table,
    *,
    positions: Collection[int] | None = None,
    limit: int = 1000,
    report: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Fold dead letters again, each in its own transaction; those that fail stay, and so do the
    later ones of their keys.

    Args:
        url: libpq connection string.
        table: the declaration.
        positions: which of them; all without it.
        limit: how many at most.
        report: told how many are done of how many.

    Raises:
        NoSuchLetter: one of the positions is no dead letter of this table.
    """
    async with (
        await AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as connection,
        LogReader(url) as reader,
    ):
        every = await _all(connection, table)
        unknown = set(positions or ()) - {letter.position for letter in every}
        if unknown:
            raise NoSuchLetter(f"{table.name} has no dead letter at position {min(unknown)}")
        chosen = [one for one in every if positions is None or one.position in positions][:limit]
        taken = {letter.position for letter in chosen}
        blocked: set[str] = set()
        folded = failed = waiting = 0
        for letter in every:
            if letter.position not in taken or not blocked.isdisjoint(letter.keys):
                # Later ones of these keys would overtake it.
                waiting += letter.position in taken
                blocked |= set(letter.keys)
                continue
            if await _fold(connection, reader, table, letter):
                folded += 1
            else:
                failed += 1
                blocked |= set(letter.keys)
            if report is not None:
                report(folded + failed + waiting, len(chosen))
        left = len(await dead_letters.parked_positions(connection, table))
    return Replayed(table.name, folded, failed, waiting, left)


async def _all(connection: Connection, table: Table) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    while True:
        after = found[-1].position if found else 0
        page = await dead_letters.letters(connection, table.name, after=after, limit=1000)
        found += page
        if len(page) < 1000:
            return found


async def _fold(
    connection: Connection, reader: LogReader, table: Table, letter: DeadLetter
) -> bool:
    """Whether a dead letter could be folded; if not, its error is the new one."""
    async with connection.transaction():
        # Keeps the live runner, a rebuild's swap and another replay out.
        known = (await store.progress(connection, [table], lock=True)).get(table.name)
        if known is None or known.fingerprint != table.fingerprint:
            return False
        still = await dead_letters.parked_positions(connection, table)
        if letter.position not in still:
            return True  # somebody else was quicker
        if not await dead_letters.is_first(connection, table, letter.position):
            return False  # another set of letters: the table was swapped meanwhile
        rows = await reader.between(wanted([table]), letter.position - 1, letter.position)
        further = (await lanes.ahead(connection, [table])).get(table.name)
        [(to, rows)] = lanes.by_position(rows, known.position, further)
        try:
            async with connection.transaction():
                await dead_letters.take_out(connection, table, letter.position)
                part = contributions(table, decode_frame(rows, wanted([table])))
                if any(key.startswith("stream/") for key in letter.keys) and table.merges:
                    # Its key was not known: later events of it were not held back.
                    keys = part.select(table.keys)
                    await refold(connection, reader, table, keys, to)
                else:
                    merged = merge(table, [part])
                    await fold_part(connection, reader, table, merged, to)
        except Exception as error:
            if is_outage(error):
                raise
            await dead_letters.fail_again(connection, table, letter.position, str(error))
            return False
    return True
