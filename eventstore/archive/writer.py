"""Writes sealed ranges of the log into the archive, and checks what is there.

A segment exists from its row in ``segments`` on. Files without one are of a writer that was cut
off, or of a log that a backup has replaced: names hold hashes, so they are in nobody's way. Nothing
here locks what an append needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic, time
from typing import Any, LiteralString

import polars as pl
import psycopg
import structlog

from eventstore.archive.object_store import (
    ArchiveDamaged,
    ArchiveUnavailable,
    ObjectStore,
    absolute,
    without_userinfo,
)
from eventstore.archive.segments import LOCATION, LOG_COLUMNS, Segment, SegmentFile, location, parse
from eventstore.columnar import ArrowConnection

_log = structlog.get_logger(__name__)
#: Makes the columns of each event type of some rows of the log: a frame for each topic; None for
#: one whose events cannot be decoded. They are of one height, in log order.
Typed = Callable[[pl.DataFrame], Mapping[str, pl.DataFrame | None]]
Report = Callable[[int, int], None]

#: Positions of a whole segment.
POSITIONS = 250_000
#: Bytes of events at which a segment ends before it has so many: who reads it has it in memory.
_MOST_BYTES = 128 * 2**20
_WINDOW = 25_000
_ROW_GROUP = 25_000
_WRITING = 0x_C4A1_0005

_LOCK = f"SELECT pg_try_advisory_lock({_WRITING})"
_SEALED = "SELECT size FROM seal_heads ORDER BY number DESC LIMIT 1"
_FIRST = "SELECT event_id FROM events WHERE notification_id = 1"
_PART = """SELECT s.manifest, (SELECT b.manifest FROM segments b WHERE b.number = s.number - 1)
    FROM segments s WHERE s.number = %s::bigint %% greatest((SELECT count(*) FROM segments), 1)"""
_CHECKED_EVERY_S = 3600.0
#: Names the log whose archive it is: its first event, as far as that was known.
_OWNER = "log.json"
_NEWEST = "SELECT number, last_position, manifest FROM segments ORDER BY number DESC LIMIT 1"
_ROWS = """SELECT notification_id AS position, originator_id AS stream_id,
        originator_version AS version, topic, state, event_id, organisation_id, recorded_at,
        correlation_id, causation_id, actor
    FROM events WHERE notification_id > {after} AND notification_id <= {to}
    ORDER BY notification_id"""


class ArchiveError(Exception):
    """The archive was not written, verified or dropped from; the message says why."""


class Archive:
    """Writes segments. Several may be asked at once: one works, the others do nothing.

    Args:
        url: libpq connection string.
        location: where the archive is, a folder or a URL (``ObjectStore``); it is noted in the
            database, so that readers find it.
        typed: makes the columns of each event type.
        decoder: by which rules ``typed`` does so; columns of other rules are not read.
        positions: how many of them a whole segment has.
    """

    def __init__(
        self,
        url: str,
        location: str,
        typed: Typed,
        *,
        decoder: int,
        positions: int = POSITIONS,
    ) -> None:
        self._url = url
        self._location = absolute(location)
        self._store = ObjectStore(self._location)
        self._typed = typed
        self._decoder = decoder
        self._positions = positions

    def write(
        self,
        *,
        now: bool = False,
        most: int | None = None,
        report: Report = lambda done, of: None,
    ) -> list[Segment]:
        """Write all segments that are due; those written.

        Only what the newest signed head covers is due, in whole segments.

        Args:
            now: write what is left behind the last whole one as a shorter one.
            most: write so many of them at most.
            report: told the position reached and the one that is gone to.

        Raises:
            ArchiveUnavailable: the store cannot be written to. What was written before counts.
            ArchiveError: what is read back is not what was written, or the location is not that of
                what was archived before.
            psycopg.Error: the database refused or went away.
        """
        done: list[Segment] = []
        with psycopg.connect(self._url, autocommit=True) as connection:
            if not _one(connection, _LOCK):
                return []
            sealed = _one(connection, _SEALED) or 0
            while most is None or len(done) < most:
                newest = connection.execute(_NEWEST).fetchone()
                number, last, before = (0, 0, None) if newest is None else newest
                number += newest is not None
                whole = sealed - last >= self._positions
                if sealed <= last or not (whole or now):
                    break
                previous = None
                if before is not None:
                    previous = hashlib.sha256(before).hexdigest()
                    self._see_last(parse(before), bytes(before))
                self._see_owner(connection)
                to = min(sealed, last + self._positions)
                segment, manifest = self._write(number, last, to, previous, report)
                self._insert(connection, segment, manifest)
                done.append(segment)
        return done

    def check(self, number: int) -> tuple[Segment, str | None] | None:
        """Compare the files of one segment with its manifest, the oldest one again behind the last.

        Args:
            number: which; counted on from the first one behind the last one.

        Returns:
            The segment, and what is wrong with it, if anything is; None: there is no segment.

        Raises:
            ArchiveUnavailable: the store is out of reach.
            psycopg.Error: the database refused or went away.
        """
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute(_PART, (number,)).fetchone()
            store = ObjectStore(location(_one(connection, LOCATION))) if row else None
        if row is None or store is None:
            return None
        manifest, before = row
        segment = parse(manifest)
        previous = None if before is None else hashlib.sha256(before).hexdigest()
        try:
            check_segment(store, segment, bytes(manifest), previous)
        except (ArchiveDamaged, ArchiveError) as error:
            return segment, str(error)
        return segment, None

    def _see_last(self, segment: Segment, manifest: bytes) -> None:
        """See that the location has what was archived before."""
        if self._store.find(segment.manifest_path) != manifest:
            raise ArchiveError(
                f"{without_userinfo(self._location)} does not hold segment {segment.number}, which "
                "was archived before: where the archive was moved, all of its files have to be "
                "there"
            )

    def _see_owner(self, connection: psycopg.Connection[Any]) -> None:
        """See that the location is no other log's. Copies of one database may share it: none
        writes over what another one has written."""
        first = _one(connection, _FIRST)
        owner = json.dumps({"first_event": str(first)}).encode()
        found = self._store.find(_OWNER)
        if found is None:
            self._store.put(_OWNER, owner)
        elif first is not None and found != owner:
            raise ArchiveError(
                f"{without_userinfo(self._location)} is the archive of another log: this database "
                "needs one of its own"
            )

    def _write(
        self, number: int, after: int, to: int, previous: str | None, report: Report
    ) -> tuple[Segment, bytes]:
        """Write the files of a segment and its manifest."""
        rows: list[pl.DataFrame] = []
        parts: dict[str, list[pl.DataFrame]] = {}
        undecoded: set[str] = set()
        for window in self._windows(after, to):
            rows.append(window)
            for topic, part in self._typed(window).items():
                if part is None:
                    undecoded.add(topic)
                else:
                    parts.setdefault(topic, []).append(part)
            report(int(window["position"][-1]), to)
        log = pl.concat(rows)
        first, last = after + 1, after + log.height
        name = f"{first:012}-{last:012}"
        counts = log["topic"].value_counts().sort("topic")
        with tempfile.TemporaryDirectory(prefix="chainlytics-archive-") as folder:
            staged = Path(folder)
            typed = {
                topic: _staged(staged, f"events/{topic}/{name}", pl.concat(found), topic)
                for topic, found in sorted(parts.items())
                if topic not in undecoded
            }
            segment = Segment(
                number=number,
                first=first,
                last=last,
                topics=dict(counts.iter_rows()),
                log=_staged(staged, f"log/{name}", log),
                typed=typed,
                decoder=self._decoder,
                previous=previous,
                recorded_from=log["recorded_at"][0],
                recorded_to=log["recorded_at"][-1],
            )
            manifest = segment.manifest()
            for file in segment.files:
                self._store.put(file.path, staged / file.path)
                check_file(self._store, file)
        self._store.put(segment.manifest_path, manifest)
        return segment, manifest

    def _windows(self, after: int, to: int) -> Iterator[pl.DataFrame]:
        """The rows of a range, window by window, until a segment has enough bytes."""
        size = 0
        with ArrowConnection(self._url) as connection:
            while after < to and size < _MOST_BYTES:
                end = min(to, after + _WINDOW)
                rows = connection.frame(_ROWS.format(after=after, to=end)).select(
                    pl.col(name).cast(dtype) for name, dtype in LOG_COLUMNS.items()
                )
                if rows.height != end - after:
                    raise ArchiveError(f"the log has a hole behind position {after:,}")
                size += int(rows["state"].bin.size().sum())
                after = end
                yield rows

    def _insert(
        self, connection: psycopg.Connection[Any], segment: Segment, manifest: bytes
    ) -> None:
        """Make a segment count."""
        with connection.transaction():
            connection.execute(
                """INSERT INTO archive_store AS s (url) VALUES (%s)
                ON CONFLICT (only_row) DO UPDATE SET url = excluded.url
                WHERE s.url <> excluded.url""",
                (self._location,),
            )
            connection.execute(
                """INSERT INTO segments (number, first_position, last_position, manifest)
                VALUES (%s, %s, %s, %s)""",
                (segment.number, segment.first, segment.last, manifest),
            )


def _staged(folder: Path, path: str, frame: pl.DataFrame, topic: str | None = None) -> SegmentFile:
    """Write a frame to a local file and see that it reads as it was."""
    file = folder / f"{path}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(file, compression="zstd", statistics="full", row_group_size=_ROW_GROUP)
    if not pl.read_parquet(file, glob=False).equals(frame):
        raise ArchiveError(f"{path} reads otherwise than it was written")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    path = f"{path}-{digest[:8]}.parquet"
    file = file.rename(folder / path)
    columns = None
    if topic is not None:
        columns = {column: str(dtype) for column, dtype in frame.schema.items()}
    return SegmentFile(path, file.stat().st_size, digest, frame.height, topic, columns)


async def keep_written(archive: Archive, *, every: timedelta) -> None:
    """Write what is due now and then, until cancelled; of several processes one does it. Once an
    hour one segment is compared with its manifest: each in its turn."""
    checked = monotonic()
    while True:
        try:
            # One at a time: between two of them a process can end.
            while written := await asyncio.to_thread(archive.write, most=1):
                [segment] = written
                _log.info("archived", segment=segment.number, last=segment.last)
        except (ArchiveUnavailable, ArchiveError, psycopg.Error) as error:
            _log.warning("archiving later", error=str(error).strip())
        if monotonic() - checked >= _CHECKED_EVERY_S:
            checked = monotonic()
            await _check_one(archive)
        await asyncio.sleep(every.total_seconds())


async def _check_one(archive: Archive) -> None:
    try:
        # By the clock, so that a process that is often started does not begin with the first one.
        found = await asyncio.to_thread(archive.check, int(time() // _CHECKED_EVERY_S))
    except (ArchiveUnavailable, psycopg.Error) as error:
        _log.warning("archive not verified", error=str(error).strip())
        return
    if found is not None and found[1] is not None:
        _log.critical("the archive is damaged", segment=found[0].number, error=found[1])


def check_segment(
    store: ObjectStore, segment: Segment, manifest: bytes, previous: str | None
) -> None:
    """See that a segment's files and its manifest are what they were.

    Args:
        store: where they are.
        segment: which one.
        manifest: as the database has it.
        previous: the SHA-256 of the manifest before, in hex; None: it is the first one.

    Raises:
        ArchiveError: its manifest is another one than in the store, or names another one before.
        ArchiveUnavailable: a file is not there, or has another content.
    """
    if segment.previous != previous:
        raise ArchiveError("its manifest does not name the one before it")
    if store.sha256(segment.manifest_path) != hashlib.sha256(manifest).hexdigest():
        raise ArchiveError(f"{segment.manifest_path} is not the manifest that the database has")
    for file in segment.files:
        check_file(store, file)


def check_file(store: ObjectStore, file: SegmentFile) -> None:
    """See that a file is there and has the content that its manifest names.

    Raises:
        ArchiveUnavailable: it is not, or has another one.
    """
    size = store.size(file.path)
    if size != file.bytes or store.sha256(file.path) != file.sha256:
        raise ArchiveDamaged(
            f"{file.path} of the archive at {store.url} is damaged: it is not what its manifest "
            "names"
        )


def _one(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
