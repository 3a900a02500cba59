"""An event as the log has it, and the columns that it is read from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

#: The columns of ``events`` under the names of ``StoredEvent``, in its order.
COLUMNS = """notification_id AS position, originator_id AS stream_id,
    originator_version AS version, topic, state, event_id, organisation_id, recorded_at,
    correlation_id, causation_id, actor"""
#: The events at some positions, and those of some streams.
AT = f"SELECT {COLUMNS} FROM events WHERE notification_id = ANY(%s)"
STREAMS = f"""SELECT {COLUMNS} FROM unnest(%s::uuid[]) AS wanted (id)
    JOIN events ON originator_id = wanted.id ORDER BY originator_id, originator_version"""
#: The next events of one stream.
STREAM_AFTER = f"""SELECT {COLUMNS} FROM events
    WHERE originator_id = %s AND originator_version > %s
    ORDER BY originator_version LIMIT %s"""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it stands in the log."""

    position: int
    stream_id: UUID
    version: int
    topic: str
    state: bytes
    event_id: UUID
    organisation_id: UUID
    recorded_at: datetime
    correlation_id: UUID
    causation_id: UUID | None
    actor: str


class LogUnavailable(Exception):
    """The log did not answer in time. Whether it was stored is not known: retry by the same id."""
