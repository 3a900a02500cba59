"""Segments: sealed ranges of the log as Parquet files, and the manifests that name them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import polars as pl
from polars.exceptions import PolarsError

from eventstore.archive.object_store import (
    MANIFESTS,
    ArchiveDamaged,
    ArchiveUnavailable,
    ObjectStore,
)
from eventstore.stored import StoredEvent

#: Where the archive is, if not where the database says: a folder may have been moved.
LOCATION_VARIABLE = "CHAINLYTICS_ARCHIVE"
LOCATION = "SELECT url FROM archive_store"
#: What the files are like. A reader refuses what it does not know.
FORMAT = 1
#: The columns of a segment of the log, in their order; ids are sixteen bytes.
LOG_COLUMNS: Mapping[str, pl.DataType] = {
    "position": pl.Int64(),
    "stream_id": pl.Binary(),
    "version": pl.Int64(),
    "topic": pl.String(),
    "state": pl.Binary(),
    "event_id": pl.Binary(),
    "organisation_id": pl.Binary(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "correlation_id": pl.Binary(),
    "causation_id": pl.Binary(),
    "actor": pl.String(),
}


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of a segment: its path in the store, its content's hash, and what it holds.

    ``topic`` and ``columns`` (names and types) are of files with the columns of one event type.
    """

    path: str
    bytes: int
    sha256: str
    rows: int
    topic: str | None = None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed range of the log, ``first`` to ``last``, both in it.

    Attributes:
        number: from 0, without gaps; each begins where the one before it ends.
        topics: how many events of each topic it holds, as they are stored.
        log: the file with the rows of the log as they are.
        typed: files with the columns of an event type, by topic.
        decoder: by which rules the columns were made of the stored bytes.
        previous: the SHA-256 of the manifest before, in hex; None for the first one.
        recorded_from, recorded_to: when its first and last event were recorded.
        dropped: its events stand in the archive only.
    """

    number: int
    first: int
    last: int
    topics: Mapping[str, int]
    log: SegmentFile
    typed: Mapping[str, SegmentFile]
    decoder: int
    previous: str | None
    recorded_from: datetime
    recorded_to: datetime
    dropped: bool = False

    @property
    def events(self) -> int:
        """How many events it holds."""
        return self.last - self.first + 1

    @property
    def files(self) -> list[SegmentFile]:
        """All of its files."""
        return [self.log, *self.typed.values()]

    @property
    def manifest_path(self) -> str:
        """Where its manifest is, beside the database's. Its hash is in the name: what a writer that
        was cut off has left behind is in nobody's way."""
        digest = hashlib.sha256(self.manifest()).hexdigest()
        return f"{MANIFESTS}/{self.number:08}-{digest[:8]}.json"

    def manifest(self) -> bytes:
        """What is sealed of it: canonical JSON, keys sorted, no spaces."""
        said = {
            "format": FORMAT,
            "number": self.number,
            "first": self.first,
            "last": self.last,
            "events": self.events,
            "topics": dict(self.topics),
            "log": _file_json(self.log),
            "typed": [_file_json(one) for one in self.typed.values()],
            "decoder": self.decoder,
            "previous": self.previous,
            "recorded_from": self.recorded_from.isoformat(),
            "recorded_to": self.recorded_to.isoformat(),
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(manifest: bytes, *, dropped: bool = False) -> Segment:
    """The segment that a manifest names.

    Raises:
        ArchiveUnavailable: this version of the code does not know its format.
    """
    said = json.loads(manifest)
    if said["format"] != FORMAT:
        raise ArchiveUnavailable(
            f"segment {said['number']} of the archive has format {said['format']}, which this "
            "version of the code does not know"
        )
    typed = [_file(one) for one in said["typed"]]
    return Segment(
        number=said["number"],
        first=said["first"],
        last=said["last"],
        topics=said["topics"],
        log=_file(said["log"]),
        typed={one.topic: one for one in typed if one.topic is not None},
        decoder=said["decoder"],
        previous=said["previous"],
        recorded_from=datetime.fromisoformat(said["recorded_from"]),
        recorded_to=datetime.fromisoformat(said["recorded_to"]),
        dropped=dropped,
    )


def location(recorded: str | None) -> str:
    """Where the archive is: as the environment says, else as the database does.

    Raises:
        ArchiveUnavailable: neither says it.
    """
    found = os.environ.get(LOCATION_VARIABLE) or recorded
    if found is None:
        raise ArchiveUnavailable(
            f"the database has segments and does not say where: set {LOCATION_VARIABLE}"
        )
    return found


def read_rows(
    store: ObjectStore,
    segment: Segment,
    after: int,
    to: int,
    *,
    columns: Collection[str] | None = None,
    topics: Collection[str] | None = None,
    organisation_id: UUID | None = None,
    streams: Collection[UUID] | None = None,
    where: pl.Expr | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """Rows of the log behind ``after`` and not beyond ``to``, as they stood there, in log order.

    Args:
        store: where the files are.
        segment: which one.
        after: the position behind which rows are wanted.
        to: the last position.
        columns: which of ``LOG_COLUMNS``; all of them without it.
        topics: only events of these topics.
        organisation_id: only events of this organisation.
        streams: only events of these streams.
        where: only rows of which this is true.
        limit: at most so many rows.

    Raises:
        ArchiveUnavailable: the file is missing, damaged or out of reach.
    """
    kept = pl.lit(True)
    if after >= segment.first or to < segment.last:
        kept = kept & (pl.col("position") > after) & (pl.col("position") <= to)
    if topics is not None and not set(segment.topics) <= set(topics):
        kept = kept & pl.col("topic").is_in(list(topics))
    if organisation_id is not None:
        kept = kept & (pl.col("organisation_id") == pl.lit(organisation_id.bytes))
    if streams is not None:
        kept = kept & pl.col("stream_id").is_in([one.bytes for one in streams])
    if where is not None:
        kept = kept & where
    names = [name for name in LOG_COLUMNS if columns is None or name in columns]
    return read(store, segment, segment.log, names, kept, limit)


def read(
    store: ObjectStore,
    segment: Segment,
    file: SegmentFile,
    columns: Collection[str],
    kept: pl.Expr,
    limit: int | None = None,
) -> pl.DataFrame:
    """Some columns of the kept rows of a segment's file.

    Raises:
        ArchiveUnavailable: the file is missing, damaged or out of reach.
    """
    try:
        found = pl.scan_parquet(store.source(file.path, file.bytes, file.sha256), glob=False)
        if not (kept.meta.is_literal()):
            found = found.filter(kept)
        if limit is not None:
            found = found.head(limit)
        return found.select(list(columns)).collect()
    except (PolarsError, OSError) as error:
        raise ArchiveDamaged(
            f"{file.path} of the archive at {store.url}, positions {segment.first:,} to "
            f"{segment.last:,}, is damaged: {error}"
        ) from error
    except ArchiveUnavailable as error:
        raise type(error)(
            f"positions {segment.first:,} to {segment.last:,} cannot be read: {error}"
        ) from error


def stored_events(rows: pl.DataFrame) -> list[StoredEvent]:
    """Rows of the log as values."""
    return [
        StoredEvent(
            position,
            UUID(bytes=stream_id),
            version,
            topic,
            state,
            UUID(bytes=event_id),
            UUID(bytes=organisation_id),
            recorded_at,
            UUID(bytes=correlation_id),
            None if causation_id is None else UUID(bytes=causation_id),
            actor,
        )
        for (
            position,
            stream_id,
            version,
            topic,
            state,
            event_id,
            organisation_id,
            recorded_at,
            correlation_id,
            causation_id,
            actor,
        ) in rows.select(list(LOG_COLUMNS)).iter_rows()
    ]


def _file_json(file: SegmentFile) -> dict[str, Any]:
    said = {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "rows": file.rows}
    if file.topic is not None and file.columns is not None:
        said |= {"topic": file.topic, "columns": dict(file.columns)}
    return said


def _file(said: Mapping[str, Any]) -> SegmentFile:
    return SegmentFile(**said)
