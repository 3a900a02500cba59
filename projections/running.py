"""The running form: a table's rows as of each of many (key, position) pairs, in one pass."""

from __future__ import annotations

import polars as pl

from projections.engine import merged_list, visible
from projections.fold import Fold, Merge
from projections.part import AT, CLOSED, LISTS, ORDER, columns_by_order, orders_of
from projections.table import LAST_EFFECTIVE, LAST_POSITION, Table

_GENERATION = f"{AT}generation"
_PROBE = f"{AT}probe"


def running(table: Table, parts: pl.DataFrame, probes: pl.DataFrame) -> pl.DataFrame:
    """Each probe with the table's columns as of its position, in one pass.

    Args:
        table: the declaration.
        parts: parts in any order, for example stored rows and the contributions of a batch.
        probes: the table's keys and ``position``, and any other columns.

    Returns:
        The probes in their order, with the columns of the row that the table would have had at
        that position, its ``last_position`` (null where it had no row) and computed columns.

    Raises:
        TypeError: the table is recomputed, or has a row for each event: such rows are asked for as
            of one position at a time.
    """
    if table.recompute is not None or table.every_event:
        raise TypeError(f"{table.name}: recomputed rows and rows of events have no running form")
    keys = list(table.keys)
    order = [LAST_POSITION] if table.reduces else [LAST_POSITION, ORDER]
    history = parts.sort(order, maintain_order=True)
    if table.closes:
        history = history.with_columns(
            pl.col(CLOSED).is_not_null().cum_sum().over(keys).alias(_GENERATION)
        )
        # What a closing event says is forgotten with the row.
        closing = pl.col(CLOSED).is_not_null() & (pl.col(CLOSED) == pl.col(ORDER))
        said = pl.col(*table.columns, *columns_by_order(table))
        history = history.with_columns(pl.when(~closing).then(said).name.keep())
    within = [*keys, _GENERATION] if table.closes else keys
    cumulated = [
        _cumulated(table, name, fold).over(within)
        for name, fold in table.columns.items()
        if fold.merge not in LISTS
    ]
    if table.effective:  # what came in last need not be what counts from the latest time
        cumulated.append(pl.col(LAST_EFFECTIVE).cum_max().over(within))
    lists = [name for name, fold in table.columns.items() if fold.merge in LISTS]
    orders = list(columns_by_order(table))
    history = history.with_columns(cumulated).drop(orders)
    # Rows without a key cannot match and would upset the join.
    found = (
        probes.with_row_index(_PROBE)
        .sort("position")
        .join_asof(
            history.drop(lists),
            left_on="position",
            right_on=LAST_POSITION,
            by=keys,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
    )
    for name in lists:
        listed = _listed_as_of(table, name, history, found)
        found = found.join(listed, on=_PROBE, how="left", maintain_order="left")
    found = found.sort(_PROBE)
    if table.closes:
        # A row that has just been closed is none.
        gone = pl.col(CLOSED).is_not_null() & (pl.col(CLOSED) == pl.col(ORDER))
        named = [*table.columns, LAST_POSITION]
        found = found.with_columns(pl.when(~gone.fill_null(False)).then(pl.col(named)))
    others = [name for name in probes.columns if name not in keys]
    sums = [pl.col(name).fill_null(0) for name in _sums(table)]
    found = found.with_columns(sums)
    columns = [visible(name, fold) for name, fold in table.columns.items()]
    last = [LAST_POSITION, *([LAST_EFFECTIVE] if table.effective else [])]
    rows = found.select(*keys, *others, *columns, *last)
    return rows.with_columns(**table.computed) if table.computed else rows


def _listed_as_of(
    table: Table, name: str, history: pl.DataFrame, found: pl.DataFrame
) -> pl.DataFrame:
    """A list column for each probe, from all contributions to its row up to its position."""
    within = [*table.keys, *([_GENERATION] if table.closes else [])]
    probes = found.select(_PROBE, "position", *within)
    told = history.filter(pl.col(name).is_not_null()).select(*within, name, LAST_POSITION)
    return (
        probes.join(told, on=within, how="inner")
        .filter(pl.col(LAST_POSITION) <= pl.col("position"))
        .group_by(_PROBE)
        .agg(merged_list(table.columns[name], pl.col(name).explode().drop_nulls()))
    )


def _sums(table: Table) -> list[str]:
    return [name for name, fold in table.columns.items() if fold.merge is Merge.TOTAL]


def _cumulated(table: Table, name: str, fold: Fold) -> pl.Expr:
    column = pl.col(name)
    match fold.merge:
        case Merge.FIRST if name in orders_of(table):
            at = pl.col(orders_of(table)[name])
            return pl.when(at == at.cum_min()).then(column).forward_fill()
        case Merge.LAST if name in orders_of(table):
            at = pl.col(orders_of(table)[name])
            return pl.when(at == at.cum_max()).then(column).forward_fill()
        case Merge.TOTAL if table.types[name] == pl.Int64():
            return column.cast(pl.Int128).cum_sum().cast(pl.Int64)
        case Merge.TOTAL:
            return column.cum_sum()
        case Merge.LEAST:
            return column.cum_min().forward_fill()
        case Merge.GREATEST:
            return column.cum_max().forward_fill()
        case _:
            return column
