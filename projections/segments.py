"""The columns of archived events: made when a segment is written, read in place of its JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import polars as pl
import psycopg
from polars.exceptions import PolarsError

from domain import catalogue
from domain.values import Event
from eventstore.archive.dropping import Needed
from eventstore.archive.object_store import ObjectStore
from eventstore.archive.segments import Segment, SegmentFile, read, read_rows
from projections.frames import Wanted, as_metadata, decode_frame, metadata_of, of_topic
from projections.schema import METADATA, fields_of

#: By which rules columns are made of stored bytes. It is raised where ``frames`` or ``schema``
#: come to read the same bytes as something else: columns of other rules are not read any more.
DECODER = 1
# The table that is furthest behind, and the positions at which tables know an event by its id.
_THERE = "SELECT to_regclass('projections') IS NOT NULL"
# Who parks an event or begins a rebuild waits until this transaction has ended: what was said to be
# needed stays all that is.
_HOLD = "LOCK TABLE dead_letters, projection_rebuilds IN SHARE MODE"
_BEHIND = """SELECT name, position FROM (
        SELECT name, position FROM projections
        UNION ALL SELECT 'the rebuild of ' || name, position FROM projection_rebuilds
    ) AS every ORDER BY position LIMIT 1"""
_NAMED = """SELECT old_position FROM projections WHERE old_position IS NOT NULL
    UNION SELECT position FROM dead_letters"""
#: What stands beside an event's own fields.
_BESIDE = ("position", "organisation_id", "recorded_at")


def typed(rows: pl.DataFrame) -> Mapping[str, pl.DataFrame | None]:
    """The columns of each event type of some rows of the log, by its topic; None where an event
    cannot be decoded. Older topics have none: what they are upcast to is for later code to say."""
    found: dict[str, pl.DataFrame | None] = {}
    for topic in rows["topic"].unique(maintain_order=True):
        kind = catalogue.TYPES.get(topic)
        if kind is None:
            continue
        fields = {"recorded_at", *_stored_fields(kind)}
        mine = rows.filter(pl.col("topic") == topic)
        try:
            found[topic] = of_topic(mine, kind, mine["state"], fields)
        except (PolarsError, ValueError):
            found[topic] = None
    return found


def _stored_fields(kind: type[Event]) -> list[str]:
    """The fields that Parquet has a type for: a struct without fields has none."""
    return [name for name, dtype in fields_of(kind).items() if _has_columns(dtype)]


def _has_columns(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return _has_columns(_instance(dtype.inner))
    if isinstance(dtype, pl.Struct):
        parts = [_instance(part.dtype) for part in dtype.fields]
        return bool(parts) and all(map(_has_columns, parts))
    return True


def _instance(dtype: object) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()  # type: ignore[operator]


def frames_of(
    store: ObjectStore,
    segment: Segment,
    fields: Wanted,
    after: int,
    to: int,
    organisation_id: UUID | None = None,
    without: Collection[int] = (),
) -> dict[type[Event], pl.DataFrame]:
    """The wanted fields of a segment's events behind ``after`` and not beyond ``to``: from columns
    where it has them as they are wanted, else decoded.

    Raises:
        ArchiveUnavailable: a file is missing, damaged or out of reach.
        NewerTopic: an event is of a version that this code does not know.
    """
    found: dict[type[Event], list[pl.DataFrame]] = {}
    to_decode = [topic for topic in segment.topics if _is_newer(topic)]
    for kind, names in fields.items():
        present = catalogue.TOPICS[kind]
        file = segment.typed.get(present)
        if file is not None and segment.decoder == DECODER:
            frame = _typed_frame(
                store, segment, file, kind, names, after, to, organisation_id, without
            )
            if frame is not None:
                if not frame.is_empty():
                    found[kind] = [frame]
                present = ""
        # All topics that are read as this type, but what was just read from columns.
        mine = [one for one in segment.topics if catalogue.type_of(one) is kind]
        to_decode += [one for one in mine if one != catalogue.TOPICS[kind] or present]
    if to_decode:
        columns = {"topic", "state", *metadata_of(fields)}
        rows = read_rows(
            store,
            segment,
            after,
            to,
            columns=columns,
            topics=to_decode,
            organisation_id=organisation_id,
        )
        if without:
            rows = rows.filter(~pl.col("position").is_in(list(without)))
        for kind, frame in decode_frame(rows, fields).items():
            found.setdefault(kind, []).append(frame)
    return {
        kind: frames[0]
        if len(frames) == 1
        else pl.concat([one.select(frames[0].columns) for one in frames]).sort("position")
        for kind, frames in found.items()
    }


def rows_of(
    store: ObjectStore,
    segment: Segment,
    fields: Wanted,
    after: int,
    to: int,
    organisation_id: UUID | None = None,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """A segment's rows as ``log_queries`` choose them, where ``where`` is true.

    Raises:
        ArchiveUnavailable: a file is missing, damaged or out of reach.
    """
    topics = [
        topic
        for topic in segment.topics
        if (kind := catalogue.type_of(topic)) is None or kind in fields
    ]
    columns = {"topic", "state", *metadata_of(fields)}
    return read_rows(
        store,
        segment,
        after,
        to,
        columns=columns,
        topics=topics,
        organisation_id=organisation_id,
        where=where,
    )


def _is_newer(topic: str) -> bool:
    return catalogue.type_of(topic) is None and catalogue.is_newer(topic)


def _typed_frame(
    store: ObjectStore,
    segment: Segment,
    file: SegmentFile,
    kind: type[Event],
    names: Collection[str],
    after: int,
    to: int,
    organisation_id: UUID | None,
    without: Collection[int],
) -> pl.DataFrame | None:
    """The wanted columns as a frame of ``frames.decode``; None: the file does not have them."""
    dtypes = {name: dtype for name, dtype in fields_of(kind).items() if name in names}
    stored = file.columns or {}
    if any(stored.get(name) != str(dtype) for name, dtype in dtypes.items()):
        return None
    beside = [name for name in _BESIDE if name in names or name in _BESIDE[:2]]
    others = [name for name in METADATA if name in names and name not in _BESIDE]
    kept = pl.lit(True)
    if after >= segment.first or to < segment.last:
        kept = kept & (pl.col("position") > after) & (pl.col("position") <= to)
    if organisation_id is not None:
        kept = kept & (pl.col("organisation_id") == str(organisation_id))
    if without:
        kept = kept & ~pl.col("position").is_in(list(without))
    found = read(store, segment, file, [*beside, *dtypes], kept)
    if others:
        topic = catalogue.TOPICS[kind]
        rows = read_rows(
            store, segment, after, to, columns={"position", *others} - {"topic"}, topics=[topic],
            organisation_id=organisation_id,
        )  # fmt: skip
        if without:
            rows = rows.filter(~pl.col("position").is_in(list(without)))
        if not rows["position"].equals(found["position"]):
            return None
        found = found.hstack(as_metadata(rows, kind, others))
    return found


def needed(connection: psycopg.Connection[Any]) -> Needed:
    """What tables need of Postgres: all behind the one that has come least far, the event that a
    former table, kept for a rollback, has come to, and dead letters."""
    there = connection.execute(_THERE).fetchone()
    if there is None or not there[0]:
        return Needed(None, "nobody", ())
    connection.execute(_HOLD)
    behind = connection.execute(_BEHIND).fetchone()
    named = [position for (position,) in connection.execute(_NAMED).fetchall()]
    if behind is None:
        return Needed(None, "nobody", named)
    return Needed(behind[1], behind[0], named)
