"""Events that a read model could not fold: parked with all later ones of their keys, in order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import polars as pl
from psycopg.rows import class_row
from pydantic import BaseModel, ConfigDict

from eventstore.archive.cold import Cold, on
from eventstore.log import Connection, LogUnavailable
from projections.contributions import keys_of_events
from projections.frames import Frames
from projections.table import LAST_POSITION, Table

#: Between the values of a key, which hold no such sign.
_BETWEEN = "\x1f"
_STREAM = "stream" + _BETWEEN
# OFFSET 0 keeps the look-up by index: joined, the whole log may be read for it.
_LIST = """SELECT d.projection, d.position, d.event_id, e.topic, d.keys, d.error, d.attempts,
        d.parked_at
    FROM dead_letters d CROSS JOIN LATERAL (
        SELECT e.topic, e.organisation_id FROM events e
        WHERE e.notification_id = d.position OFFSET 0) AS e
    WHERE d.projection = %(projection)s AND d.suffix = '' AND d.position > %(after)s
        AND (%(organisation_id)s::uuid IS NULL OR e.organisation_id = %(organisation_id)s)
    ORDER BY d.position LIMIT %(limit)s"""


class DeadLetter(BaseModel):
    """An event that was parked. ``error`` null: it waits for an earlier one of its keys."""

    model_config = ConfigDict(frozen=True)

    projection: str
    position: int
    event_id: UUID
    topic: str
    keys: tuple[str, ...]
    error: str | None
    attempts: int
    parked_at: datetime


async def letters(
    connection: Connection,
    projection: str,
    *,
    after: int = 0,
    limit: int = 100,
    organisation_id: UUID | None = None,
) -> list[DeadLetter]:
    """The dead letters of a read model behind a position, in log order."""
    async with connection.cursor(row_factory=class_row(_Row)) as cursor:
        await cursor.execute(
            _LIST,
            {
                "projection": projection,
                "after": after,
                "limit": limit,
                "organisation_id": organisation_id,
            },
        )
        found = await cursor.fetchall()
    return [
        DeadLetter(**vars(row) | {"keys": tuple(shown(key) for key in row.keys)}) for row in found
    ]


class _Row:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)
        self.keys: Sequence[str] = values["keys"]


def shown(key: str) -> str:
    """A key as people read it."""
    return key.replace(_BETWEEN, "/")


def keys_by_position(table: Table, frames: Frames) -> dict[int, list[str]]:
    """The keys that each event says something about."""
    texts = pl.concat_str([pl.col(name).cast(pl.String) for name in table.keys], separator=_BETWEEN)
    found = keys_of_events(table, frames).group_by(LAST_POSITION)
    return dict(found.agg(texts.unique().sort().alias("keys")).sort(LAST_POSITION).iter_rows())


def waiting(keys: Mapping[int, Sequence[str]], parked: Collection[str]) -> dict[int, Sequence[str]]:
    """Those of the events that have to wait since a key of theirs is parked: by itself, or by an
    earlier one of them."""
    closed, found = set(parked), {}
    for position in sorted(keys):
        if not closed.isdisjoint(keys[position]):
            closed |= set(keys[position])
            found[position] = keys[position]
    return found


async def in_parked_streams(
    connection: Connection, parked: Collection[str], positions: tuple[int, int]
) -> dict[int, Sequence[str]]:
    """The events among some positions (first, last) whose stream is parked as a whole, since one of
    its events could not be read at all."""
    streams = [UUID(key.removeprefix(_STREAM)) for key in parked if key.startswith(_STREAM)]
    if not streams:
        return {}
    first, last = positions
    cold = Cold()
    were_dropped = await cold.dropped(connection, first - 1, last)
    cursor = await connection.execute(
        """SELECT notification_id, originator_id FROM events
        WHERE notification_id BETWEEN %s AND %s AND originator_id = ANY(%s)""",
        (first, last, streams),
    )
    found: dict[int, UUID] = dict(await cursor.fetchall())
    # Asked twice: what was dropped or put back meanwhile is looked for in the archive too.
    if were_dropped or await cold.dropped(connection, first - 1, last):
        for events in (await cold.streams(on(connection), dict.fromkeys(streams, -1))).values():
            found |= {one.position: one.stream_id for one in events}
    return {
        position: [f"{_STREAM}{stream}"]
        for position, stream in found.items()
        if first <= position <= last
    }


async def park(
    connection: Connection,
    table: Table,
    keys: Mapping[int, Sequence[str] | None],
    *,
    error: str | None = None,
    suffix: str = "",
) -> None:
    """Park events of a table by position, with their keys; without keys by their streams."""
    if not keys:
        return
    await Cold().bring_back(connection, list(keys))
    async with connection.cursor() as cursor:
        await cursor.executemany(
            f"""INSERT INTO dead_letters AS d
                (projection, suffix, position, event_id, keys, error, attempts)
            SELECT %s, %s, notification_id, event_id,
                coalesce(%s::text[], ARRAY['{_STREAM}' || originator_id]), %s::text, %s::int
            FROM events WHERE notification_id = %s
            ON CONFLICT (projection, suffix, position) DO UPDATE
                SET error = excluded.error, attempts = d.attempts + excluded.attempts,
                    keys = excluded.keys""",
            [
                (
                    table.name,
                    suffix,
                    None if of is None else list(of),
                    error,
                    0 if error is None else 1,
                    position,
                )
                for position, of in keys.items()
            ],
        )
        if cursor.rowcount != len(keys):
            raise LogUnavailable("events that are to be parked were dropped meanwhile")


async def parked_positions(connection: Connection, table: Table, suffix: str = "") -> list[int]:
    """The positions of all events that are parked beside a table."""
    cursor = await connection.execute(
        "SELECT position FROM dead_letters WHERE projection = %s AND suffix = %s ORDER BY 1",
        (table.name, suffix),
    )
    return [position for (position,) in await cursor.fetchall()]


async def parked_keys(connection: Connection, table: Table, suffix: str) -> set[str]:
    """The keys that have dead letters."""
    cursor = await connection.execute(
        """SELECT DISTINCT unnest(keys) FROM dead_letters
        WHERE projection = %s AND suffix = %s""",
        (table.name, suffix),
    )
    return {key for (key,) in await cursor.fetchall()}


async def failures(connection: Connection, table: Table, suffix: str) -> int:
    """How many events are parked since they could not be folded themselves."""
    cursor = await connection.execute(
        """SELECT count(*) FROM dead_letters
        WHERE projection = %s AND suffix = %s AND error IS NOT NULL""",
        (table.name, suffix),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def is_first(connection: Connection, table: Table, position: int) -> bool:
    """Whether no dead letter of the same keys comes before this one."""
    cursor = await connection.execute(
        """SELECT NOT EXISTS (
            SELECT FROM dead_letters d JOIN dead_letters mine
                ON mine.projection = d.projection AND mine.suffix = d.suffix
            WHERE d.projection = %(name)s AND d.suffix = '' AND mine.position = %(position)s
                AND d.position < mine.position AND d.keys && mine.keys)""",
        {"name": table.name, "position": position},
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def take_out(connection: Connection, table: Table, position: int) -> None:
    """Forget a dead letter: it is folded now."""
    await connection.execute(
        "DELETE FROM dead_letters WHERE projection = %s AND suffix = '' AND position = %s",
        (table.name, position),
    )


async def fail_again(connection: Connection, table: Table, position: int, error: str) -> None:
    """Say why a dead letter could not be folded once more."""
    await connection.execute(
        """UPDATE dead_letters SET error = %s, attempts = attempts + 1
        WHERE projection = %s AND suffix = '' AND position = %s""",
        (error, table.name, position),
    )
