"""Alerts over HTTP: what somebody should look at, who does, and by which rules they are raised."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel

from api.commands import Post, mount
from api.dependencies import Caller, Cursor, Limit, NotFound, either, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import sortable
from api.routers import Router
from commands.alerts import alert_stream, rule_stream
from domain.alert_rules import AlertKind, SetAlertRule, Severity
from domain.alerts import (
    AcknowledgeAlert,
    ReadAlert,
    ReopenAlert,
    ResolveAlert,
    SnoozeAlert,
    State,
)
from domain.notifications import ReadAllAlerts
from domain.values import Id, SubjectId
from readmodels import alerts
from readmodels.alerts import AlertPage, AlertSummary, RuleSummary
from readmodels.database import ReadModels
from readmodels.page import Page

router = Router("/alerts", tags=["alerts"])

_STATES = [state.value for state in State if state is not State.UNKNOWN]
_TABLES = ("alert_list", "alert_reads", "alert_readers")

POSTS = (
    Post(
        "/read-all",
        ReadAllAlerts,
        "Have seen all alerts",
        now=("read_at",),
        caller=("reader",),
    ),
    Post(
        "/rules/{alert_kind}",
        SetAlertRule,
        "Set the rule of a kind of alert as a whole",
        now=("set_at",),
        example={
            "threshold": 2,
            "severity": "critical",
            "quiet_from": "22:00",
            "quiet_to": "06:00",
            "zone": "Europe/Berlin",
        },
    ),
    Post(
        "/{alert_id}/acknowledge",
        AcknowledgeAlert,
        "Look after an alert",
        now=("acknowledged_at",),
        example={"note": "the carrier has been called"},
    ),
    Post("/{alert_id}/read", ReadAlert, "Have seen an alert", now=("read_at",)),
    Post(
        "/{alert_id}/snooze",
        SnoozeAlert,
        "Leave an alert alone for a while",
        now=("snoozed_at",),
        example={"until": "2099-03-02T08:00:00Z"},
    ),
    Post(
        "/{alert_id}/resolve",
        ResolveAlert,
        "Settle an alert",
        now=("resolved_at",),
        example={"reason": "the customer knows"},
    ),
    Post(
        "/{alert_id}/reopen",
        ReopenAlert,
        "Open an alert again",
        now=("reopened_at",),
        example={"reason": "it was the wrong one"},
    ),
)
mount(router, POSTS)

AlertPath = Annotated[Id, Path(description="The alert's id.")]


class AlertRules(BaseModel):
    """The rule of each kind of alert."""

    items: tuple[RuleSummary, ...]


@router.get("", summary="List alerts, the latest raised first", responses=documented())
async def list_raised_alerts(
    caller: Caller,
    read: Annotated[ReadModels, reading("alerts.list", *_TABLES)],
    kind: Annotated[
        str | None, Query(pattern=either(list(AlertKind)), description="Of this kind only.")
    ] = None,
    severity: Annotated[
        str | None, Query(pattern=either(list(Severity)), description="Of this severity only.")
    ] = None,
    state: Annotated[
        str | None, Query(pattern=either(_STATES), description="In this state only.")
    ] = None,
    subject_id: Annotated[SubjectId | None, Query(description="About this subject only.")] = None,
    seen: Annotated[
        bool | None, Query(description="Only what the caller has seen, or has not.")
    ] = None,
    search: Annotated[
        str | None, Query(min_length=1, max_length=100, description="In the sentence.")
    ] = None,
    sort: Annotated[str | None, sortable(alerts.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AlertPage:
    """Alerts of all kinds, and how many open ones the caller has not seen."""
    return await alerts.list_alerts(
        read,
        caller.actor,
        kind=kind,
        severity=severity,
        state=state,
        subject_id=subject_id,
        seen=seen,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )


@router.get("/rules", summary="List the rules of alerts", responses=documented())
async def list_rules(
    read: Annotated[ReadModels, reading("alerts.rules", "alert_rule_list")],
) -> AlertRules:
    """The rule of each kind of alert; `set_by` is null where it is the usual one."""
    return AlertRules(items=tuple(await alerts.alert_rules(read)))


@router.get("/rules/{alert_kind}", summary="Get the rule of a kind", responses=documented())
async def get_rule(
    alert_kind: AlertKind,
    response: Response,
    read: Annotated[ReadModels, reading("alerts.rules")],
) -> RuleSummary:
    """The rule of a kind of alert as it holds now."""
    found = await alerts.alert_rule(read, alert_kind)
    tagged(response, found.version)
    return found


@router.get(
    "/rules/{alert_kind}/history", summary="The history of a rule", responses=documented(404)
)
async def get_rule_history(
    alert_kind: AlertKind,
    read: Annotated[ReadModels, reading("alerts.rule_history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """Who set it to what, the oldest first."""
    return await history_of(read, rule_stream(alert_kind), "rule", alert_kind, cursor, limit)


@router.get("/{alert_id}", summary="Get an alert", responses=documented(404))
async def get_alert(
    alert_id: AlertPath,
    response: Response,
    caller: Caller,
    read: Annotated[ReadModels, reading("alerts.get", *_TABLES)],
) -> AlertSummary:
    """An alert as it stands, and whether the caller has seen it."""
    found = await alerts.get_alert(read, alert_id, caller.actor)
    if found is None:
        raise NotFound("alert", alert_id)
    tagged(response, found.version, "read" if found.read else "unread", found.state)
    return found


@router.get("/{alert_id}/history", summary="The history of an alert", responses=documented(404))
async def get_alert_history(
    alert_id: AlertPath,
    read: Annotated[ReadModels, reading("alerts.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What happened to it, in words, the oldest first."""
    return await history_of(read, alert_stream(alert_id), "alert", alert_id, cursor, limit)
