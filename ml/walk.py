"""Walks the log in windows, each with the feature tables as they stood: what replay, backtests and
measurements read. It is the consumer's way of reading, in memory and without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import polars as pl

from domain.values import Event
from ml.history import LogHistory
from projections.accumulate import Accumulator
from projections.contributions import contributions
from projections.frames import wanted
from projections.reading import LogReader
from projections.table import Table


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the log: its events, and the feature tables as of any position in it."""

    to: int
    events: Mapping[type[Event], pl.DataFrame]
    history: LogHistory


async def walk(
    reader: LogReader,
    organisation_id: UUID,
    tables: Sequence[Table],
    fields: Mapping[type[Event], set[str]],
    to: int,
    after: int = 0,
) -> AsyncIterator[Window]:
    """The windows of one organisation's log up to a position; the next one is read meanwhile.

    Args:
        reader: reads the log.
        organisation_id: whose events.
        tables: the feature tables that are kept.
        fields: which fields of which events a window shows, beside.
        to: the last position.
        after: windows begin behind it; what is before is folded into the tables all the same.
    """
    held = {table: Accumulator(table) for table in tables}
    asked = wanted(tables)
    for event, names in fields.items():
        asked[event] = asked.get(event, set()) | names

    async def piece(start: int) -> tuple[int, dict[type[Event], pl.DataFrame]]:
        end = await reader.window_end(start, after if start < after else to)
        return end, await reader.frames(asked, start, end, organisation_id)

    def next_piece(start: int) -> asyncio.Task[tuple[int, dict[type[Event], pl.DataFrame]]]:
        return asyncio.create_task(piece(start))

    task = next_piece(0) if to > 0 else None
    try:
        while task is not None:
            end, frames = await task
            task = next_piece(end) if end < to else None
            batch = {table: contributions(table, frames) for table in tables}
            if end > after:
                history = LogHistory(
                    {table: pl.concat([*held[table].parts, batch[table]]) for table in tables}
                )
                yield Window(end, frames, history)
            for table, part in batch.items():
                held[table].add(part)
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
