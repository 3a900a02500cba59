"""Read models in Postgres: their tables, their rows and how far each has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import polars as pl
from psycopg import sql

from eventstore.log import Connection, StoredEvent
from projections.engine import finish, merge, part_schema, row_schema
from projections.fold import Table
from projections.schema import EXACT, MOMENT, DataType

SCHEMA = "read_models"
CHANNEL = "projections"
NEXT = "__next"
OLD = "__old"
_REBUILDS = 0x_C4A1
_UUIDS = {"organisation_id", "event_id", "correlation_id", "causation_id", "stream_id"}

# Altered only where it must be: ALTER TABLE waits for batches under way, and queries wait for it.
_POSITIONS = """
CREATE SCHEMA IF NOT EXISTS read_models;
CREATE TABLE IF NOT EXISTS projections (
    name          text        PRIMARY KEY,
    fingerprint   text        NOT NULL,
    position      bigint      NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    error         text,
    last_event_id uuid
);
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'projections'::regclass AND attname = 'last_event_id') THEN
        ALTER TABLE projections ADD COLUMN last_event_id uuid;
    END IF;
END $$"""

#: Whether a row ``p`` of projections stands on a log that is no longer there: the event at its
#: position is another one, or none. Where the event is not known, a position on the log will do.
#: The subquery is scalar on purpose: an EXISTS may be hashed, which reads the whole log.
DIVERGED = """CASE
        WHEN p.position = 0 THEN false
        WHEN p.last_event_id IS NULL THEN p.position > (SELECT h.position FROM log_head h)
        ELSE p.last_event_id IS DISTINCT FROM
            (SELECT e.event_id FROM events e WHERE e.notification_id = p.position)
    END"""
_DIVERGED = f"SELECT p.name FROM projections p WHERE p.name = ANY(%s) AND {DIVERGED}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a read model has come, and by which declaration."""

    fingerprint: str
    position: int


async def prepare(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Create what is missing; the tables whose declaration changed and that want a rebuild."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (0xC4A10002,))
        await connection.execute(_POSITIONS)
        present = await progress(connection, tables)
        for table in tables:
            if table.name not in present:
                await create(connection, table)
                await set_progress(connection, table, 0, None)
    return [
        table
        for table in tables
        if table.name in present and present[table.name].fingerprint != table.fingerprint
    ]


async def progress(
    connection: Connection, tables: Sequence[Table], *, lock: bool = False
) -> dict[str, Progress]:
    """How far each table has come. ``lock`` keeps other runners out until the transaction ends."""
    query = "SELECT name, fingerprint, position FROM projections WHERE name = ANY(%s) ORDER BY name"
    rows = await (
        await connection.execute(
            query + (" FOR UPDATE" if lock else ""), ([table.name for table in tables],)
        )
    ).fetchall()
    return {name: Progress(fingerprint, position) for name, fingerprint, position in rows}


async def diverged(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Those of the tables that were folded from a log that is no longer there.

    Ask after ``progress`` with ``lock``, never in its statement: that one reads the locked rows as
    they are now, but the log as it was before the wait.
    """
    # Planned each time: a plan made while the log was short would read all of it later on.
    cursor = await connection.execute(_DIVERGED, ([table.name for table in tables],), prepare=False)
    names = {name for (name,) in await cursor.fetchall()}
    return [table for table in tables if table.name in names]


async def outdated(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Those of the tables that want a rebuild: another declaration or another log made them."""
    present = await progress(connection, tables)
    lost = await diverged(connection, tables)
    return [
        table
        for table in tables
        if table.name in present
        and (table in lost or present[table.name].fingerprint != table.fingerprint)
    ]


async def set_progress(
    connection: Connection, table: Table, position: int, last_event_id: UUID | None
) -> None:
    """Say how far a table has come, in the transaction that wrote its rows, and tell who waits.

    ``last_event_id``: the event at that position; None at position 0.
    """
    await connection.execute(
        """INSERT INTO projections AS p (name, fingerprint, position, last_event_id)
        VALUES (%s, %s, %s, %s)
        ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint,
            position = excluded.position, last_event_id = excluded.last_event_id,
            updated_at = now(), error = NULL""",
        (table.name, table.fingerprint, position, last_event_id),
    )
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))


async def advance(connection: Connection, tables: Sequence[Table], last: StoredEvent) -> None:
    """Say that several tables have come to one event, and tell who waits for it."""
    await connection.execute(
        """UPDATE projections SET position = %s, last_event_id = %s, updated_at = now(),
            error = NULL
        WHERE name = ANY(%s)""",
        (last.position, last.event_id, [table.name for table in tables]),
    )
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(last.position)))


async def start_over(connection: Connection, tables: Sequence[Table]) -> None:
    """Empty the tables and set them to position 0, in the caller's transaction."""
    for table in tables:
        await create(connection, table)
        await set_progress(connection, table, 0, None)


async def create(connection: Connection, table: Table, suffix: str = "") -> None:
    """Create the empty table of a declaration."""
    name = _name(table, suffix)
    columns = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column),
            sql.SQL(_sql_type(table, column, dtype)),
            sql.SQL(" NOT NULL" if column in table.keys else ""),
        )
        for column, dtype in row_schema(table).items()
    ]
    await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    await connection.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({})) WITH (fillfactor = 80)").format(
            name, sql.SQL(", ").join(columns), _list(table.keys)
        )
    )
    for index in table.indexes:
        await connection.execute(
            sql.SQL("CREATE INDEX ON {} ({})").format(name, _list(("organisation_id", *index)))
        )


