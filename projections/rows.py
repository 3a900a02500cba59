"""Rows of read models in Postgres: their tables, reading them, merging and replacing them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

import polars as pl
from psycopg import errors, sql

from eventstore.log import Connection
from projections.engine import finish, folded, resume
from projections.fold import Merge
from projections.schema import EXACT, MOMENT, DataType, from_wire, wire
from projections.table import Table

SCHEMA = "read_models"
_UUIDS = {"organisation_id", "event_id", "correlation_id", "causation_id", "stream_id"}
_OPEN = """SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relkind = 'r'
        AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))"""
#: From so many rows on, COPY into a temporary table beats arrays as parameters.
_BULK = 500
_COPIED_AT_ONCE = 20_000


async def create(connection: Connection, *tables: Table, suffix: str = "") -> None:
    """Create the empty tables of declarations, in the place of those that are there."""
    said = [one for table in tables for one in _creation(table, table_name(table, suffix))]
    await connection.execute(sql.SQL("; ").join(said))  # in one round trip


def _creation(table: Table, name: sql.Identifier) -> Iterator[sql.Composable]:
    columns = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column),
            sql.SQL(sql_type(table, column)),
            sql.SQL(" NOT NULL" if column in table.keys else ""),
        )
        for column in table.row_types
    ]
    yield sql.SQL("DROP TABLE IF EXISTS {}").format(name)
    yield sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({})) WITH (fillfactor = 80)").format(
        name, sql.SQL(", ").join(columns), _list(table.keys)
    )
    for index in table.indexes:
        yield sql.SQL("CREATE INDEX ON {} ({})").format(name, _list(("organisation_id", *index)))
    yield _confinement(name)


def _confinement(name: sql.Identifier) -> sql.Composed:
    """Lets queries read a table, each the rows of its own organisation (docs/adr/0035)."""
    return sql.SQL("SELECT confine({}::regclass, true)").format(name.as_string(None))


async def confined(connection: Connection) -> None:
    """Confine the tables that a former version of the code has made."""
    while True:
        cursor = await connection.execute(_OPEN, (SCHEMA,))
        if not (names := [name for (name,) in await cursor.fetchall()]):
            return
        for name in names:
            # One by one, and not waiting for long: whoever comes behind would wait too.
            with suppress(errors.LockNotAvailable, errors.UndefinedTable):
                async with connection.transaction():
                    await connection.execute("SET LOCAL lock_timeout = '500ms'")
                    await connection.execute(_confinement(sql.Identifier(SCHEMA, name)))


async def drop(connection: Connection, table: Table, suffix: str) -> None:
    """Drop a table that stands beside the live one."""
    await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table_name(table, suffix)))


async def rename(connection: Connection, table: Table, old: str, new: str) -> None:
    """Give the table with one suffix another one, if it is there."""
    await connection.execute(
        sql.SQL("ALTER TABLE IF EXISTS {} RENAME TO {}").format(
            table_name(table, old), sql.Identifier(table.name + new)
        )
    )


async def read_rows(
    connection: Connection, table: Table, keys: pl.DataFrame, suffix: str = ""
) -> pl.DataFrame:
    """The stored rows of some keys (a frame with the table's key columns), as a part."""
    wanted = keys.select(table.keys)
    if wanted.height > 1:
        wanted = wanted.unique(maintain_order=True)
    parameters = [wanted[key].to_list() for key in table.keys]
    cursor = await connection.execute(_read_query(table, suffix), parameters)
    return _part(table, await cursor.fetchall())


async def read_all(connection: Connection, table: Table, organisation_id: str) -> pl.DataFrame:
    """The stored rows of one organisation as a part, for tables that are small by nature."""
    query = sql.SQL("SELECT {} FROM {} AS t WHERE t.organisation_id = %s ORDER BY {}").format(
        _selected(table), table_name(table), _list(table.keys)
    )
    return _part(table, await (await connection.execute(query, (organisation_id,))).fetchall())


async def merge_part(
    connection: Connection,
    table: Table,
    part: pl.DataFrame,
    *,
    suffix: str = "",
    stored: pl.DataFrame | None = None,
) -> None:
    """Merge a part with the stored rows of its keys: they are read, merged and written.

    The part must be newer than the stored rows; a table that is recomputed has no merge.
    ``stored``: the rows of its keys, where they have been read already.
    """
    if part.is_empty():
        return
    if table.every_event:
        await _write(connection, table, finish(table, part), suffix)
        return
    if stored is None:
        stored = await read_rows(connection, table, part, suffix)
    merged = folded(table, [stored, part])
    rows = finish(table, merged)
    if table.closes:
        await _delete_missing(connection, table, part, rows, suffix)
    await _write(connection, table, rows, suffix)


async def replace_rows(
    connection: Connection,
    table: Table,
    keys: pl.DataFrame,
    rows: pl.DataFrame,
    *,
    suffix: str = "",
) -> None:
    """Put finished rows in the place of those of some keys; keys without a row lose theirs."""
    await _delete_missing(connection, table, keys, rows, suffix)
    await _write(connection, table, rows, suffix)


async def delete_all(connection: Connection, table: Table, organisation_id: str) -> None:
    """Delete the rows of one organisation."""
    query = sql.SQL("DELETE FROM {} WHERE organisation_id = %s").format(table_name(table))
    await connection.execute(query, (organisation_id,))


async def copy_rows(
    connection: Connection, table: Table, rows: pl.DataFrame, suffix: str = ""
) -> None:
    """Write finished rows whose keys are new by COPY."""
    await _copy(connection, table, rows, table_name(table, suffix))


async def copy_into_temporary(connection: Connection, table: Table, rows: pl.DataFrame) -> None:
    """Make a temporary table of the read model's name that holds finished rows, until the
    transaction ends."""
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(sql_type(table, column)))
        for column in table.row_types
    ]
    name = sql.Identifier(table.name)
    await connection.execute(
        sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(
            name, sql.SQL(", ").join(columns)
        )
    )
    await _copy(connection, table, rows, sql.Identifier("pg_temp", table.name))


