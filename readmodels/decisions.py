"""Decisions: many, one with everything, and what becomes of each kind's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain import catalogue
from domain.decisions import (
    STREAM,
    DecisionConfirmed,
    DecisionContested,
    DecisionExplained,
    DecisionFailed,
    DecisionMade,
    DecisionNotRedecided,
    DecisionOutcomeRecorded,
    DecisionOverridden,
    DecisionReferred,
    DecisionRequested,
    DecisionShadowed,
)
from domain.values import Event
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.sorting import Column, Sorting

_LIST = """SELECT decision_id, version, kind, subject_id, stage, requested_at, requested_by,
        priority, deadline, redecides, as_of, model_hash, role, probability, foretold, risk,
        confidence, value_minor, currency, candidates, summary, approvals_left, overridden_by,
        contested_by, occurred, followed, last_position
    FROM read_models.decision_list
    WHERE organisation_id = %(organisation_id)s
      AND (%(stage)s::text IS NULL OR stage = %(stage)s)
      AND (%(of_kind)s::text IS NULL OR kind = %(of_kind)s)
      AND (%(subject_id)s::text IS NULL OR subject_id = %(subject_id)s)
      AND (%(model_hash)s::text IS NULL OR model_hash = %(model_hash)s)
      AND (%(redecides)s::text IS NULL OR redecides = %(redecides)s)
      AND (%(model_role)s::text IS NULL OR role = %(model_role)s)
      AND (%(occurred)s::bool IS NULL OR occurred = %(occurred)s)
      AND (%(followed)s::bool IS NULL OR followed = %(followed)s)
      AND (%(requested_since)s::timestamptz IS NULL OR requested_at >= %(requested_since)s)
      AND (%(requested_until)s::timestamptz IS NULL OR requested_at < %(requested_until)s)"""

#: By ``requested_at`` and by ``decision_id`` an index serves.
SORTING = Sorting(
    {
        "requested_at": Column(datetime),
        "decision_id": Column(str),
        "priority": Column(int),
        "deadline": Column(datetime, nullable=True),
        "stage": Column(str),
        "kind": Column(str),
        "subject_id": Column(str),
        "confidence": Column(float, nullable=True),
        "risk": Column(float, nullable=True),
        "value_minor": Column(int, nullable=True),
        "last_position": Column(int),
    },
    usual="-requested_at",
    key=("decision_id",),
)

_GET = """SELECT decision_id, version, requested_position, requested, made, explained, referred,
        shadow, failed, confirmed, overridden, contested, kept, outcome, last_position
    FROM read_models.decision_detail
    WHERE organisation_id = %(organisation_id)s AND decision_id = %(decision_id)s"""

_KPIS = """SELECT kind, requested, made, failed, referred, overridden, contested, outcomes,
        occurred, followed, cost_minor, override_rate, contest_rate, referral_rate,
        occurred_share, last_position
    FROM read_models.decision_kpis
    WHERE organisation_id = %(organisation_id)s
      AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND kind > %(after)s
    ORDER BY kind LIMIT %(limit)s"""


class DecisionSummary(Row):
    """A decision in one line.

    Of the chosen candidate: ``probability``, as the model says it; ``foretold``, calibrated;
    ``risk``, the share of that which the option bears. ``confidence``: that the model's statement
    comes true. ``value_minor``: what is at stake, in ``currency``; null: not known.
    ``approvals_left``: so many people must still agree; null where it was never referred.
    ``redecides``: the contested decision that it answers.
    """

    decision_id: str
    version: int
    kind: str
    subject_id: str
    stage: str
    requested_at: datetime
    requested_by: str
    priority: int
    deadline: datetime | None
    redecides: str | None
    as_of: int | None
    model_hash: str | None
    role: str | None
    probability: float | None
    foretold: float | None
    risk: float | None
    confidence: float | None
    value_minor: int | None
    currency: str | None
    candidates: int | None
    summary: str | None
    approvals_left: int | None
    overridden_by: str | None
    contested_by: str | None
    occurred: bool | None
    followed: bool | None
    last_position: int


class DecisionDetail(Row):
    """A decision's events as they stand in the log, of each sort the last one; null where there
    is none. ``kept``: it was contested, could not be made anew, and stands."""

    decision_id: str
    version: int
    requested_position: int
    requested: dict[str, Any]
    made: dict[str, Any] | None
    explained: dict[str, Any] | None
    referred: dict[str, Any] | None
    shadow: dict[str, Any] | None
    failed: dict[str, Any] | None
    confirmed: dict[str, Any] | None
    overridden: dict[str, Any] | None
    contested: dict[str, Any] | None
    kept: dict[str, Any] | None
    outcome: dict[str, Any] | None
    last_position: int


#: The event that each part of a decision's detail is.
_PARTS: Mapping[type[Event], str] = {
    DecisionRequested: "requested",
    DecisionMade: "made",
    DecisionExplained: "explained",
    DecisionReferred: "referred",
    DecisionShadowed: "shadow",
    DecisionFailed: "failed",
    DecisionConfirmed: "confirmed",
    DecisionOverridden: "overridden",
    DecisionContested: "contested",
    DecisionNotRedecided: "kept",
    DecisionOutcomeRecorded: "outcome",
}


async def evidence(read: ReadModels, decision_id: str) -> DecisionDetail | None:
    """A decision as its own stream has it: there with the commit that made it. None: unknown."""
    events = await read.stream(STREAM.format(decision_id=decision_id))
    if not events:
        return None
    parts: dict[str, Any] = dict.fromkeys(_PARTS.values())
    for event in events:
        part = _PARTS.get(catalogue.type_of(event.topic) or Event)
        if part is not None:
            parts[part] = catalogue.as_json(event.topic, event.state)
    return DecisionDetail(
        decision_id=decision_id,
        version=events[-1].version,
        requested_position=events[0].position,
        last_position=events[-1].position,
        **parts,
    )


class DecisionKpi(Row):
    """The decisions of one kind, and what became of them.

    ``outcomes``: decisions of which it is known whether what was foretold came true.
    Rates are shares of the decisions made; ``occurred_share`` is one of the outcomes.
    """

    kind: str
    requested: int
    made: int
    failed: int
    referred: int
    overridden: int
    contested: int
    outcomes: int
    occurred: int
    followed: int
    cost_minor: int
    override_rate: float | None
    contest_rate: float | None
    referral_rate: float | None
    occurred_share: float | None
    last_position: int


async def list_decisions(
    read: ReadModels,
    *,
    stage: str | None = None,
    kind: str | None = None,
    subject_id: str | None = None,
    model_hash: str | None = None,
    redecides: str | None = None,
    role: str | None = None,
    occurred: bool | None = None,
    followed: bool | None = None,
    requested_since: datetime | None = None,
    requested_until: datetime | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[DecisionSummary]:
    """Decisions, the latest requested first."""
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        DecisionSummary,
        _LIST + by.sql,
        stage=stage,
        of_kind=kind,
        subject_id=subject_id,
        model_hash=model_hash,
        redecides=redecides,
        model_role=role,
        occurred=occurred,
        followed=followed,
        requested_since=requested_since,
        requested_until=requested_until,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def get_decision(read: ReadModels, decision_id: str) -> DecisionDetail | None:
    """One decision, or None."""
    return await read.one(DecisionDetail, _GET, decision_id=decision_id)


async def decision_kpis(
    read: ReadModels, *, kind: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[DecisionKpi]:
    """What becomes of decisions, by kind."""
    (after,) = decode(cursor, str) if cursor else ("",)
    rows = await read.rows(DecisionKpi, _KPIS, kind=kind, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.kind,))
