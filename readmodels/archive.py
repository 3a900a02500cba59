"""The archive: which ranges of the log stand in it, and which of them nowhere else."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from pydantic import Field

from eventstore import Log
from readmodels.database import Row
from readmodels.page import Page, decode, page

_SEGMENTS = """SELECT s.number, s.manifest, s.written_at, s.dropped_at,
        s.number < coalesce((SELECT t.size FROM seal_trees t WHERE t.tree = 'archive'), 0)
    FROM segments s WHERE s.number > %s ORDER BY s.number LIMIT %s"""
_SEGMENT = """SELECT s.number, s.manifest, s.written_at, s.dropped_at,
        s.number < coalesce((SELECT t.size FROM seal_trees t WHERE t.tree = 'archive'), 0)
    FROM segments s WHERE s.number = %s"""


class ArchivedFile(Row):
    """A file of a segment; ``topic``: the event type whose columns it has, null for the log's own
    rows."""

    path: str
    bytes: int
    sha256: str
    rows: int
    topic: str | None


class ArchivedSegment(Row):
    """A sealed range of the log in the archive."""

    number: int
    first: int
    last: int
    events: int
    bytes: int = Field(description="Of all of its files.")
    recorded_from: datetime
    recorded_to: datetime
    manifest_sha256: str
    sealed: bool = Field(description="Its manifest is in the tree that signed heads cover.")
    written_at: datetime
    dropped_at: datetime | None = Field(
        description="Since when its events stand in the archive only; null: in Postgres too."
    )
    files: tuple[ArchivedFile, ...]


async def list_segments(
    log: Log, *, cursor: str | None = None, limit: int = 50
) -> Page[ArchivedSegment]:
    """Segments by number.

    Raises:
        BadCursor: the cursor was not given by this query.
    """
    (after,) = decode(cursor, int) if cursor else (-1,)
    async with log.connection() as connection:
        rows = await (await connection.execute(_SEGMENTS, (after, limit + 1))).fetchall()
    return page([_segment(*row) for row in rows], limit, lambda row: (row.number,))


async def get_segment(log: Log, number: int) -> ArchivedSegment | None:
    """One segment; None: there is none of that number."""
    async with log.connection() as connection:
        row = await (await connection.execute(_SEGMENT, (number,))).fetchone()
    return None if row is None else _segment(*row)


def _segment(
    number: int,
    manifest: bytes,
    written_at: datetime,
    dropped_at: datetime | None,
    sealed: bool,
) -> ArchivedSegment:
    said = json.loads(manifest)
    files = [said["log"], *said["typed"]]
    return ArchivedSegment(
        number=number,
        first=said["first"],
        last=said["last"],
        events=said["events"],
        bytes=sum(file["bytes"] for file in files),
        recorded_from=said["recorded_from"],
        recorded_to=said["recorded_to"],
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        sealed=sealed,
        written_at=written_at,
        dropped_at=dropped_at,
        files=tuple(
            ArchivedFile(
                path=file["path"],
                bytes=file["bytes"],
                sha256=file["sha256"],
                rows=file["rows"],
                topic=file.get("topic"),
            )
            for file in files
        ),
    )
