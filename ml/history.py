"""Feature values as of a log position: from live rows and a batch, or from the whole log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from eventstore.log import Connection
from ml.kind import History, Kind
from projections import rows
from projections.running import running
from projections.table import LAST_POSITION, Table

Parts = Mapping[Table, pl.DataFrame]


class LogHistory:
    """The contributions of a whole log, in memory: for training and replay."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def parts(self, table: Table, keys: pl.DataFrame) -> pl.DataFrame:
        """All contributions."""
        return self._parts[table]

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """The organisation's contributions."""
        return self._parts[table].filter(pl.col("organisation_id") == organisation_id)


class LiveHistory:
    """The rows as of the consumer's position, and behind them the contributions of a batch."""

    def __init__(self, connection: Connection, batch: Parts) -> None:
        self._connection = connection
        self._batch = batch

    async def parts(self, table: Table, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of the keys, then the batch."""
        stored = await rows.read_rows(self._connection, table, keys.drop_nulls(table.keys))
        return pl.concat([stored, self._batch[table]])

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """The organisation's rows, then its part of the batch."""
        stored = await rows.read_all(self._connection, table, organisation_id)
        batch = self._batch[table].filter(pl.col("organisation_id") == organisation_id)
        return pl.concat([stored, batch])


async def join(frame: pl.DataFrame, alias: str, table: Table, history: History) -> pl.DataFrame:
    """The frame with the table's columns as of each row's ``position``, called alias__column."""
    keys = frame.select(*table.keys, "position")
    parts = await history.parts(table, keys)
    values = running(table, parts, keys).drop(*table.keys, "position")
    return frame.hstack(values.rename(lambda column: f"{alias}__{column}"))


async def with_sources(kind: Kind, frame: pl.DataFrame, history: History) -> pl.DataFrame:
    """Candidates with the columns of all sources and ``lineage`` columns (alias__last_position)."""
    for source in kind.sources:
        if f"{source.alias}__{LAST_POSITION}" not in frame.columns:
            frame = await join(frame, source.alias, source.table, history)
    return frame


def matrix(kind: Kind, frame: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The model's input: a row for each candidate, float32, NaN where a value is not known."""
    columns = frame.select(
        feature.value.cast(pl.Float64).fill_null(float("nan")).alias(feature.name)
        for feature in kind.features
    )
    values: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]] = [
        columns[name].to_numpy().astype(np.float32) for name in kind.feature_names
    ]
    return np.column_stack(values) if frame.height else np.empty((0, len(values)), np.float32)
