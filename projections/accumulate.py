"""Folds a stretch of the log in memory: windows are read ahead while the last one is folded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from uuid import UUID

import polars as pl

from projections.contributions import contributions
from projections.engine import folded, merge
from projections.frames import Frames, wanted
from projections.part import empty_part
from projections.reading import LogReader
from projections.table import Table

#: Rows of parts that are merged in one go: merging each window by itself would read the rows of a
#: large table again with every one.
_MERGED_AT_ONCE = 200_000
#: Windows that are read or folded at once: one is read while two are folded, which takes longer.
_AHEAD = 3
#: Keeps the contributions that count.
Counts = Callable[[pl.DataFrame], pl.DataFrame]


class Accumulator:
    """Parts of one table in log order, merged from time to time."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._parts: list[pl.DataFrame] = []
        self._merged_height = 0

    def add(self, part: pl.DataFrame) -> None:
        """Take the next part."""
        self._parts.append(part)
        height = sum(part.height for part in self._parts)
        if height > 2 * self._merged_height + _MERGED_AT_ONCE:
            self._merged_height = self.part().height

    def part(self) -> pl.DataFrame:
        """All of them as one."""
        if not self._parts:
            return empty_part(self._table)
        if len(self._parts) > 1 or self._table.closes:
            self._parts = [folded(self._table, self._parts)]
        return self._parts[0]

    @property
    def parts(self) -> list[pl.DataFrame]:
        """What was added, merged up to some point."""
        return self._parts

    @property
    def height(self) -> int:
        """Rows held, before they are merged."""
        return sum(part.height for part in self._parts)


async def parts(
    reader: LogReader,
    table: Table,
    after: int,
    to: int,
    *,
    organisation_id: UUID | None = None,
    counts: Counts | None = None,
    without: Collection[int] = (),
) -> AsyncIterator[tuple[int, pl.DataFrame]]:
    """The parts of a stretch of the log, window by window, each with the position it goes to.

    Args:
        reader: reads the log.
        table: the declaration.
        after: the position behind which it begins.
        to: the last position.
        organisation_id: only events of this organisation.
        counts: leaves contributions out.
        without: positions of events that are not even looked at: they cannot be folded.
    """
    fields = wanted([table])

    def fold(frames: Frames) -> pl.DataFrame:
        part = contributions(table, frames)
        return merge(table, [part if counts is None else counts(part)])

    async def piece(start: int, end: int) -> pl.DataFrame:
        frames = await reader.frames(fields, start, end, organisation_id, without)
        return await asyncio.to_thread(fold, frames)

    ahead: deque[tuple[int, asyncio.Task[pl.DataFrame]]] = deque()
    asked = after
    try:
        while asked < to or ahead:
            while asked < to and len(ahead) < _AHEAD:
                start, asked = asked, await reader.window_end(asked, to)
                ahead.append((asked, asyncio.create_task(piece(start, asked))))
            done, task = ahead.popleft()
            yield done, await task
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)
