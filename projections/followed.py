"""Which events a batch of folds has brought into tables, for who follows requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from domain import catalogue
from eventstore import StoredEvent
from eventstore.log import Connection
from eventstore.spans import Followed, Spans
from projections.table import Table

#: Of a long batch only the newest events are told: whoever works off a backlog is not slowed down.
MOST = 1_000
#: Who worked on them.
PROJECTOR = "projection"
_EVENTS = """SELECT notification_id, topic, event_id, correlation_id FROM events
    WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id DESC LIMIT %s"""


class Folded(NamedTuple):
    """A stretch of the log that was folded into some tables, and since when."""

    tables: Sequence[Table]
    after: int
    to: int
    began: int


async def tell(spans: Spans, connection: Connection, folded: Sequence[Folded]) -> None:
    """Tell of stretches that are committed; what the archive alone holds is not looked up."""
    for one in folded:
        cursor = await connection.execute(_EVENTS, (one.after, one.to, MOST))
        rows = [Followed(id_, of, at, topic) for at, topic, id_, of in await cursor.fetchall()]
        _told(spans, one.tables, reversed(rows), one.began)


def tell_events(
    spans: Spans, tables: Sequence[Table], events: Sequence[StoredEvent], began: int
) -> None:
    """Tell of events that were folded into some tables."""
    rows = [
        Followed(one.event_id, one.correlation_id, one.position, one.topic)
        for one in events[-MOST:]
    ]
    _told(spans, tables, rows, began)


def _told(spans: Spans, tables: Sequence[Table], events: Iterable[Followed], began: int) -> None:
    """Events that some of the tables fold, each once for the same tables."""
    by_tables: dict[str, list[Followed]] = {}
    names: dict[str, str] = {}
    for event in events:
        if event.topic not in names:
            kind = catalogue.type_of(event.topic)
            names[event.topic] = " ".join(
                table.name for table in tables if kind is not None and kind in table.events
            )
        if names[event.topic]:
            by_tables.setdefault(names[event.topic], []).append(event)
    for read_models, some in by_tables.items():
        spans.handled(PROJECTOR, some, began, read_models=read_models)