async def _write(connection: Connection, table: Table, rows: pl.DataFrame, suffix: str) -> None:
    if rows.is_empty():
        return
    if rows.height < _BULK:
        stored = _as_stored(table, rows)
        parameters = [stored[column].to_list() for column in table.row_types]
        await connection.execute(_insert_query(table, suffix), parameters)
        return
    name = f"staged_{table.fingerprint}"
    staged = sql.Identifier(name)
    await connection.execute(
        sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS").format(
            staged, table_name(table, suffix)
        )
    )
    await connection.execute(sql.SQL("TRUNCATE {}").format(staged))
    await _copy(connection, table, rows, staged)
    await connection.execute(_insert_query(table, suffix, name))


async def _copy(
    connection: Connection, table: Table, rows: pl.DataFrame, into: sql.Identifier
) -> None:
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL '\\N')").format(
        into, _list(rows.columns)
    )
    async with connection.cursor() as cursor, cursor.copy(query) as copy:
        for start in range(0, rows.height, _COPIED_AT_ONCE):
            chunk = _as_stored(table, rows.slice(start, _COPIED_AT_ONCE))
            # Text is always quoted: a text that reads \N is not a null.
            await copy.write(
                chunk.write_csv(include_header=False, null_value="\\N", quote_style="non_numeric")
            )


async def _delete_missing(
    connection: Connection, table: Table, keys: pl.DataFrame, rows: pl.DataFrame, suffix: str
) -> None:
    gone = keys.select(table.keys).unique().join(rows, on=table.keys, how="anti")
    if gone.is_empty():
        return
    parameters = [gone[key].to_list() for key in table.keys]
    await connection.execute(_delete_query(table, suffix), parameters)


# queries, made once for each table


@cache
def _read_query(table: Table, suffix: str) -> str:
    return (
        sql.SQL("SELECT {} FROM {} AS t JOIN {} ON {}")
        .format(_selected(table), table_name(table, suffix), given_keys(table), same_key(table))
        .as_string(None)
    )


@cache
def _delete_query(table: Table, suffix: str) -> str:
    return (
        sql.SQL("DELETE FROM {} AS t USING {} WHERE {}")
        .format(table_name(table, suffix), given_keys(table), same_key(table))
        .as_string(None)
    )


@cache
def _insert_query(table: Table, suffix: str, staged: str | None = None) -> str:
    """From arrays as parameters, or from a temporary table."""
    arrays = sql.SQL(", ").join(
        sql.SQL(f"%s::{_array_type(table, column)}[]") for column in table.row_types
    )
    given = sql.SQL("unnest({}) AS r ({})").format(arrays, _list(tuple(table.row_types)))
    return (
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}")
        .format(
            table_name(table, suffix),
            _list(tuple(table.row_types)),
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Identifier(column), sql.SQL(sql_type(table, column)))
                for column in table.row_types
            ),
            given if staged is None else sql.Identifier(staged),
            _list(table.keys),
            sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column))
                for column in table.row_types
                if column not in table.keys
            ),
        )
        .as_string(None)
    )