async def read_rows(connection: Connection, table: Table, keys: pl.DataFrame) -> pl.DataFrame:
    """The stored parts of some keys (a frame with the table's key columns)."""
    schema = part_schema(table)
    wanted = keys.select(table.keys).unique(maintain_order=True)
    types = [_sql_type(table, key, schema[key]) for key in table.keys]
    query = sql.SQL("SELECT {} FROM {} AS t JOIN unnest({}) AS k ({}) ON {}").format(
        sql.SQL(", ").join(_selected(table, column) for column in schema),
        _name(table),
        sql.SQL(", ").join(sql.SQL(f"%s::{kind}[]") for kind in types),
        _list(table.keys),
        sql.SQL(" AND ").join(
            sql.SQL("t.{0} = k.{0}").format(sql.Identifier(key)) for key in table.keys
        ),
    )
    cursor = await connection.execute(query, [_values(wanted[key]) for key in table.keys])
    return _part(table, await cursor.fetchall())


async def read_all(connection: Connection, table: Table, organisation_id: str) -> pl.DataFrame:
    """The stored parts of one organisation, for tables that are small by nature."""
    query = sql.SQL("SELECT {} FROM {} AS t WHERE t.organisation_id = %s ORDER BY {}").format(
        sql.SQL(", ").join(_selected(table, column) for column in part_schema(table)),
        _name(table),
        _list(table.keys),
    )
    return _part(table, await (await connection.execute(query, (organisation_id,))).fetchall())


async def write_part(
    connection: Connection, table: Table, part: pl.DataFrame, *, suffix: str = ""
) -> None:
    """Merge a part into the stored rows: read those keys, merge, write."""
    if part.is_empty():
        return
    if not table.every_event and not suffix:
        part = merge(table, [await read_rows(connection, table, part), part])
    rows = finish(table, part)
    columns = rows.columns
    schema = rows.schema
    others = [column for column in columns if column not in table.keys]
    query = sql.SQL(
        "INSERT INTO {} ({}) SELECT {} FROM unnest({}) AS r ({}) ON CONFLICT ({}) DO UPDATE SET {}"
    ).format(
        _name(table, suffix),
        _list(columns),
        sql.SQL(", ").join(
            sql.SQL("{}::{}").format(
                sql.Identifier(column), sql.SQL(_sql_type(table, column, schema[column]))
            )
            for column in columns
        ),
        sql.SQL(", ").join(
            sql.SQL(f"%s::{_array_type(table, column, schema[column])}[]") for column in columns
        ),
        _list(columns),
        _list(table.keys),
        sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in others
        ),
    )
    await connection.execute(query, [_values(rows[column]) for column in columns])


async def copy_part(connection: Connection, table: Table, part: pl.DataFrame, suffix: str) -> None:
    """Write a part into a new, empty table by COPY."""
    rows = finish(table, part)
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL '\\N')").format(
        _name(table, suffix), _list(rows.columns)
    )
    async with connection.cursor() as cursor, cursor.copy(query) as copy:
        for start in range(0, rows.height, 20_000):
            chunk = rows.slice(start, 20_000)
            # Text is always quoted: a text that reads \N is not a null.
            await copy.write(
                chunk.write_csv(include_header=False, null_value="\\N", quote_style="non_numeric")
            )


async def lock_rebuild(connection: Connection, table: Table) -> None:
    """Keep other rebuilds of a table out until the connection closes."""
    await connection.execute(
        "SELECT pg_advisory_lock(%s, hashtext(%s))", (_REBUILDS, table.name), prepare=False
    )


async def swap(connection: Connection, table: Table) -> None:
    """Put the rebuilt table in the place of the live one; the old one is kept for a rollback."""
    for statement in (
        sql.SQL("DROP TABLE IF EXISTS {}").format(_name(table, OLD)),
        sql.SQL("ALTER TABLE IF EXISTS {} RENAME TO {}").format(
            _name(table), sql.Identifier(table.name + OLD)
        ),
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            _name(table, NEXT), sql.Identifier(table.name)
        ),
    ):
        await connection.execute(statement)


def _name(table: Table, suffix: str = "") -> sql.Identifier:
    return sql.Identifier(SCHEMA, table.name + suffix)


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)


def _selected(table: Table, column: str) -> sql.Composed:
    text = column in _UUIDS or (column in table.columns and table.columns[column].json)
    return sql.SQL("t.{}::text" if text else "t.{}").format(sql.Identifier(column))


def _part(table: Table, rows: Sequence[Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(part_schema(table)), orient="row")


def _values(column: pl.Series) -> list[Any]:
    return column.to_list()


def _array_type(table: Table, column: str, dtype: DataType) -> str:
    kind = _sql_type(table, column, dtype)
    return "text" if kind == "jsonb" else kind


def _sql_type(table: Table, column: str, dtype: DataType) -> str:
    if column in _UUIDS:
        return "uuid"
    if column in table.columns and table.columns[column].json:
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
