"""Decisions: many, one with everything, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page

_LIST = """SELECT decision_id, kind, subject_id, stage, requested_at, requested_by, as_of,
        model_hash, probability, confidence, candidates, summary, late, followed, last_position
    FROM read_models.decision_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(stage)s::text IS NULL OR stage = %(stage)s)
      AND (%(subject_id)s::text IS NULL OR subject_id = %(subject_id)s)
      AND (%(before)s::timestamptz IS NULL
           OR (requested_at, decision_id) < (%(before)s::timestamptz, %(before_id)s::text))
    ORDER BY requested_at DESC, decision_id DESC LIMIT %(limit)s"""

_GET = """SELECT decision_id, requested_position, requested, made, explained, failed, outcome,
        last_position
    FROM read_models.decision_detail
    WHERE organisation_id = %(organisation_id)s AND decision_id = %(decision_id)s"""


class DecisionSummary(Row):
    """A decision in one line. ``probability``: of being late; ``confidence``: not calibrated."""

    decision_id: str
    kind: str
    subject_id: str
    stage: str
    requested_at: datetime
    requested_by: str
    as_of: int | None
    model_hash: str | None
    probability: float | None
    confidence: float | None
    candidates: int | None
    summary: str | None
    late: bool | None
    followed: bool | None
    last_position: int


class DecisionDetail(Row):
    """A decision's events as they stand in the log; null where there is none yet."""

    decision_id: str
    requested_position: int
    requested: dict[str, Any]
    made: dict[str, Any] | None
    explained: dict[str, Any] | None
    failed: dict[str, Any] | None
    outcome: dict[str, Any] | None
    last_position: int


async def list_decisions(
    read: ReadModels,
    *,
    stage: str | None = None,
    subject_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[DecisionSummary]:
    """Decisions, the latest requested first."""
    before, before_id = decode(cursor, datetime, str) if cursor else (None, None)
    rows = await read.rows(
        DecisionSummary,
        _LIST,
        stage=stage,
        subject_id=subject_id,
        before=before,
        before_id=before_id,
        limit=limit + 1,
    )
    return page(rows, limit, lambda row: (row.requested_at, row.decision_id))


async def get_decision(read: ReadModels, decision_id: str) -> DecisionDetail | None:
    """One decision, or None."""
    return await read.one(DecisionDetail, _GET, decision_id=decision_id)
