"""The one engine of all folds: parts merge to parts and are finished to rows. See ``part.py``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import polars as pl

from eventstore import StoredEvent
from projections.contributions import contributions
from projections.fold import Fold, Merge
from projections.frames import decode, wanted
from projections.part import (
    CLOSED,
    FIRST_EFFECTIVE,
    ORDER,
    columns_by_order,
    order_of,
    orders_of,
    part_schema,
)
from projections.table import LAST_EFFECTIVE, LAST_POSITION, Table, seen


def merge(table: Table, parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One part from several, in any order; one row for each key, except where rows stay as many as
    the events (``every_event``, ``recompute``) or may yet be forgotten (``closes``).

    Raises:
        polars.exceptions.InvalidOperationError: a total leaves 64 bits.
    """
    rows = pl.concat(parts) if len(parts) > 1 else parts[0]
    if rows.is_empty():
        return rows
    if not table.reduces:
        if len(parts) > 1:
            rows = rows.sort(ORDER, maintain_order=True)
        return _unforgotten(table, rows) if table.closes else rows
    return _reduced(table, rows)


def folded(table: Table, parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """As ``merge``, of parts in log order that nothing can come between: what a closing event makes
    to be forgotten is forgotten, and the rest becomes one row."""
    rows = merge(table, parts)
    if not table.closes or rows.is_empty():
        return rows
    closing = pl.col(CLOSED).is_not_null() & (pl.col(CLOSED) == pl.col(ORDER))
    said = (*table.columns, *columns_by_order(table))  # a closing event is forgotten too
    return _reduced(table, rows.with_columns(pl.when(~closing).then(pl.col(said)).name.keep()))


def finish(table: Table, part: pl.DataFrame) -> pl.DataFrame:
    """Rows as readers see them (and as they are stored): values without orders, computed columns,
    no row that a closing event took away."""
    if table.recompute is not None:
        return _recomputed(table, part)
    if table.closes:
        part = folded(table, [part])
        part = part.filter(pl.col(CLOSED).is_null() | (pl.col(CLOSED) < pl.col(ORDER)))
    return _computed(table, part.select(_finished(table)))


@cache
def _finished(table: Table) -> list[pl.Expr]:
    """The columns of finished rows before the computed ones, made once."""
    columns = [visible(name, fold) for name, fold in table.columns.items()]
    remembered = [
        _remembered(name, fold).alias(seen(name))
        for name, fold in table.columns.items()
        if fold.merge in (Merge.DISTINCT, Merge.LATEST)
    ]
    last = [LAST_POSITION, *([LAST_EFFECTIVE] if table.effective else [])]
    return [*map(pl.col, table.keys), *columns, *map(pl.col, last), *remembered]


def resume(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The part that stored rows are: each stands for all events of its key up to its
    ``last_position``, so that whatever is merged with it comes after it."""
    return rows.select(_resumed(table))


@cache
def _resumed(table: Table) -> list[pl.Expr]:
    """The columns of the part that stored rows are, made once."""
    order = order_of(table, pl.col(LAST_POSITION), pl.col(LAST_EFFECTIVE), pl.lit(0))
    made: dict[str, pl.Expr] = {name: pl.col(name) for name in table.keys}
    made |= {name: _state(table, name, fold) for name, fold in table.columns.items()}
    for at, names in columns_by_order(table).items():
        values = pl.any_horizontal(_state(table, n, table.columns[n]).is_not_null() for n in names)
        made[at] = pl.when(values).then(order)
    made[LAST_POSITION] = pl.col(LAST_POSITION)
    made[LAST_EFFECTIVE] = made[FIRST_EFFECTIVE] = pl.col(LAST_EFFECTIVE)
    made |= {ORDER: order, CLOSED: pl.lit(None)}
    return [made[name].cast(dtype).alias(name) for name, dtype in part_schema(table).items()]


def fold_events(table: Table, events: Sequence[StoredEvent]) -> pl.DataFrame:
    """The part that some events make: decode, contribute, merge."""
    return merge(table, [contributions(table, decode(events, wanted([table])))])


# merging


def _reduced(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each key."""
    if rows.height == 1:
        return rows
    folded = rows.group_by(table.keys, maintain_order=True).agg(_foldings(table))
    return folded.select(list(part_schema(table)))


@cache
def _foldings(table: Table) -> list[pl.Expr]:
    """How the columns of parts become one, made once."""
    states = [_merged(table, name, fold) for name, fold in table.columns.items()]
    orders = [
        pl.col(at).min() if table.columns[of[0]].merge is Merge.FIRST else pl.col(at).max()
        for at, of in columns_by_order(table).items()
    ]
    names = [LAST_POSITION, LAST_EFFECTIVE, ORDER, CLOSED]
    newest = [pl.col(name).max() for name in names if name in part_schema(table)]
    oldest = [pl.col(FIRST_EFFECTIVE).min()] if table.effective else []
    return [*states, *orders, *oldest, *newest]


def _merged(table: Table, name: str, fold: Fold) -> pl.Expr:
    column = pl.col(name)
    match fold.merge:
        case Merge.FIRST:
            return column.min_by(orders_of(table)[name])
        case Merge.LAST:
            return column.max_by(orders_of(table)[name])
        case Merge.TOTAL:
            return _sum(table, name, column)
        case Merge.LEAST:
            return column.min()
        case Merge.GREATEST:
            return column.max()
        case _:
            return merged_list(fold, column.explode().drop_nulls())


def _sum(table: Table, name: str, column: pl.Expr) -> pl.Expr:
    # In 64 bits a sum would wrap around and say nothing.
    if table.types[name] == pl.Int64():
        return column.cast(pl.Int128).sum().cast(pl.Int64)
    return column.sum()


def merged_list(fold: Fold, items: pl.Expr) -> pl.Expr:
    """The state of a column that is a list, from the items of several."""
    if fold.merge is Merge.DISTINCT:
        return items.unique().sort().head(fold.most + 1)  # one more tells whether there are more
    ordered = items.sort_by(items.struct.field("at"), maintain_order=True)
    if fold.merge is Merge.LATEST:
        ordered = ordered.filter(ordered.struct.field("key").is_last_distinct())
    return ordered.tail(fold.most) if fold.newest else ordered.head(fold.most)


def _unforgotten(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows behind the last closing event of their key, and that event."""
    closed = pl.col(CLOSED).max().over(table.keys)
    return rows.filter(closed.is_null() | (pl.col(ORDER) >= closed))


# finished rows


def visible(name: str, fold: Fold) -> pl.Expr:
    """A column's value as readers see it, from its state."""
    column = pl.col(name)
    match fold.merge:
        case Merge.COLLECT:
            values = column.list.eval(pl.element().struct.field("value"))
            return values.fill_null(_NONE)
        case Merge.LATEST:
            entry = pl.struct(pl.element().struct.field("key"), pl.element().struct.field("value"))
            entries = column.list.eval(entry.sort_by(pl.element().struct.field("key")))
            return entries.fill_null(_NONE)
        case Merge.DISTINCT:
            return _estimate(column, fold.most).alias(name)
        case _:
            return column


_NONE = pl.lit([], pl.List(pl.Null))


def _estimate(hashes: pl.Expr, most: int) -> pl.Expr:
    """How many different values there are, from the smallest of their hashes."""
    kept = hashes.list.len().cast(pl.Int64).fill_null(0)
    # Hashes are kept as signed numbers, as Postgres has them: the least is -2**63.
    share = hashes.list.max().cast(pl.Float64) / 2.0**64 + 0.5
    return pl.when(kept <= most).then(kept).otherwise((most / share).round().cast(pl.Int64))


def _remembered(name: str, fold: Fold) -> pl.Expr:
    """What a fold has to remember beside its value."""
    column = pl.col(name)
    if fold.merge is Merge.DISTINCT:
        return column
    entry = pl.struct(pl.element().struct.field("key"), pl.element().struct.field("value"))
    return column.list.eval(entry)


def _state(table: Table, name: str, fold: Fold) -> pl.Expr:
    """The state of a column from what is stored of it."""
    match fold.merge:
        case Merge.COLLECT:
            return _marked(table, name, {"value": pl.element()})
        case Merge.LATEST:
            parts = {part: pl.element().struct.field(part) for part in ("key", "value")}
            return _marked(table, seen(name), parts).alias(name)
        case Merge.DISTINCT:
            return pl.col(seen(name)).alias(name)
        case _:
            return pl.col(name)


def _marked(table: Table, name: str, parts: dict[str, pl.Expr]) -> pl.Expr:
    entry = pl.struct(_older(table).alias("at"), *(x.alias(n) for n, x in parts.items()))
    return pl.col(name).list.eval(entry)


def _older(table: Table) -> pl.Expr:
    """Before every order that an event has."""
    return pl.lit(-(2**126), pl.Int128) if table.effective else pl.lit(-(2**62), pl.Int64)


def _recomputed(table: Table, part: pl.DataFrame) -> pl.DataFrame:
    assert table.recompute is not None
    given = part.sort(ORDER, maintain_order=True).drop(ORDER)
    rows = table.recompute(given)
    last = given.group_by(table.keys).agg(pl.col(LAST_POSITION).max())
    rows = rows.drop(LAST_POSITION, strict=False).join(last, on=table.keys, how="inner")
    return _computed(table, rows)


def _computed(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.with_columns(**table.computed) if table.computed else rows
    return rows.select(pl.col(name).cast(dtype) for name, dtype in table.row_types.items())
