"""What a table would have said at a log position, or by the times from which events count."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from uuid import UUID

import polars as pl

from projections.accumulate import Accumulator, parts
from projections.contributions import contributions
from projections.engine import finish, merge
from projections.folding import part_of_keys
from projections.frames import wanted
from projections.part import FIRST_EFFECTIVE, empty_part
from projections.reading import LogReader
from projections.running import running
from projections.table import Table


class NotByEffectiveTime(Exception):
    """A table that folds its events in log order was asked by effective time."""


async def rows_as_of(
    reader: LogReader,
    table: Table,
    position: int,
    *,
    organisation_id: UUID | None = None,
    keys: pl.DataFrame | None = None,
    effective_at: datetime | None = None,
    parked: Collection[int] = (),
    report: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """The finished rows of a table as of a log position, folded from the log.

    Args:
        reader: reads the log.
        table: the declaration.
        position: the last position that counts.
        organisation_id: only rows of this organisation.
        keys: only rows of these keys (a frame of the table's key columns): nothing else is folded.
        effective_at: only what counts from this moment or earlier, as far as it was on the log.
        parked: positions that do not count: the table could not fold them.
        report: told how far it is, in positions done and in all.

    Raises:
        NotByEffectiveTime: ``effective_at`` for a table without ``effective``.
    """
    if effective_at is not None and not table.effective:
        raise NotByEffectiveTime(f"{table.name} knows no time from which its events count")

    def counts(part: pl.DataFrame) -> pl.DataFrame:
        if effective_at is None:
            return part
        return part.filter(pl.col(FIRST_EFFECTIVE) <= effective_at)

    if keys is not None:
        if keys.is_empty():
            return finish(table, Accumulator(table).part())
        part = counts(await part_of_keys(reader, table, keys, position, without=parked))
        return finish(table, merge(table, [part]))
    held = Accumulator(table)
    async for done, part in parts(
        reader, table, 0, position, organisation_id=organisation_id, counts=counts, without=parked
    ):
        held.add(part)
        if report is not None:
            report(done, position)
    return finish(table, held.part())


async def running_as_of(
    reader: LogReader,
    table: Table,
    probes: pl.DataFrame,
    to: int,
    organisation_id: UUID | None = None,
    report: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Each probe with the table's columns as of its position: one pass over the log, in which only
    what is said about the probes' keys is kept. See ``projections.running.running``.

    Args:
        reader: reads the log.
        table: the declaration.
        probes: the table's keys and ``position``, and any other columns.
        to: the last position that is read.
        organisation_id: only events of this organisation.
        report: told how far it is, in positions done and in all.
    """
    fields = wanted([table])
    asked = probes.select(table.keys).unique()
    told = [empty_part(table)]
    done = 0
    while done < to:
        start, done = done, await reader.window_end(done, to)
        part = contributions(table, await reader.frames(fields, start, done, organisation_id))
        told.append(part.join(asked, on=table.keys, how="semi"))
        if report is not None:
            report(done, to)
    return running(table, pl.concat(told), probes)
