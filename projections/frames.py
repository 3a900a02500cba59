"""Stored events as polars frames: one frame for each event type, only the fields asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import polars as pl

from domain import catalogue
from domain.values import Event
from eventstore import StoredEvent
from projections.fold import Table
from projections.schema import METADATA, fields_of, from_wire, wire

Frames = Mapping[type[Event], pl.DataFrame]
#: Which fields of which event types are wanted.
Wanted = Mapping[type[Event], set[str]]

_COLUMNS = {name: attrgetter(name) for name in METADATA}
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
    schema = {name: dtype for name, dtype in fields_of(kind).items() if name in fields}
    if not schema:
        return frame
    body = (
        pl.Series("body", states, pl.Binary)
        .cast(pl.String)
        .str.json_decode(pl.Struct({name: wire(dtype) for name, dtype in schema.items()}))
        .struct.unnest()
        .select(from_wire(name, dtype).alias(name) for name, dtype in schema.items())
    )
    return frame.hstack(body)
