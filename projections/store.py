"""How far each read model has come, by which declaration, and which table readers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import sql

from eventstore.log import Connection
from projections import rows
from projections.table import Table

CHANNEL = "projections"
NEXT = "__next"
OLD = "__old"
_SWAPPED = "__swapped"
_LEASES = 0x_C4A2
REBUILDS = 0x_C4A1
_PREPARING = 0x_C4A10002
_SCHEMA = Path(__file__).with_name("projections.sql")

#: Whether a row ``p`` of projections stands on a log that is no longer there: the event at its
#: position is another one, or none. Where the event is not known, a position on the log will do.
#: So it does where one of its lanes is further. The subquery is scalar on purpose: an EXISTS may be
#: hashed, which reads the whole log.
_GONE = """CASE
        WHEN {row}.position = 0 THEN false
        WHEN {row}.last_event_id IS NULL THEN {row}.position > (SELECT h.position FROM log_head h)
        ELSE {row}.last_event_id IS DISTINCT FROM
            (SELECT e.event_id FROM events e WHERE e.notification_id = {row}.position)
    END"""
_HAS_GONE = _GONE.format(row="p")
DIVERGED = f"""({_HAS_GONE} OR coalesce((
        SELECT bool_or({_GONE.format(row="l")}) FROM projection_lanes l
        WHERE l.name = p.name AND l.suffix = '' AND l.position > p.position), false))"""
# As their owner: whose event it is that a table has come to says nothing about who asks. Its plan
# may be an old one, made while the log was short: look-ups go by index.
_ASKED = f"""DO $$ BEGIN
    EXECUTE format($made$
        CREATE OR REPLACE FUNCTION diverged(names text[]) RETURNS SETOF text
        LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = %I, pg_temp SET enable_seqscan = off AS $asked$
            SELECT p.name FROM projections p WHERE p.name = ANY(names) AND {DIVERGED} ORDER BY 1
        $asked$;
        REVOKE EXECUTE ON FUNCTION diverged FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION diverged TO %I
    $made$, current_schema(), current_user || '_api');
END $$"""
_DIVERGED = f"SELECT p.name FROM projections p WHERE p.name = ANY(%s) AND {DIVERGED}"

_PROGRESS = """SELECT name, fingerprint, position, held
    FROM projections p WHERE name = ANY(%s) ORDER BY name"""
_OUTLOOK = f"""SELECT h.position,
        ARRAY(SELECT p.name FROM projections p WHERE p.name = ANY(%(names)s) AND {DIVERGED}),
        ARRAY(SELECT DISTINCT d.projection FROM dead_letters d
              WHERE d.projection = ANY(%(names)s) AND d.suffix = ''),
        ARRAY(SELECT DISTINCT p.name FROM projections p
              JOIN projection_lanes l ON l.name = p.name AND l.suffix = ''
              WHERE p.name = ANY(%(names)s) AND l.position > p.position)
    FROM log_head h"""


#: A rename waits for everyone who reads the table, and all who come later wait for it: not long.
PATIENCE = "SET LOCAL lock_timeout = '500ms'"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a read model has come, and by which declaration.

    ``held``: it was rolled back to another declaration's table.
    """

    fingerprint: str
    position: int
    held: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a runner has to know of its tables: the log's head, which of them were folded from a log
    that is no longer there, which have dead letters, which are further in some lanes."""

    head: int
    lost: frozenset[str]
    parked: frozenset[str]
    ahead: frozenset[str]


class NothingToRollBack(Exception):
    """A read model has no former table."""


async def prepare(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Create what is missing; the tables whose declaration changed and that want a rebuild."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_PREPARING,))
        await connection.execute(_SCHEMA.read_text())
        await connection.execute(_ASKED)
        present = await progress(connection, tables)
        await _create(connection, [table for table in tables if table.name not in present])
    await rows.confined(connection)
    return [
        table for table in tables if table.name in present and _changed(table, present[table.name])
    ]


async def progress(
    connection: Connection, tables: Sequence[Table], *, lock: bool = False, skip: bool = False
) -> dict[str, Progress]:
    """How far each table has come. ``lock`` keeps other runners out until the transaction ends;
    with ``skip`` those that others have locked are left out instead of waited for."""
    names = [table.name for table in tables]
    locking = (" FOR UPDATE" if lock else "") + (" SKIP LOCKED" if skip else "")
    cursor = await connection.execute(_PROGRESS + locking, (names,))
    return {
        name: Progress(fingerprint, position, held)
        for name, fingerprint, position, held in await cursor.fetchall()
    }


async def all_at_head(connection: Connection, tables: Sequence[Table]) -> bool:
    """Whether every one of the tables is at the head of the log: there is nothing to fold."""
    cursor = await connection.execute(
        """SELECT count(*) = %s FROM projections p
        WHERE p.name = ANY(%s) AND p.position = (SELECT h.position FROM log_head h)""",
        (len(tables), [table.name for table in tables]),
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def outlook(connection: Connection, tables: Sequence[Table]) -> Outlook:
    """What a runner has to know of its tables, in one round trip.

    Ask after ``progress`` with ``lock``, never in its statement: that one reads the locked rows as
    they are now, but everything else as it was before the wait.
    """
    names = [table.name for table in tables]
    # Planned each time: a plan made while the log was short would read all of it later on.
    cursor = await connection.execute(_OUTLOOK, {"names": names}, prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    head, lost, parked, ahead = row
    return Outlook(head, frozenset(lost), frozenset(parked), frozenset(ahead))


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
        if table.name in present and (table in lost or _changed(table, present[table.name]))
    ]


def _changed(table: Table, known: Progress) -> bool:
    return known.fingerprint != table.fingerprint and not known.held


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
            updated_at = now(), error = NULL, held = false""",
        (table.name, table.fingerprint, position, last_event_id),
    )
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))


