"""The one engine of all folds, on polars frames: contributions, merging, the running form.

A *part* is a frame with the table's keys, its columns and ``last_position`` (the log position of
the newest event in each row). One event's contribution is a part, a batch is a part, a stored row
is a part; parts merge to parts, in log order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import polars as pl

from domain.values import Event
from eventstore import StoredEvent
from projections.fold import Fold, Merge, Table
from projections.frames import Frames, decode, wanted
from projections.schema import METADATA, DataType, fields_of

LAST_POSITION = "last_position"


@cache
def part_schema(table: Table) -> dict[str, DataType]:
    """The columns of a part and their types, found by running the declaration on no rows."""
    empty: dict[type, pl.DataFrame] = {}
    for event in table.events:
        known = {**METADATA, **fields_of(event)}
        fields = table.fields(event) | {"position", "organisation_id"}
        empty[event] = pl.DataFrame(schema={name: known[name] for name in sorted(fields)})
    return dict(_stacked(table, empty).schema)


def row_schema(table: Table) -> dict[str, DataType]:
    """The columns of a finished row and their types."""
    return dict(finish(table, pl.DataFrame(schema=part_schema(table))).schema)


def contributions(table: Table, frames: Frames) -> pl.DataFrame:
    """What each event contributes, in log order: one row for each event with a key."""
    if not any(event in frames for event in table.events):
        return pl.DataFrame(schema=part_schema(table))
    part = _stacked(table, frames).cast(pl.Schema(part_schema(table)))
    sums = [pl.col(name).fill_null(0) for name in _sums(table)]
    return part.with_columns(sums).sort(LAST_POSITION, maintain_order=True)


def _stacked(table: Table, frames: Frames) -> pl.DataFrame:
    parts = []
    for event in table.events:
        frame = frames.get(event)
        if frame is None:
            continue
        columns = [_contribution(fold, event).alias(name) for name, fold in table.columns.items()]
        part = frame.select(
            pl.col("organisation_id"),
            *table.key_of(event),
            *columns,
            pl.col("position").alias(LAST_POSITION),
        )
        parts.append(part.drop_nulls(list(table.keys)))
    return pl.concat(parts, how="vertical_relaxed")


def merge(table: Table, parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One row for each key from parts in log order."""
    rows = pl.concat(parts, how="vertical_relaxed") if len(parts) > 1 else parts[0]
    if table.every_event or rows.is_empty():
        return rows
    folded = [_merged(name, fold) for name, fold in table.columns.items()]
    return rows.group_by(table.keys, maintain_order=True).agg(*folded, pl.col(LAST_POSITION).max())


def finish(table: Table, part: pl.DataFrame) -> pl.DataFrame:
    """Rows as readers see them: a part with its computed columns."""
    return part.with_columns(**table.computed) if table.computed else part


def fold_events(table: Table, events: Sequence[StoredEvent]) -> pl.DataFrame:
    """The part that some events make: decode, contribute, merge."""
    return merge(table, [contributions(table, decode(events, wanted([table])))])


def running(table: Table, parts: pl.DataFrame, probes: pl.DataFrame) -> pl.DataFrame:
    """Each probe with the table's columns as of its position, in one pass.

    Args:
        table: the declaration.
        parts: parts in log order, for example stored rows before the contributions of a batch.
        probes: the table's keys and ``position``, and any other columns.

    Returns:
        The probes in their order, with the columns of the row that the table would have had at
        that position, its ``last_position`` (null where it had no row) and computed columns.
    """
    keys = list(table.keys)
    cumulated = [_cumulated(name, fold).over(keys) for name, fold in table.columns.items()]
    history = parts.sort(LAST_POSITION, maintain_order=True).with_columns(cumulated)
    # Rows without a key cannot match and would upset the join.
    found = (
        probes.with_row_index("_probe")
        .sort("position")
        .join_asof(
            history,
            left_on="position",
            right_on=LAST_POSITION,
            by=keys,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        .sort("_probe")
        .drop("_probe")
    )
    zero = [pl.col(name).fill_null(0) for name in _sums(table)]
    return finish(table, found.with_columns(zero))


def _contribution(fold: Fold, event: type[Event]) -> pl.Expr:
    expression = fold.contributions.get(event, pl.lit(None))
    return expression if fold.dtype is None else expression.cast(fold.dtype)


def _sums(table: Table) -> list[str]:
    return [name for name, fold in table.columns.items() if fold.merge is Merge.TOTAL]


def _merged(name: str, fold: Fold) -> pl.Expr:
    column = pl.col(name)
    match fold.merge:
        case Merge.FIRST:
            return column.drop_nulls().first()
        case Merge.LAST:
            return column.drop_nulls().last()
        case Merge.TOTAL:
            return column.sum()
        case Merge.LEAST:
            return column.min()
        case Merge.GREATEST:
            return column.max()


def _cumulated(name: str, fold: Fold) -> pl.Expr:
    column = pl.col(name)
    match fold.merge:
        case Merge.FIRST:
            seen = column.is_not_null().cum_sum()
            return pl.when(seen == 1).then(column).forward_fill()
        case Merge.LAST:
            return column.forward_fill()
        case Merge.TOTAL:
            return column.cum_sum()
        case Merge.LEAST:
            return column.cum_min().forward_fill()
        case Merge.GREATEST:
            return column.cum_max().forward_fill()
