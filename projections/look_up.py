"""Looks rows of several tables up by their keys, in one round trip and in the order of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import polars as pl
from psycopg import sql

from eventstore.log import Connection
from projections.fold import Merge
from projections.rows import given_keys, same_key, selected, table_name
from projections.table import LAST_POSITION, Table


def can_be_looked_up(table: Table) -> bool:
    """Whether stored rows are values as they are."""
    nested = any(table.row_types[name].is_nested() for name in table.columns)
    return table.reduces and not (nested or table.computed or table.effective)


async def look_up(
    connection: Connection, asked: Sequence[tuple[Table, pl.DataFrame]]
) -> list[pl.DataFrame]:
    """For each table and frame of keys its columns and ``last_position``, a row for each key; null
    (0 for totals) where there is no row.

    Every table is one that ``can_be_looked_up``.
    """
    cursors = []
    async with connection.pipeline():
        for table, keys in asked:
            parameters = [keys[key].to_list() for key in table.keys]
            cursors.append(await connection.execute(_query(table), parameters))
    return [
        pl.DataFrame(await cursor.fetchall(), schema=_schema(table), orient="row")
        for (table, _), cursor in zip(asked, cursors, strict=True)
    ]


@cache
def _schema(table: Table) -> dict[str, pl.DataType]:
    return {name: table.row_types[name] for name in (*table.columns, LAST_POSITION)}


@cache
def _query(table: Table) -> str:
    columns = [
        sql.SQL("coalesce({}, 0)").format(selected(table, name))
        if name in table.columns and table.columns[name].merge is Merge.TOTAL
        else selected(table, name)
        for name in _schema(table)
    ]
    return (
        sql.SQL("SELECT {} FROM {} LEFT JOIN {} AS t ON {} ORDER BY k.number")
        .format(
            sql.SQL(", ").join(columns),
            given_keys(table, numbered=True),
            table_name(table),
            same_key(table),
        )
        .as_string(None)
    )