async def advance(
    connection: Connection, tables: Sequence[Table], position: int, rate: float | None = None
) -> None:
    """Say that several tables have come to a position, and tell who waits for it.

    ``rate``: how many events a second they come forward; None leaves it as it is known.
    """
    await connection.execute(
        """WITH moved AS (
            UPDATE projections SET position = %(position)s, updated_at = now(), error = NULL,
                held = false,
                last_event_id = (SELECT event_id FROM events WHERE notification_id = %(position)s),
                rate = coalesce(%(rate)s, rate)
            WHERE name = ANY(%(names)s))
        SELECT pg_notify(%(channel)s, %(position)s::text)""",
        {
            "position": position,
            "rate": rate,
            "names": [table.name for table in tables],
            "channel": CHANNEL,
        },
    )


async def fail(connection: Connection, table: Table, error: str) -> None:
    """Write beside a table's position why it stands still."""
    await connection.execute(
        "UPDATE projections SET error = %s WHERE name = %s", (error, table.name)
    )


async def recovered(connection: Connection, table: Table) -> None:
    """Say that a table stands still no more."""
    await connection.execute(
        "UPDATE projections SET error = NULL WHERE name = %s AND error IS NOT NULL", (table.name,)
    )


async def start_over(connection: Connection, tables: Sequence[Table]) -> None:
    """Empty the tables and set them to position 0, in the caller's transaction."""
    await _create(connection, tables)
    names = [table.name for table in tables]
    await connection.execute("DELETE FROM dead_letters WHERE projection = ANY(%s)", (names,))
    await connection.execute(
        "DELETE FROM projection_lanes WHERE name = ANY(%s) AND suffix = ''", (names,)
    )


async def _create(connection: Connection, tables: Sequence[Table]) -> None:
    """Make the tables anew, empty and at position 0."""
    if not tables:
        return
    await rows.create(connection, *tables)
    await connection.execute(
        """WITH begun AS (
            INSERT INTO projections AS p (name, fingerprint, position)
            SELECT name, fingerprint, 0
            FROM unnest(%s::text[], %s::text[]) AS t (name, fingerprint)
            ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, position = 0,
                last_event_id = NULL, updated_at = now(), error = NULL, held = false)
        SELECT pg_notify(%s, '0')""",
        ([table.name for table in tables], [table.fingerprint for table in tables], CHANNEL),
    )


async def forget(connection: Connection, name: str) -> bool:
    """Drop all that there is of a read model that no code declares any more; whether there was
    such a one."""
    async with connection.transaction():
        cursor = await connection.execute("DELETE FROM projections WHERE name = %s", (name,))
        if not cursor.rowcount:
            return False
        await connection.execute("DELETE FROM projection_rebuilds WHERE name = %s", (name,))
        await connection.execute("DELETE FROM dead_letters WHERE projection = %s", (name,))
        await connection.execute("DELETE FROM projection_lanes WHERE name = %s", (name,))
        for suffix in ("", NEXT, OLD):
            await connection.execute(
                sql.SQL("DROP TABLE IF EXISTS {}").format(
                    sql.Identifier(rows.SCHEMA, name + suffix)
                )
            )
    return True


# who runs what