def given_keys(table: Table, *, numbered: bool = False) -> sql.Composed:
    """Keys as parameters, an array for each column: ``k``, with their ``number`` if wanted."""
    numbers = (sql.SQL(" WITH ORDINALITY"), ("number",)) if numbered else (sql.SQL(""), ())
    return sql.SQL("unnest({}){} AS k ({})").format(
        sql.SQL(", ").join(sql.SQL(f"%s::{sql_type(table, key)}[]") for key in table.keys),
        numbers[0],
        _list((*table.keys, *numbers[1])),
    )


def same_key(table: Table) -> sql.Composed:
    """That a row ``t`` is of the keys ``k``."""
    return sql.SQL(" AND ").join(
        sql.SQL("t.{0} = k.{0}").format(sql.Identifier(key)) for key in table.keys
    )


# columns


def sql_type(table: Table, column: str) -> str:
    """The type of a column in Postgres."""
    if column in _UUIDS:
        return "uuid"
    if column in table.columns and table.columns[column].json:
        return "jsonb"
    dtype = table.row_types[column]
    if dtype.is_nested():
        return "jsonb"
    for kind, name in _TYPES:
        if dtype == kind:
            return name
    raise TypeError(f"{table.name}.{column}: {dtype} has no column type in Postgres")


_TYPES: tuple[tuple[DataType, str], ...] = (
    (pl.String(), "text"),
    (pl.Int64(), "bigint"),
    (pl.Boolean(), "boolean"),
    (pl.Float64(), "double precision"),
    (pl.Date(), "date"),
    (MOMENT, "timestamptz"),
    (EXACT, "numeric"),
)


def _array_type(table: Table, column: str) -> str:
    kind = sql_type(table, column)
    return "text" if kind == "jsonb" else kind


def _as_stored(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose nested columns are JSON text; a map is a JSON object."""
    nested = [
        pl.Series(
            column,
            [None if one is None else _json(table, column, one) for one in rows[column].to_list()],
            pl.String,
        )
        for column, dtype in rows.schema.items()
        if dtype.is_nested()
    ]
    return rows.with_columns(nested) if nested else rows


def _json(table: Table, column: str, value: Any) -> str:
    if _is_map(table, column):
        value = {entry["key"]: entry["value"] for entry in value}
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _is_map(table: Table, column: str) -> bool:
    return column in table.columns and table.columns[column].merge is Merge.LATEST


def _stored_columns(table: Table) -> list[str]:
    """The columns that a part is made of; a map's is made of what is remembered of it."""
    return [
        column
        for column in table.row_types
        if column not in table.computed and not _is_map(table, column)
    ]


def _selected(table: Table) -> sql.Composed:
    return sql.SQL(", ").join(selected(table, column) for column in _stored_columns(table))


def selected(table: Table, column: str) -> sql.Composed:
    """A column of a row ``t`` as it is read."""
    name = sql.Identifier(column)
    text = sql_type(table, column) in ("uuid", "jsonb")
    return sql.SQL("t.{}::text" if text else "t.{}").format(name)


def _part(table: Table, rows: Sequence[Any]) -> pl.DataFrame:
    """Stored rows as a part."""
    columns = {column: table.row_types[column] for column in _stored_columns(table)}
    schema = {
        column: pl.String() if dtype.is_nested() else dtype for column, dtype in columns.items()
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    nested = [
        _from_json(frame[column], dtype) for column, dtype in columns.items() if dtype.is_nested()
    ]
    return resume(table, frame.with_columns(nested))


def _from_json(texts: pl.Series, dtype: DataType) -> pl.Series:
    if texts.is_empty():
        return pl.Series(texts.name, [], dtype)
    decoded = texts.str.json_decode(wire(dtype)).to_frame()
    return decoded.select(from_wire(texts.name, dtype).alias(texts.name)).to_series()


def table_name(table: Table, suffix: str = "") -> sql.Identifier:
    """A read model's table, or one beside it."""
    return sql.Identifier(SCHEMA, table.name + suffix)


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)
