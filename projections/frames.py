"""Stored events as polars frames: one frame for each event type, only the fields asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from uuid import UUID

import polars as pl

from domain import catalogue
from domain.people import token_fields
from domain.values import Event
from eventstore import StoredEvent
from projections.schema import METADATA, MOMENT, fields_of, from_wire, wire
from projections.table import Table

Frames = Mapping[type[Event], pl.DataFrame]
#: Which fields of which event types are wanted.
Wanted = Mapping[type[Event], set[str]]

_COLUMNS = {name: attrgetter(name) for name in METADATA}
#: For so few values polars costs more than Python.
_FEW = 200
_UUID_PIECES = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))
_IDS = ("organisation_id", "stream_id", "event_id", "correlation_id", "causation_id")


class NewerTopic(Exception):
    """An event of ours that newer code wrote, as while servers are replaced one by one."""

    def __init__(self, topic: str, position: int) -> None:
        super().__init__(
            f"position {position} holds {topic}, which this version of the code does not know: "
            "it waits there until it is replaced by a newer one"
        )


def wanted(tables: Iterable[Table]) -> dict[type[Event], set[str]]:
    """What some tables read, put together."""
    found: dict[type[Event], set[str]] = {}
    for table in tables:
        for event in table.events:
            found.setdefault(event, set()).update(table.fields(event))
    return found


def decode(events: Sequence[StoredEvent], fields: Wanted) -> dict[type[Event], pl.DataFrame]:
    """A frame for each wanted event type that occurs: metadata, and the wanted fields.

    Events of older topics come as present ones, their ``topic`` and ``state`` too. Those of topics
    that the catalogue does not know are left out: they are somebody else's.

    Raises:
        NewerTopic: an event is of a version that this code does not know.
        ValueError: the bytes under an older topic are no such event.
    """
    by_type: dict[type[Event], list[StoredEvent]] = {}
    states: dict[type[Event], list[bytes]] = {}
    for stored in events:
        topic, state = stored.topic, stored.state
        kind = catalogue.TYPES.get(topic)
        if kind is None:
            kind = catalogue.type_of(topic)
            if kind is None and catalogue.is_newer(topic):
                raise NewerTopic(topic, stored.position)
            if kind in fields:
                state = catalogue.present(topic, state)[1]
        if kind is not None and kind in fields:
            by_type.setdefault(kind, []).append(stored)
            states.setdefault(kind, []).append(state)
    return {kind: _frame(kind, rows, states[kind], fields[kind]) for kind, rows in by_type.items()}


def _frame(
    kind: type[Event], rows: Sequence[StoredEvent], states: Sequence[bytes], fields: set[str]
) -> pl.DataFrame:
    # Metadata is cheap to leave out and dear to convert: only what somebody reads.
    needed = [
        name for name in METADATA if name in fields or name in ("position", "organisation_id")
    ]
    columns: dict[str, list[object]] = {}
    for name in needed:
        if name == "state":
            columns[name] = [state.decode() for state in states]
        elif name == "topic":
            columns[name] = [catalogue.TOPICS[kind]] * len(rows)
        else:
            read = _COLUMNS[name]
            values = [read(row) for row in rows]
            columns[name] = [v and str(v) for v in values] if name in _IDS else values
    frame = pl.DataFrame(columns, schema={name: METADATA[name] for name in needed})
    if "state" in needed:
        frame = frame.with_columns(_without_tokens(kind, frame["state"]))
    return _with_body(frame, kind, pl.Series("body", states, pl.Binary), fields)


def decode_frame(rows: pl.DataFrame, fields: Wanted) -> dict[type[Event], pl.DataFrame]:
    """As ``decode``, of log rows as they come from the database in one frame: ``position``,
    ``topic``, ``state`` as bytes, ids as bytes, and the metadata that ``fields`` ask for."""
    found: dict[type[Event], list[pl.DataFrame]] = {}
    for topic in rows["topic"].unique(maintain_order=True):
        kind = catalogue.type_of(topic)
        if kind not in fields and not (kind is None and catalogue.is_newer(topic)):
            continue
        mine = rows.filter(pl.col("topic") == topic)
        if kind is None:
            raise NewerTopic(topic, mine["position"][0])
        states = mine["state"]
        if topic not in catalogue.TYPES:
            states = pl.Series("state", [catalogue.present(topic, one)[1] for one in states])
        found.setdefault(kind, []).append(of_topic(mine, kind, states, fields[kind]))
    return {
        kind: pl.concat(frames).sort("position") if len(frames) > 1 else frames[0]
        for kind, frames in found.items()
    }


def metadata_of(fields: Wanted) -> list[str]:
    """The metadata columns that somebody reads; ``position`` and ``organisation_id`` always."""
    named = {name for names in fields.values() for name in names}
    needed = named | {"position", "organisation_id"}
    return [name for name in METADATA if name in needed and name not in ("topic", "state")]


def of_topic(
    rows: pl.DataFrame, kind: type[Event], states: pl.Series, fields: set[str]
) -> pl.DataFrame:
    """The frame of log rows that are all of one type, whose present bytes are ``states``."""
    named = fields | {"position", "organisation_id"}
    beside = [name for name in METADATA if name in named]
    given = rows.with_columns(states.alias("state"))
    return _with_body(as_metadata(given, kind, beside), kind, states, fields)


def as_metadata(rows: pl.DataFrame, kind: type[Event], names: Iterable[str]) -> pl.DataFrame:
    """Those of the named columns that log rows have, as ``METADATA`` has them."""
    columns = []
    for name in names:
        if name == "topic":
            columns.append(pl.repeat(catalogue.TOPICS[kind], rows.height, eager=True).alias(name))
        elif name in rows.columns:
            column = rows[name]
            text = name in _IDS and column.dtype == pl.Binary
            column = _uuid_texts(column) if text else column.cast(METADATA[name])
            columns.append(_without_tokens(kind, column) if name == "state" else column)
    return pl.DataFrame(columns)


def _without_tokens(kind: type[Event], states: pl.Series) -> pl.Series:
    """Stored JSON without tokens of personal data: a table that keeps whole events must not keep
    these, which are to be gone when the person is erased. Who wants them names their field."""
    pattern = _tokens_in(kind)
    return states if pattern is None else states.str.replace_all(pattern, "")


@cache
def _tokens_in(kind: type[Event]) -> str | None:
    """Finds the fields of tokens in an event's JSON: texts, or objects of texts. No other text
    looks like it, quotes within are escaped."""
    names = token_fields(kind)
    assert not names or next(iter(kind.model_fields)) not in names  # a comma stands before each
    return rf',\s*"(?:{"|".join(names)})"\s*:\s*(?:"[^"]*"|\{{[^{{}}]*\}})' if names else None


def _uuid_texts(ids: pl.Series) -> pl.Series:
    """Sixteen bytes each as text. Few different ones (organisations) are made once each."""
    if ids.len() < _FEW:
        return pl.Series(ids.name, [one and str(UUID(bytes=one)) for one in ids], pl.String)
    different = ids.unique()
    if different.len() * 10 < ids.len():
        texts = [None if one is None else str(UUID(bytes=one)) for one in different]
        return ids.replace_strict(different, pl.Series(texts, dtype=pl.String))
    digits = ids.bin.encode("hex")
    pieces = [digits.str.slice(start, size) for start, size in _UUID_PIECES]
    return pl.select(pl.concat_str(pieces, separator="-").alias(ids.name)).to_series()


def _with_body(
    frame: pl.DataFrame, kind: type[Event], states: pl.Series, fields: set[str]
) -> pl.DataFrame:
    schema = {name: dtype for name, dtype in fields_of(kind).items() if name in fields}
    if not schema:
        return frame
    wires = pl.Struct({name: wire(dtype) for name, dtype in schema.items()})
    body = states.cast(pl.String).str.json_decode(wires).struct.unnest()
    moments = [_moments(body[name]) for name, dtype in schema.items() if dtype == MOMENT]
    others = [
        from_wire(name, dtype).alias(name)
        for name, dtype in schema.items()
        if dtype != MOMENT and wire(dtype) != dtype
    ]
    if others:
        body = body.with_columns(others)
    return frame.hstack(body.with_columns(moments) if moments else body)


def _moments(texts: pl.Series) -> pl.Series:
    """RFC 3339 texts as moments. Most have whole seconds: a fixed form is read far faster."""
    found = texts.str.to_datetime(
        "%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False
    )
    if found.null_count() == texts.null_count():
        return found
    return texts.str.to_datetime("%+", time_unit="us", time_zone="UTC")
