"""Alerts: one, many, which of them somebody has seen, and the rules that they are raised by."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from domain.alert_rules import USUAL, AlertKind, AlertRuleSet, Severity
from domain.catalogue import decode
from readmodels.database import ReadModels, Row
from readmodels.page import Page
from readmodels.searching import containing
from readmodels.sorting import Column, Sorting

_RANK = "array_position(ARRAY['info', 'warning', 'critical'], a.severity)"
#: What is snoozed is open again when its time is up.
_STATE = """CASE WHEN a.state = 'snoozed' AND a.snoozed_until <= now() THEN 'open'
        ELSE a.state END"""
_SEEN = """(coalesce(a.raised_position <= (SELECT r.read_to FROM read_models.alert_readers r
            WHERE r.organisation_id = a.organisation_id AND r.reader = %(reader)s), false)
        OR EXISTS (SELECT FROM read_models.alert_reads r
            WHERE r.organisation_id = a.organisation_id AND r.alert_id = a.alert_id
                AND r.reader = %(reader)s))"""
_COLUMNS = f"""a.alert_id, a.version, a.kind, a.subject_id, a.occurrence, a.severity, a.sentence,
    a.value, a.threshold, {_STATE} AS state, a.raised_at, a.raised_position,
    {_SEEN} AS read, a.acknowledged_by, a.acknowledged_at, a.note,
    CASE WHEN a.state = 'snoozed' THEN a.snoozed_until END AS snoozed_until,
    CASE WHEN a.state = 'resolved' THEN a.resolved_by END AS resolved_by,
    CASE WHEN a.state = 'resolved' THEN a.resolved_at END AS resolved_at,
    CASE WHEN a.state = 'resolved' THEN a.resolved_reason END AS resolved_reason,
    {_RANK} AS gravity, (CASE WHEN {_SEEN} THEN 0 ELSE 1 END)::bigint AS unread, a.last_position"""

_GET = f"""SELECT {_COLUMNS} FROM read_models.alert_list a
    WHERE a.organisation_id = %(organisation_id)s AND a.alert_id = %(alert_id)s"""

_FOUND = f"""(SELECT {_COLUMNS} FROM read_models.alert_list a
        WHERE a.organisation_id = %(organisation_id)s
            AND (%(kind)s::text IS NULL OR a.kind = %(kind)s)
            AND (%(severity)s::text IS NULL OR a.severity = %(severity)s)
            AND (%(subject_id)s::text IS NULL OR a.subject_id = %(subject_id)s)
            AND (%(search)s::text IS NULL OR a.sentence ILIKE %(search)s)) AS f
    WHERE (%(state)s::text IS NULL OR f.state = %(state)s)
        AND (%(read)s::bool IS NULL OR f.read = %(read)s)"""

_LIST = f"SELECT * FROM {_FOUND}"

_UNREAD = f"""SELECT count(*) AS unread FROM read_models.alert_list a
    WHERE a.organisation_id = %(organisation_id)s AND a.state = ANY('{{open,snoozed}}'::text[])
        AND {_STATE} = 'open' AND NOT {_SEEN}"""

_RULES = """SELECT told, version FROM read_models.alert_rule_list
    WHERE organisation_id = %(organisation_id)s"""

SORTING = Sorting(
    {
        "raised_position": Column(int),
        "raised_at": Column(datetime),
        "gravity": Column(int),
        "unread": Column(int),
        "kind": Column(str),
        "state": Column(str),
        "subject_id": Column(str),
        "alert_id": Column(str),
    },
    usual="-raised_position",
    key=("raised_position",),
)


class AlertSummary(Row):
    """An alert as it stands, and whether who asks has seen it. ``occurrence``: the how many-th of
    its kind about its subject. ``gravity``: its severity as a number, 3 is the gravest.
    ``snoozed_until``: what is snoozed is open again from then on."""

    alert_id: str = Field(examples=["A-0f8fad5bd9cb469fa165708677289501"])
    version: int
    kind: str = Field(examples=["stock_out"])
    subject_id: str = Field(examples=["S-BER/SKU-001"])
    occurrence: int
    severity: str = Field(examples=["critical"])
    sentence: str
    value: float | None
    threshold: float | None
    state: str = Field(examples=["open"])
    raised_at: datetime
    raised_position: int
    read: bool
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    note: str | None
    snoozed_until: datetime | None
    resolved_by: str | None
    resolved_at: datetime | None
    resolved_reason: str | None
    gravity: int
    unread: int
    last_position: int


class AlertPage(Page[AlertSummary]):
    """Some alerts, and how many open ones there are that who asks has not seen."""

    unread_count: int


class RuleSummary(BaseModel):
    """The rule of a kind of alert; ``set_by`` is null where it is the usual one."""

    kind: str
    version: int = 0
    enabled: bool
    threshold: float
    severity: str
    max_age_days: int
    most_open: int
    quiet_from: str | None
    quiet_to: str | None
    zone: str
    set_by: str | None = None
    set_at: datetime | None = None


class _Unread(Row):
    unread: int


class _StoredRule(Row):
    told: dict[str, Any]
    version: int


async def get_alert(read: ReadModels, alert_id: str, reader: str) -> AlertSummary | None:
    """One alert as somebody sees it, or None."""
    return await read.one(AlertSummary, _GET, alert_id=alert_id, reader=reader)


async def list_alerts(
    read: ReadModels,
    reader: str,
    *,
    kind: str | None = None,
    severity: str | None = None,
    state: str | None = None,
    subject_id: str | None = None,
    seen: bool | None = None,
    search: str | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> AlertPage:
    """Alerts as somebody sees them, the latest raised first.

    Raises:
        BadSort: there is no such column to sort by.
        BadCursor: the cursor was not given by this query.
    """
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        AlertSummary,
        _LIST + by.sql,
        reader=reader,
        kind=kind,
        severity=severity,
        state=state,
        subject_id=subject_id,
        read=seen,
        search=containing(search),
        limit=limit + 1,
        **by.parameters,
    )
    found = by.page(rows, limit)
    return AlertPage(
        items=found.items, next_cursor=found.next_cursor, unread_count=await unread(read, reader)
    )


async def unread(read: ReadModels, reader: str) -> int:
    """How many open alerts somebody has not seen."""
    found = await read.one(_Unread, _UNREAD, reader=reader)
    assert found is not None
    return found.unread


async def alert_rules(read: ReadModels) -> list[RuleSummary]:
    """The rule of each kind of alert, as it holds now."""
    stored = {row.told["kind"]: row for row in await read.rows(_StoredRule, _RULES)}
    return [_usual(kind) if kind not in stored else _told(stored[kind]) for kind in AlertKind]


async def alert_rule(read: ReadModels, kind: AlertKind) -> RuleSummary:
    """The rule of a kind of alert, as the log has it."""
    events = await read.stream(f"alert_rules/{kind}")
    if not events:
        return _usual(kind)
    last = events[-1]
    event = decode(last.topic, last.state)
    assert isinstance(event, AlertRuleSet)
    return _told(_StoredRule(told=event.model_dump(), version=last.version))


def _usual(kind: AlertKind) -> RuleSummary:
    rule = USUAL[kind]
    names = ("threshold", "enabled", "max_age_days", "most_open", "quiet_from", "quiet_to", "zone")
    told = {name: getattr(rule, name) for name in names}
    return RuleSummary(kind=kind.value, severity=Severity(rule.severity).value, **told)


def _told(stored: _StoredRule) -> RuleSummary:
    return RuleSummary(**stored.told, version=stored.version)