async def lease(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Take the right to run tables live, as far as nobody else has it; those taken.

    It lasts as long as the connection, which is also the one that writes: a runner that lost its
    connection has lost both at once, so two never write.
    """
    cursor = await connection.execute(
        """SELECT name, pg_try_advisory_lock(%s, hashtext(name)) FROM unnest(%s::text[]) AS name""",
        (_LEASES, [table.name for table in tables]),
        prepare=False,
    )
    taken = {name for name, got in await cursor.fetchall() if got}
    return [table for table in tables if table.name in taken]


async def lock_rebuild(connection: Connection, table: Table) -> None:
    """Keep other rebuilds of a table out until the connection closes."""
    await connection.execute(
        "SELECT pg_advisory_lock(%s, hashtext(%s))", (REBUILDS, table.name), prepare=False
    )


# rebuilding


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How far a rebuild is in the table beside the live one, and the event there."""

    position: int
    last_event_id: UUID | None


async def begin_rebuild(connection: Connection, table: Table) -> Rebuild:
    """Go on with a rebuild that was cut off, if it was of this declaration and this log, or begin
    one with an empty table beside the live one."""
    async with connection.transaction():
        cursor = await connection.execute(
            f"""SELECT p.position, p.last_event_id FROM projection_rebuilds p
            WHERE p.name = %s AND p.fingerprint = %s AND NOT {_HAS_GONE}
                AND to_regclass(%s) IS NOT NULL""",
            (table.name, table.fingerprint, f"{rows.SCHEMA}.{table.name}{NEXT}"),
            prepare=False,
        )
        if found := await cursor.fetchone():
            return Rebuild(*found)
        await rows.create(connection, table, suffix=NEXT)
        await connection.execute(
            "DELETE FROM dead_letters WHERE projection = %s AND suffix = %s", (table.name, NEXT)
        )
        await connection.execute(
            """INSERT INTO projection_rebuilds AS p (name, fingerprint, position)
            VALUES (%s, %s, 0)
            ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, position = 0,
                last_event_id = NULL, started_at = now(), updated_at = now(), rate = NULL""",
            (table.name, table.fingerprint),
        )
        return Rebuild(0, None)


async def advance_rebuild(
    connection: Connection, table: Table, position: int, rate: float | None = None
) -> None:
    """Say how far a rebuild is, in the transaction that wrote the rows."""
    await connection.execute(
        """UPDATE projection_rebuilds SET position = %(position)s, updated_at = now(),
            last_event_id = (SELECT event_id FROM events WHERE notification_id = %(position)s),
            rate = coalesce(%(rate)s, rate)
        WHERE name = %(name)s""",
        {"position": position, "rate": rate, "name": table.name},
    )


async def swap(connection: Connection, table: Table) -> None:
    """Put the rebuilt table in the place of the live one; the old one is kept for a rollback."""
    await connection.execute(
        """UPDATE projections SET old_fingerprint = fingerprint, old_position = position,
            old_event_id = last_event_id WHERE name = %s""",
        (table.name,),
    )
    await rows.drop(connection, table, OLD)
    for forget_old in (
        "DELETE FROM dead_letters WHERE projection = %s AND suffix = %s",
        "DELETE FROM projection_lanes WHERE name = %s AND suffix = %s",
    ):
        await connection.execute(forget_old, (table.name, OLD))
    await _rename(connection, table, "", OLD)
    await _rename(connection, table, NEXT, "")
    await connection.execute("DELETE FROM projection_rebuilds WHERE name = %s", (table.name,))


async def roll_back(connection: Connection, table: Table) -> int:
    """Put the table that the last rebuild replaced back in its place; the position it is at.

    What was rolled back from is kept in its turn: rolling back twice changes nothing. A table of
    another declaration is held: neither folded further nor rebuilt by itself, until code with that
    declaration runs, or it is rebuilt by hand.

    Raises:
        NothingToRollBack: there is no former table, or it is of a log that is gone.
        psycopg.errors.LockNotAvailable: somebody reads the table for long.
    """
    async with connection.transaction():
        await connection.execute(PATIENCE)
        await progress(connection, [table], lock=True)
        # One that is further in lanes can only be gone on with while there are as many lanes.
        cursor = await connection.execute(
            """SELECT p.old_fingerprint, p.old_position, p.old_event_id,
                to_regclass(%s) IS NOT NULL AND p.old_fingerprint IS NOT NULL
                AND NOT EXISTS (SELECT FROM projection_lanes l, relay r
                    WHERE l.name = p.name AND l.suffix = '__old' AND l.lanes <> r.lanes
                        AND l.position > p.old_position)
                AND (p.old_position = 0 OR p.old_event_id IS NOT DISTINCT FROM
                    (SELECT e.event_id FROM events e WHERE e.notification_id = p.old_position))
            FROM projections p WHERE p.name = %s""",
            (f"{rows.SCHEMA}.{table.name}{OLD}", table.name),
            prepare=False,
        )
        found = await cursor.fetchone()
        if found is None or not found[3]:
            raise NothingToRollBack(
                f"{table.name} has no former table on this log: there is nothing to roll back to"
            )
        fingerprint, position, event_id, _ = found
        await _rename(connection, table, "", _SWAPPED)
        await _rename(connection, table, OLD, "")
        await _rename(connection, table, _SWAPPED, OLD)
        await connection.execute(
            """UPDATE projections SET old_fingerprint = fingerprint, old_position = position,
                old_event_id = last_event_id, fingerprint = %s, position = %s,
                last_event_id = %s, held = (%s <> %s), updated_at = now(), error = NULL
            WHERE name = %s""",
            (fingerprint, position, event_id, fingerprint, table.fingerprint, table.name),
        )
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))
    return int(position)


async def _rename(connection: Connection, table: Table, old: str, new: str) -> None:
    """Give a table another suffix, and with it its dead letters and how far it is in lanes."""
    await rows.rename(connection, table, old, new)
    for rename in (
        "UPDATE dead_letters SET suffix = %s WHERE projection = %s AND suffix = %s",
        "UPDATE projection_lanes SET suffix = %s WHERE name = %s AND suffix = %s",
    ):
        await connection.execute(rename, (new, table.name, old))
