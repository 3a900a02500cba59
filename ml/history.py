"""Feature values as of a log position: from live rows and a batch, or from the whole log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from eventstore.log import Connection
from ml.kind import History, Kind, Source
from projections import rows
from projections.look_up import can_be_looked_up, look_up
from projections.running import running
from projections.table import LAST_POSITION, Table

Parts = Mapping[Table, pl.DataFrame]

#: Rows up to which looking the same key up twice costs less than seeing that it is the same.
_FEW = 100
_PLACE = "@place"


class LogHistory:
    """The contributions of a stretch of the log from its start on, in memory: for training, replay
    and backtests. They may be merged up to any position before the first one that is asked for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def as_of(self, asked: Sequence[tuple[Table, pl.DataFrame]]) -> list[pl.DataFrame]:
        """By the running form of the contributions."""
        return [_running(table, self._of(table, probes), probes) for table, probes in asked]

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """The organisation's contributions."""
        return self._parts[table].filter(pl.col("organisation_id") == organisation_id)

    def _of(self, table: Table, probes: pl.DataFrame) -> pl.DataFrame:
        """The contributions to the probes' rows, or more."""
        held = self._parts[table]
        if held.height < 2 * probes.height:
            return held
        return held.join(probes.select(table.keys).unique(), on=table.keys, how="semi")


class LiveHistory:
    """The rows as of the consumer's position, and behind them the contributions of a batch."""

    def __init__(self, connection: Connection, batch: Parts) -> None:
        self._connection = connection
        self._batch = batch
        # Pieces are prepared while others are scored; a connection can do one thing at a time.
        self._turn = asyncio.Lock()

    async def as_of(self, asked: Sequence[tuple[Table, pl.DataFrame]]) -> list[pl.DataFrame]:
        """Stored rows as they are, where the batch says nothing about a table; else the running
        form of the rows and the batch."""
        found: dict[int, pl.DataFrame] = {}
        settled = [
            number
            for number, (table, _) in enumerate(asked)
            if self._batch[table].is_empty() and can_be_looked_up(table)
        ]
        async with self._turn:
            if settled:
                # Every request is behind all rows of these: where it stands does not matter.
                keys = [_different(asked[n][1].select(asked[n][0].keys)) for n in settled]
                values = await look_up(
                    self._connection,
                    [(asked[n][0], some) for n, (some, _) in zip(settled, keys, strict=True)],
                )
                found = {
                    number: _placed(one, places)
                    for number, one, (_, places) in zip(settled, values, keys, strict=True)
                }
            for number, (table, probes) in enumerate(asked):
                if number not in found:
                    known = probes.drop_nulls(table.keys)
                    stored = await rows.read_rows(self._connection, table, known)
                    parts = pl.concat([stored, self._batch[table]])
                    found[number] = _running(table, parts, probes)
        return [found[number] for number in range(len(asked))]

    async def every(self, table: Table, organisation_id: str) -> pl.DataFrame:
        """The organisation's rows, then its part of the batch."""
        async with self._turn:
            stored = await rows.read_all(self._connection, table, organisation_id)
        batch = self._batch[table].filter(pl.col("organisation_id") == organisation_id)
        return pl.concat([stored, batch])


def _running(table: Table, parts: pl.DataFrame, probes: pl.DataFrame) -> pl.DataFrame:
    different, places = _different(probes)
    values = running(table, parts, different).drop(*table.keys, "position")
    return _placed(values, places)


async def join(
    frame: pl.DataFrame,
    alias: str,
    table: Table,
    history: History,
    keys: Mapping[str, pl.Expr] | None = None,
) -> pl.DataFrame:
    """The frame with the table's columns as of each row's ``position``, called alias__column.

    ``keys``: the table's key columns that the frame has under another name, or has to compute.
    """
    return await _joined(frame, [Source(alias, table, keys or {})], history)


async def with_sources(kind: Kind, frame: pl.DataFrame, history: History) -> pl.DataFrame:
    """Candidates with the columns of all sources and ``lineage`` columns (alias__last_position)."""
    missing: list[Source] = []
    for source in kind.sources:
        if f"{source.alias}__{LAST_POSITION}" in frame.columns:
            continue
        if _needs(source, missing):
            frame, missing = await _joined(frame, missing, history), []
        missing.append(source)
    return await _joined(frame, missing, history)


def _needs(source: Source, others: Sequence[Source]) -> bool:
    """Whether a source's keys are computed from columns of others, which are not there yet."""
    roots = {name for key in source.keys.values() for name in key.meta.root_names()}
    return any(name.startswith(f"{other.alias}__") for name in roots for other in others)


async def _joined(frame: pl.DataFrame, sources: Sequence[Source], history: History) -> pl.DataFrame:
    """The frame with the columns of some sources, which are asked for together."""
    asked = []
    for source in sources:
        keys = [source.keys.get(key, pl.col(key)).alias(key) for key in source.table.keys]
        asked.append((source.table, frame.select(*keys, pl.col("position"))))
    columns: list[pl.Series] = []
    for source, values in zip(sources, await history.as_of(asked), strict=True):
        columns += [one.alias(f"{source.alias}__{one.name}") for one in values.iter_columns()]
    return frame.hstack(columns) if columns else frame


def _different(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series | None]:
    """The different rows of a frame, and which of them each row is; None: the rows themselves.

    Candidates of a batch share most of their keys: each is looked up once.
    """
    if rows.height <= _FEW:
        return rows, None
    different = rows.unique(maintain_order=True)
    numbered = different.with_row_index(_PLACE)
    places = rows.join(
        numbered, on=rows.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    return different, places[_PLACE]


def _placed(values: pl.DataFrame, places: pl.Series | None) -> pl.DataFrame:
    """The values of different rows, for each row again."""
    return values if places is None else values.select(pl.all().gather(places))


def features(kind: Kind, frame: pl.DataFrame) -> pl.DataFrame:
    """The features as float64 columns in the schema's order, null where a value is not known."""
    own = [one for one in kind.features if not one.derived]
    columns = frame.select(one.value.cast(pl.Float64).alias(one.name) for one in own)
    return derived(kind, columns)


def derived(kind: Kind, columns: pl.DataFrame) -> pl.DataFrame:
    """The features with those that follow from others computed (again)."""
    following = [one for one in kind.features if one.derived]
    return columns.with_columns(
        one.value.cast(pl.Float64).alias(one.name) for one in following
    ).select(kind.feature_names)


def matrix(kind: Kind, frame: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The model's input: a row for each candidate, float32, NaN where a value is not known."""
    return as_matrix(features(kind, frame))


def as_matrix(columns: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Feature columns as the model's input."""
    filled = columns.fill_null(float("nan"))
    values: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]] = [
        column.to_numpy().astype(np.float32) for column in filled.iter_columns()
    ]
    if not columns.height:
        return np.empty((0, len(values)), np.float32)
    return np.column_stack(values)
