"""What events contribute to a table: each contribution is a part of one row."""

from __future__ import annotations

from functools import cache

import polars as pl

from domain.values import Event
from projections.fold import Merge
from projections.fold import expression as as_expression
from projections.frames import Frames
from projections.part import (
    CLOSED,
    FIRST_EFFECTIVE,
    ORDER,
    columns_by_order,
    empty_part,
    order_of,
    part_schema,
)
from projections.schema import MOMENT
from projections.table import EVENT, LAST_EFFECTIVE, LAST_POSITION, Table


def contributions(table: Table, frames: Frames) -> pl.DataFrame:
    """What each event contributes, in order: one row for each of its keys."""
    parts = [
        _of_event(table, event, frames[event])
        for event in table.events
        if event in frames and not frames[event].is_empty()
    ]
    if not parts:
        return empty_part(table)
    part = pl.concat(parts) if len(parts) > 1 else parts[0]
    if part.height == 1:
        return part
    order = [LAST_POSITION] if table.reduces else [ORDER]
    return part.sort([LAST_EFFECTIVE, *order] if table.effective else order, maintain_order=True)


def keys_of_events(table: Table, frames: Frames) -> pl.DataFrame:
    """The keys that each event says something about: the key's columns and ``last_position``."""
    found = [
        _exploded(table, event, frames[event]).select(
            pl.col("organisation_id"),
            *(one.cast(table.types[name]).alias(name) for name, one in key.items()),
            pl.col("position").alias(LAST_POSITION),
        )
        for event in table.events
        if event in frames
        for key in table.keys_of(event)
    ]
    schema = {name: table.types[name] for name in table.keys} | {LAST_POSITION: pl.Int64()}
    return pl.concat([pl.DataFrame(schema=schema), *found]).drop_nulls(list(table.keys))


def _exploded(table: Table, event: type[Event], frame: pl.DataFrame) -> pl.DataFrame:
    listed = table.explode.get(event)
    if listed is None:
        return frame
    return frame.filter(pl.col(listed).list.len() > 0).explode(listed)


def _of_event(table: Table, event: type[Event], frame: pl.DataFrame) -> pl.DataFrame:
    if event in table.explode:
        frame = _exploded(table, event, frame)
    parts = [frame.select(columns) for columns in _selections(table, event)]
    part = pl.concat(parts) if len(parts) > 1 else parts[0]
    return part.drop_nulls(list(table.keys))


@cache
def _selections(table: Table, event: type[Event]) -> list[list[pl.Expr]]:
    """For each key of an event the columns of its part, made once."""
    number = pl.lit(0)
    if event in table.explode:
        number = pl.int_range(pl.len()).over("position")
    keys = table.keys_of(event)
    effective = pl.lit(None, MOMENT)
    if table.effective:
        effective = pl.col("recorded_at")
        if event in table.effective:
            effective = pl.coalesce(as_expression(table.effective[event]), effective)
    schema = part_schema(table)
    selections = []
    for index, key in enumerate(keys):
        order = order_of(table, pl.col("position"), effective, number * len(keys) + index)
        names = {name: table.of(fold, event, index) for name, fold in table.columns.items()}
        values = {
            name: (pl.lit(None) if one is None else one).cast(table.types[name])
            for name, one in names.items()
        }
        given = {
            name: _given(table, name, event, index, values[name], order) for name in table.columns
        }
        extra: dict[str, pl.Expr] = {LAST_POSITION: pl.col("position")}
        if table.effective:
            extra[LAST_EFFECTIVE] = extra[FIRST_EFFECTIVE] = effective
        if not table.reduces:
            extra[ORDER] = order
        if table.closes:
            extra[CLOSED] = order if event in table.closes else pl.lit(None)
        if table.recompute is not None:
            extra[EVENT] = pl.lit(event.__name__)
        for at, of in columns_by_order(table).items():
            contributes = [values[name].is_not_null() for name in of if names[name] is not None]
            extra[at] = (
                pl.when(pl.any_horizontal(contributes)).then(order) if contributes else pl.lit(None)
            )
        made = {
            "organisation_id": pl.col("organisation_id"),
            **key,
            **given,
            **extra,
        }
        selections.append([made[name].cast(dtype).alias(name) for name, dtype in schema.items()])
    return selections


def _given(
    table: Table, name: str, event: type[Event], index: int, value: pl.Expr, order: pl.Expr
) -> pl.Expr:
    """The state that one contribution makes."""
    fold = table.columns[name]
    match fold.merge:
        case Merge.TOTAL:
            return value.fill_null(0)
        case Merge.COLLECT:
            one = pl.struct(order.alias("at"), value.alias("value"))
        case Merge.DISTINCT:
            one = value.hash(0).reinterpret(signed=True)
        case Merge.LATEST:
            given = (fold.map_keys or {}).get(event, (pl.lit(None),))
            key = given[index if len(given) > 1 else 0].cast(pl.String)
            one = pl.struct(order.alias("at"), key.alias("key"), value.alias("value"))
            return pl.when(value.is_not_null() & key.is_not_null()).then(pl.concat_list(one))
        case _:
            return value
    return pl.when(value.is_not_null()).then(pl.concat_list(one))
