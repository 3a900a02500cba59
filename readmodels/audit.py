"""The audit trail: every event as a line that a person reads."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_TRAIL = """SELECT position, area, what, sentence, recorded_at, actor, event_id, correlation_id,
        causation_id, stream_id, version
    FROM read_models.audit_trail
    WHERE organisation_id = %(organisation_id)s AND position > %(after)s
      AND (%(area)s::text IS NULL OR area = %(area)s)
      AND (%(stream_id)s::uuid IS NULL OR stream_id = %(stream_id)s)
    ORDER BY position LIMIT %(limit)s"""


class AuditLine(Row):
    """One event: what happened, who did it, and what it followed from."""

    position: int
    area: str
    what: str
    sentence: str
    recorded_at: datetime
    actor: str
    event_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    stream_id: UUID
    version: int


async def audit_trail(
    read: ReadModels,
    *,
    area: str | None = None,
    stream_id: UUID | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[AuditLine]:
    """Events in log order."""
    (after,) = decode(cursor, int) if cursor else (0,)
    rows = await read.rows(
        AuditLine, _TRAIL, after=after, area=area, stream_id=stream_id, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))
