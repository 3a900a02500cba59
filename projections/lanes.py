"""How far tables are in each lane, where events come by Kafka (docs/adr/0033).

A lane holds whole organisations, and is read apart from the others. ``projections.position`` stays
the position up to which a table has folded everything; in a lane it may be further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import polars as pl

from eventstore.kafka.cluster import lane_of
from eventstore.kafka.sequence import LaneBatch, Superseded
from eventstore.log import Connection
from eventstore.stored import StoredEvent
from projections.store import DIVERGED
from projections.table import Table

_AHEAD = """SELECT l.name, l.lanes, l.lane, l.position
    FROM projection_lanes l JOIN projections p ON p.name = l.name
    WHERE l.name = ANY(%s) AND l.suffix = '' AND l.position > p.position"""
_DECLARED = "SELECT name, fingerprint FROM projections WHERE name = ANY(%s) ORDER BY name"
_RELAY = "SELECT epoch, lanes FROM relay FOR KEY SHARE"
# A lane that nobody has written down is as far as the table.
_BEGIN = """INSERT INTO projection_lanes (name, suffix, lane, lanes, position, last_event_id)
    SELECT name, '', %s, %s, position, last_event_id FROM projections WHERE name = ANY(%s)
    ORDER BY name ON CONFLICT DO NOTHING"""
_DONE = """SELECT l.name, greatest(l.position, p.position)
    FROM projection_lanes l JOIN projections p ON p.name = l.name
    WHERE l.name = ANY(%s) AND l.suffix = '' AND l.lane = %s ORDER BY l.name FOR UPDATE OF l"""
_LOOK = """SELECT p.name, greatest(p.position, l.position)
    FROM projections p LEFT JOIN projection_lanes l
        ON l.name = p.name AND l.suffix = '' AND l.lane = %s
    WHERE p.name = ANY(%s)"""
_ADVANCE = """UPDATE projection_lanes
    SET position = %(position)s, lanes = %(lanes)s, updated_at = now(),
        last_event_id = (SELECT event_id FROM events WHERE notification_id = %(position)s)
    WHERE name = ANY(%(names)s) AND suffix = '' AND lane = %(lane)s
    RETURNING last_event_id, (SELECT h.position FROM log_head h) >= %(position)s"""
# A lane in which a table has done all that was put into it has nothing more in what was relayed.
_LOW = f"""SELECT p.name, min(CASE
            WHEN greatest(p.position, l.position) >= o.position
            THEN greatest(p.position, l.position, r.position)
            ELSE greatest(p.position, l.position) END) AS low
    FROM projections p CROSS JOIN relay r JOIN relay_lanes o ON o.lane < r.lanes
        LEFT JOIN projection_lanes l
            ON l.name = p.name AND l.suffix = '' AND l.lane = o.lane
    WHERE p.name = ANY(%(names)s) AND NOT {DIVERGED} GROUP BY p.name, p.position"""
_RISEN = f"SELECT name FROM ({_LOW}) AS f JOIN projections p USING (name) WHERE f.low > p.position"
_LOCK = "SELECT FROM projections WHERE name = ANY(%s) ORDER BY name FOR NO KEY UPDATE"
_LEVEL = f"""WITH moved AS (
        UPDATE projections AS p SET position = f.low, updated_at = now(), error = NULL,
            held = false,
            rate = coalesce(%(rate)s, p.rate),
            last_event_id = (SELECT event_id FROM events WHERE notification_id = f.low)
        FROM ({_LOW}) AS f WHERE p.name = f.name AND f.low > p.position
        RETURNING f.low)
    SELECT pg_notify(%(channel)s, max(low)::text) FROM moved HAVING count(*) > 0"""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The lanes in which a table is further than its position."""

    lanes: int
    positions: Mapping[int, int]

    @property
    def furthest(self) -> int:
        """The position that the table has come to in any lane."""
        return max(self.positions.values())

    def of(self, organisation_id: UUID) -> int:
        """Up to where an organisation's events are done; 0: not further than the table."""
        return self.positions.get(lane_of(organisation_id, self.lanes), 0)

    def rows_left(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The log rows (``organisation_id``, ``position``) that are not done yet."""
        return rows.filter(pl.col("position") > _mapped(rows, self.of))

    def events_left(self, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        """The events that are not done yet."""
        return [one for one in events if one.position > self.of(one.organisation_id)]


def rows_in(lane: int, lanes: int, rows: pl.DataFrame) -> pl.DataFrame:
    """The log rows (``organisation_id``) that are in a lane."""
    return rows.filter(_mapped(rows, lambda one: lane_of(one, lanes)) == lane)


def by_position(
    rows: pl.DataFrame, position: int, further: Ahead | None
) -> list[tuple[int, pl.DataFrame]]:
    """Rows (``organisation_id``), with the position up to which a table has folded the events of
    their organisations.

    Args:
        rows: of any number of organisations.
        position: of the table.
        further: the lanes in which it is further.
    """
    if further is None:
        return [(position, rows)]
    done = _mapped(rows, lambda one: max(position, further.of(one)))
    return [(to, rows.filter(done == to)) for to in done.unique(maintain_order=True)]


def _mapped(rows: pl.DataFrame, of: Callable[[UUID], int]) -> pl.Series:
    """A number for each row's organisation."""
    if rows.is_empty():
        return pl.Series([], dtype=pl.Int64)
    different = rows["organisation_id"].unique()
    numbers = [of(UUID(bytes=one) if isinstance(one, bytes) else UUID(one)) for one in different]
    return rows["organisation_id"].replace_strict(different, numbers, return_dtype=pl.Int64)


async def ahead(connection: Connection, tables: Sequence[Table]) -> dict[str, Ahead]:
    """Those of the tables that are further in some lanes, and where."""
    cursor = await connection.execute(_AHEAD, ([table.name for table in tables],))
    found: dict[str, tuple[int, dict[int, int]]] = {}
    for name, lanes, lane, position in await cursor.fetchall():
        found.setdefault(name, (lanes, {}))[1][lane] = position
    return {name: Ahead(*one) for name, one in found.items()}


async def shared(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Keep swaps of the tables out until the transaction ends, but not who folds other lanes; those
    that are of their declaration."""
    return await _declared(connection, tables, " FOR KEY SHARE")


async def declared(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Those of the tables that are of their declaration at the moment."""
    return await _declared(connection, tables, "")


async def _declared(connection: Connection, tables: Sequence[Table], locking: str) -> list[Table]:
    cursor = await connection.execute(_DECLARED + locking, ([table.name for table in tables],))
    known: list[tuple[str, str]] = await cursor.fetchall()
    fingerprints = dict(known)
    return [table for table in tables if fingerprints.get(table.name) == table.fingerprint]


async def begin(
    connection: Connection, tables: Sequence[Table], batch: LaneBatch
) -> dict[str, int]:
    """Lock a lane of some tables until the transaction ends; up to where each has all of it.

    Raises:
        Superseded: the relay has begun anew since the batch was published.
    """
    row = await (await connection.execute(_RELAY)).fetchone()
    if row != (batch.epoch, batch.lanes):
        raise Superseded(f"of epoch {batch.epoch} and {batch.lanes} lanes; it is {row} now")
    names = [table.name for table in tables]
    found = await _locked(connection, names, batch.lane)
    if len(found) < len(names):
        await connection.execute(_BEGIN, (batch.lane, batch.lanes, names))
        found = await _locked(connection, names, batch.lane)
    return found


async def _locked(connection: Connection, names: list[str], lane: int) -> dict[str, int]:
    cursor = await connection.execute(_DONE, (names, lane))
    found: list[tuple[str, int]] = await cursor.fetchall()
    return dict(found)


async def done(connection: Connection, tables: Sequence[Table], lane: int) -> dict[str, int]:
    """Up to where each of the tables has all of a lane, as it is at the moment."""
    cursor = await connection.execute(_LOOK, (lane, [table.name for table in tables]))
    found: list[tuple[str, int]] = await cursor.fetchall()
    return dict(found)


async def advance(
    connection: Connection, tables: Sequence[Table], batch: LaneBatch, position: int
) -> None:
    """Say that tables have all of the batch's lane up to a position, in the transaction of their
    rows.

    Raises:
        Superseded: the batch has events that the log does not have, as where a standby took over
            that had not seen them.
    """
    cursor = await connection.execute(
        _ADVANCE,
        {
            "names": [table.name for table in tables],
            "lane": batch.lane,
            "lanes": batch.lanes,
            "position": position,
        },
    )
    for event_id, there in await cursor.fetchall():
        # In an archived range the log has the event, and Postgres does not.
        of_batch = batch.events and position == batch.to
        wrong = event_id is not None and of_batch and event_id != batch.events[-1].event_id
        if wrong or not there:
            raise Superseded(f"the log has another event at position {position}, or none")


async def level(
    connection: Connection, tables: Sequence[Table], channel: str, rate: float | None = None
) -> None:
    """Raise the tables' positions to where they have all lanes, and tell who waits for it.

    ``rate``: how many events a second they come forward; None leaves it as it is known.
    """
    # Asked first without a lock: of those who were last to finish a lane, one sees all of them.
    names = [table.name for table in tables]
    cursor = await connection.execute(_RISEN, {"names": names}, prepare=False)
    risen = [name for (name,) in await cursor.fetchall()]
    if risen:
        async with connection.transaction():
            await connection.execute(_LOCK, (risen,))
            given = {"names": risen, "channel": channel, "rate": rate}
            await connection.execute(_LEVEL, given, prepare=False)
