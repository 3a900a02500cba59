"""Drops archived ranges from Postgres, and puts them back.

Only what was just compared with the archive goes. The newest event of each stream stays, so that an
append finds a stream's version where it always did; so do events at which a snapshot was taken and
those that somebody names by their position. A range is gone, and known to be gone, at one moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, LiteralString

import polars as pl
import psycopg
from psycopg import sql

from eventstore.archive.object_store import ArchiveUnavailable, ObjectStore
from eventstore.archive.segments import (
    LOCATION,
    LOG_COLUMNS,
    Segment,
    location,
    parse,
    read_rows,
    stored_events,
)
from eventstore.archive.writer import ArchiveError, check_file, check_segment
from eventstore.columnar import ArrowConnection

Report = Callable[[int, int], None]
_WINDOW = 25_000
_ALL = "SELECT manifest, dropped_at IS NOT NULL, written_at FROM segments ORDER BY number"
_SEALED = "SELECT size FROM seal_trees WHERE tree = 'archive'"
_LOCK = "SELECT dropped_at IS NOT NULL FROM segments WHERE number = %s FOR UPDATE"
_ROWS = """SELECT notification_id AS position, originator_id AS stream_id,
        originator_version AS version, topic, state, event_id, organisation_id, recorded_at,
        correlation_id, causation_id, actor
    FROM events WHERE notification_id > {after} AND notification_id <= {to}
    ORDER BY notification_id"""
# What goes: not the newest of its stream, not where a snapshot was taken, not named by anybody.
_GOING = """FROM events e
    WHERE e.notification_id BETWEEN %(first)s AND %(last)s
        AND e.notification_id <> ALL (%(named)s)
        AND EXISTS (SELECT FROM events n WHERE n.originator_id = e.originator_id
            AND n.originator_version > e.originator_version)
        AND NOT EXISTS (SELECT FROM snapshots s WHERE s.stream_id = e.originator_id
            AND s.version = e.originator_version)"""
_DROP = f"""WITH gone AS (
        DELETE FROM events WHERE notification_id IN (SELECT e.notification_id {_GOING})
        RETURNING originator_id
    ), noted AS (
        INSERT INTO cold_streams (stream_id, number)
        SELECT DISTINCT originator_id, %(number)s::bigint FROM gone ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM gone"""
_DROPPED = "UPDATE segments SET dropped_at = clock_timestamp() WHERE number = %s"
_STAGED = """CREATE TEMP TABLE restored_events (LIKE events) ON COMMIT DROP"""
# In the order of a StoredEvent.
_COPIED = """COPY restored_events (notification_id, originator_id, originator_version, topic, state,
    event_id, organisation_id, recorded_at, correlation_id, causation_id, actor)
    FROM STDIN (FORMAT BINARY)"""
_TYPES = (
    "int8",
    "uuid",
    "int8",
    "text",
    "bytea",
    "uuid",
    "uuid",
    "timestamptz",
    "uuid",
    "uuid",
    "text",
)
_BACK = """WITH back AS (
        INSERT INTO events SELECT * FROM restored_events ON CONFLICT DO NOTHING
    ), known AS (
        DELETE FROM cold_streams WHERE number = %(number)s
    )
    UPDATE segments SET dropped_at = NULL WHERE number = %(number)s"""
_COUNT = "SELECT count(*) FROM events WHERE notification_id BETWEEN %s AND %s"


@dataclass(frozen=True, slots=True)
class Needed:
    """What others still need of Postgres: events behind ``position`` (``who`` needs them), and
    single ones that are named elsewhere."""

    position: int | None
    who: str
    named: Collection[int]


#: Asked in the transaction that drops.
Needs = Callable[[psycopg.Connection[Any]], Needed]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A segment that was dropped, or would be: how many of its events go, and how many stay."""

    number: int
    first: int
    last: int
    gone: int
    kept: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A segment as the database has it."""

    segment: Segment
    manifest: bytes
    written_at: datetime


def segments(connection: psycopg.Connection[Any]) -> list[Listed]:
    """All segments by number."""
    return [
        Listed(parse(bytes(manifest), dropped=dropped), bytes(manifest), written_at)
        for manifest, dropped, written_at in connection.execute(_ALL).fetchall()
    ]


def opened(connection: psycopg.Connection[Any]) -> ObjectStore:
    """The store of the archive.

    Raises:
        ArchiveUnavailable: nobody says where it is, or it cannot be used.
    """
    row = connection.execute(LOCATION).fetchone()
    return ObjectStore(location(None if row is None else row[0]))


def verify(
    connection: psycopg.Connection[Any], report: Report = lambda done, of: None
) -> Iterator[tuple[Segment, str | None]]:
    """Each segment, with what is wrong with it; None: its files and its manifest are what they
    were, and the manifest before it is the one that it names."""
    listed = segments(connection)
    store = opened(connection) if listed else None
    before: str | None = None
    for done, one in enumerate(listed, 1):
        assert store is not None
        try:
            check_segment(store, one.segment, one.manifest, before)
            wrong = None
        except (ArchiveUnavailable, ArchiveError) as error:
            wrong = str(error)
        before = hashlib.sha256(one.manifest).hexdigest()
        report(done, len(listed))
        yield one.segment, wrong


def drop(
    url: str,
    before: int,
    needs: Needs,
    *,
    dry_run: bool = False,
    report: Report = lambda done, of: None,
) -> list[Dropped]:
    """Drop all segments that end before a position; those dropped, each in its own transaction.

    Args:
        url: libpq connection string.
        before: the position that segments have to end before.
        needs: what others still need.
        dry_run: only say what would go.
        report: told how many segments are done, and of how many.

    Raises:
        ArchiveUnavailable: a file is not what it was; the segments before it are dropped.
        ArchiveError: Postgres and the archive differ, no signed head covers the manifest yet, or
            somebody still needs the events.
    """
    done: list[Dropped] = []
    with psycopg.connect(url, autocommit=True) as connection:
        listed = [one.segment for one in segments(connection)]
        chosen = [one for one in listed if one.last < before and not one.dropped]
        store = opened(connection) if chosen else None
        sealed = _one(connection, _SEALED, ()) or 0
        for segment in chosen:
            assert store is not None
            if segment.number >= sealed:
                raise ArchiveError(
                    f"no signed head covers the manifest of segment {segment.number} yet: it is "
                    "dropped when one does"
                )
            if not dry_run:
                for file in segment.files:
                    check_file(store, file)
                _compare(url, store, segment)
            with connection.transaction():
                done.append(_drop(connection, segment, needs, dry_run))
            report(len(done), len(chosen))
    return done


def restore(url: str, numbers: Collection[int] | None = None) -> list[Segment]:
    """Put the events of dropped segments back; those put back.

    Args:
        url: libpq connection string.
        numbers: which; all without it.

    Raises:
        ArchiveUnavailable: a file is missing or is not what it was.
        ArchiveError: what came out is not the whole segment.
    """
    done: list[Segment] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for one in (listed.segment for listed in segments(connection)):
            if not one.dropped or (numbers is not None and one.number not in numbers):
                continue
            store = opened(connection)
            check_file(store, one.log)
            with connection.transaction():
                _put_back(connection, store, one)
            done.append(one)
    return done


def _compare(url: str, store: ObjectStore, segment: Segment) -> None:
    """See that Postgres and the archive hold the same rows."""
    with ArrowConnection(url) as connection:
        for after in range(segment.first - 1, segment.last, _WINDOW):
            to = min(segment.last, after + _WINDOW)
            rows = connection.frame(_ROWS.format(after=after, to=to)).select(
                pl.col(name).cast(dtype) for name, dtype in LOG_COLUMNS.items()
            )
            if not rows.equals(read_rows(store, segment, after, to)):
                raise ArchiveError(
                    f"segment {segment.number}: behind position {after:,} the archive and "
                    "Postgres hold different events"
                )


def _drop(
    connection: psycopg.Connection[Any], segment: Segment, needs: Needs, dry_run: bool
) -> Dropped:
    row = connection.execute(_LOCK, (segment.number,)).fetchone()
    if row is None or row[0]:
        raise ArchiveError(f"segment {segment.number} was dropped or replaced meanwhile")
    needed = needs(connection)
    if needed.position is not None and needed.position <= segment.last:
        raise ArchiveError(
            f"{needed.who} is at position {needed.position:,} and needs segment {segment.number}, "
            f"which goes to {segment.last:,}: nothing more is dropped"
        )
    parameters = {
        "first": segment.first,
        "last": segment.last,
        "named": list(needed.named),
        "number": segment.number,
    }
    query: LiteralString = f"SELECT count(*) {_GOING}" if dry_run else _DROP
    gone = int(_one(connection, query, parameters))
    kept = segment.events - gone
    if not dry_run:
        if _one(connection, _COUNT, (segment.first, segment.last)) != kept:
            raise ArchiveError(f"segment {segment.number} does not have the events that it had")
        connection.execute(_DROPPED, (segment.number,))
    return Dropped(segment.number, segment.first, segment.last, gone, kept)


def _put_back(connection: psycopg.Connection[Any], store: ObjectStore, segment: Segment) -> None:
    _one(connection, _LOCK, (segment.number,))
    connection.execute(_STAGED)
    with connection.cursor().copy(_COPIED) as copy:
        copy.set_types(_TYPES)
        for after in range(segment.first - 1, segment.last, _WINDOW):
            for event in stored_events(read_rows(store, segment, after, after + _WINDOW)):
                copy.write_row(astuple(event))
    connection.execute(_BACK, {"number": segment.number})
    if _one(connection, _COUNT, (segment.first, segment.last)) != segment.events:
        raise ArchiveError(
            f"segment {segment.number} cannot be put back: its events are not all there"
        )


def _one(connection: psycopg.Connection[Any], query: LiteralString, parameters: Any) -> Any:
    row = connection.execute(sql.SQL(query), parameters).fetchone()
    return None if row is None else row[0]
