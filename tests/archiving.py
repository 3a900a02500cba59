"""What tests of the archive share: a log that is sealed by hand, archived, dropped."""

from __future__ import annotations

from pathlib import Path

import psycopg

from eventstore.archive.dropping import Dropped, drop
from eventstore.archive.segments import Segment
from eventstore.archive.writer import Archive
from projections.segments import DECODER, needed, typed


def sealed(url: str, size: int | None = None) -> int:
    """Say that a signed head covers the log, or as much of it; up to where."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            """INSERT INTO seal_heads (number, size, note)
            SELECT (SELECT coalesce(max(number), -1) + 1 FROM seal_heads),
                coalesce(%s::bigint, (SELECT position FROM log_head)), 'test'
            RETURNING size""",
            (size,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def manifests_sealed(url: str) -> None:
    """Say that a signed head covers the manifests of all segments."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """INSERT INTO seal_trees (tree, size, root)
            SELECT 'archive', count(*), '' FROM segments
            ON CONFLICT (tree) DO UPDATE SET size = excluded.size"""
        )


def archive(url: str, location: str | Path, *, positions: int = 1000) -> Archive:
    """The writer as the composition root makes it, of short segments."""
    return Archive(url, str(location), typed, decoder=DECODER, positions=positions)


def archived(
    url: str, location: str | Path, *, positions: int = 1000, size: int | None = None
) -> list[Segment]:
    """Archive what is sealed of a log, in whole segments."""
    sealed(url, size)
    return archive(url, location, positions=positions).write()


def dropped(url: str, before: int = 2**40) -> list[Dropped]:
    """Drop what is archived of a log, sealed as it is."""
    manifests_sealed(url)
    return drop(url, before, needed)


def held(url: str) -> int:
    """How many events Postgres holds."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    return int(row[0])
