"""An event as the log has it, and the columns that it is read from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

#: The columns of ``events`` under the names of ``StoredEvent``, in its order.
COLUMNS = """notification_id AS position, originator_id AS stream_id,
    originator_version AS version, topic, state, event_id, organisation_id, recorded_at,
    correlation_id, causation_id, actor"""


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
