"""The history of any entity: the events of its stream in words, straight from the log."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from string import Formatter
from typing import Any
from uuid import UUID

from pydantic import Field

from domain.catalogue import SENTENCES, decode, encode, type_of
from domain.values import Event
from eventstore import StoredEvent
from readmodels.database import ReadModels, Row
from readmodels.page import BadCursor, Page, page
from readmodels.page import decode as read_cursor


class HistoryEntry(Row):
    """One event of an entity: what happened, who did it, and everything that the event says.

    ``what`` is the event's name and ``sentence`` tells it. An event of a kind that this version of
    the code does not know has its topic as name, and no data.
    """

    position: int
    version: int
    what: str
    sentence: str
    recorded_at: datetime
    actor: str
    correlation_id: UUID
    event_id: UUID
    data: dict[str, Any] | None = Field(description="The event as the log has it.")


async def history(
    read: ReadModels, stream: str, *, cursor: str | None = None, limit: int = 50
) -> Page[HistoryEntry]:
    """The events of a stream such as ``sites/S-BER``, the oldest first; none for an unknown one.

    It waits for no read model: what a command has added is in it at once.

    Raises:
        BadCursor: the cursor was not given by this query.
        NotByEffectiveTime: it was asked by effective time, which streams are not read by.
    """
    (after,) = read_cursor(cursor, int) if cursor else (0,)
    if not 0 <= after < 2**31:
        raise BadCursor(f"cursor {str(cursor)[:40]!r} was not given by this query")
    events = await read.stream_after(stream, after, limit + 1)
    return page([_entry(event) for event in events], limit, lambda row: (row.version,))


def sentence(event: Event) -> str:
    """An event in words; what is not known reads «-», as in the audit trail."""
    template = SENTENCES[type(event)]
    names = {name for _, name, _, _ in Formatter().parse(template) if name}
    return template.format(**{name: _words(getattr(event, name)) for name in names})


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def _entry(stored: StoredEvent) -> HistoryEntry:
    kind = type_of(stored.topic)
    told: dict[str, Any] = {"what": stored.topic, "sentence": stored.topic, "data": None}
    if kind is not None:
        event = decode(stored.topic, stored.state)
        told = {
            "what": kind.__name__,
            "sentence": sentence(event),
            "data": json.loads(encode(event)[1]),
        }
    return HistoryEntry(
        position=stored.position,
        version=stored.version,
        recorded_at=stored.recorded_at,
        actor=stored.actor,
        correlation_id=stored.correlation_id,
        event_id=stored.event_id,
        **told,
    )
