"""Alerts: what somebody should look at. One is raised once for each time that its cause comes
about, and is resolved by itself when that is gone.

Who resolves an alert whose cause is still there has said that it is known: it is not raised again
before the cause has gone and come again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from domain import alert_rules, notifications
from domain.alert_rules import AlertKind, Severity
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, SubjectId, Text, UtcTime


class State(StrEnum):
    """Where an alert stands."""

    UNKNOWN = "unknown"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    RESOLVED = "resolved"


def alert_id_of(kind: str, subject_id: str, occurrence: int) -> str:
    """The id of an alert: of the how many-th time that its cause came about. Whoever sees the same
    says the same."""
    said = f"{kind} {subject_id} {occurrence}"
    return f"A-{hashlib.sha256(said.encode()).hexdigest()[:32]}"


# commands


class RaiseAlert(Command):
    """Say that something should be looked at. ``occurrence``: for the how many-th time. ``value``,
    ``threshold``: the figure that is past its bound, where there is one."""

    kind: AlertKind
    subject_id: SubjectId
    occurrence: Annotated[int, Field(ge=1, lt=2**31)]
    severity: Severity
    sentence: Text
    value: float | None = None
    threshold: float | None = None
    raised_at: UtcTime


class EndAlertCause(Command):
    """Say that the cause of an alert is gone."""

    alert_id: Id
    ended_at: UtcTime


class AcknowledgeAlert(Command):
    """Say that one looks after it."""

    alert_id: Id
    note: Text | None = None
    acknowledged_at: UtcTime


class SnoozeAlert(Command):
    """Leave an alert alone until a moment."""

    alert_id: Id
    until: UtcTime
    snoozed_at: UtcTime


class ResolveAlert(Command):
    """Say that it is settled, or known and left as it is."""

    alert_id: Id
    reason: Text
    resolved_at: UtcTime


class ReopenAlert(Command):
    """Take back that an alert was acknowledged, snoozed or resolved."""

    alert_id: Id
    reason: Text | None = None
    reopened_at: UtcTime


class ReadAlert(Command):
    """Say that one has seen it."""

    alert_id: Id
    read_at: UtcTime


# events


class AlertRaised(Event):
    """Something should be looked at."""

    alert_id: str
    kind: str
    subject_id: str
    occurrence: int
    severity: str
    sentence: str
    value: float | None
    threshold: float | None
    raised_at: datetime


class AlertAcknowledged(Event):
    """Somebody looks after it."""

    alert_id: str
    note: str | None
    acknowledged_by: str
    acknowledged_at: datetime


class AlertSnoozed(Event):
    """It is left alone until a moment."""

    alert_id: str
    until: datetime
    snoozed_by: str
    snoozed_at: datetime


class AlertResolved(Event):
    """It is settled: ``cause_is_gone``, or somebody says so."""

    alert_id: str
    kind: str
    subject_id: str
    cause_is_gone: bool
    reason: str
    resolved_by: str
    resolved_at: datetime


class AlertCauseEnded(Event):
    """The cause of an alert is gone that somebody had resolved before."""

    alert_id: str
    kind: str
    subject_id: str
    ended_at: datetime


class AlertReopened(Event):
    """It was taken back that it was acknowledged, snoozed or resolved."""

    alert_id: str
    kind: str
    subject_id: str
    reason: str | None
    reopened_by: str
    reopened_at: datetime


class AlertRead(Event):
    """Somebody has seen it."""

    alert_id: str
    read_by: str
    read_at: datetime


OF_ALERTS: tuple[type[Event], ...] = (
    AlertRaised,
    AlertAcknowledged,
    AlertSnoozed,
    AlertResolved,
    AlertCauseEnded,
    AlertReopened,
    AlertRead,
)
EVENTS: tuple[type[Event], ...] = (*OF_ALERTS, *alert_rules.EVENTS, *notifications.EVENTS)

#: The stream that an event belongs to, by its fields.
STREAM = "alerts/{alert_id}"
STREAMS: dict[type[Event], str] = {
    **dict.fromkeys(OF_ALERTS, STREAM),
    **alert_rules.STREAMS,
    **notifications.STREAMS,
}

SENTENCES: dict[type[Event], str] = {
    AlertRaised: "{sentence}",
    AlertAcknowledged: "{acknowledged_by} looks after alert {alert_id}: {note}",
    AlertSnoozed: "{snoozed_by} left alert {alert_id} alone until {until}",
    AlertResolved: "{resolved_by} resolved the alert {kind} of {subject_id}: {reason}",
    AlertCauseEnded: "The cause of the alert {kind} of {subject_id} is gone",
    AlertReopened: "{reopened_by} opened the alert {kind} of {subject_id} again: {reason}",
    AlertRead: "{read_by} has seen alert {alert_id}",
    **alert_rules.SENTENCES,
    **notifications.SENTENCES,
}


# state


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as its events tell it. ``cause_is_gone``: what it was raised for is over."""

    state: State = State.UNKNOWN
    kind: str = ""
    subject_id: str = ""
    cause_is_gone: bool = False
    readers: frozenset[str] = frozenset()


def evolve(alert: Alert, event: Event) -> Alert:
    """The alert after one more of its events."""
    match event:
        case AlertRaised():
            return Alert(State.OPEN, event.kind, event.subject_id)
        case AlertAcknowledged():
            return replace(alert, state=State.ACKNOWLEDGED)
        case AlertSnoozed():
            return replace(alert, state=State.SNOOZED)
        case AlertResolved():
            return replace(alert, state=State.RESOLVED, cause_is_gone=event.cause_is_gone)
        case AlertCauseEnded():
            return replace(alert, cause_is_gone=True)
        case AlertReopened():
            return replace(alert, state=State.OPEN)
        case AlertRead():
            return replace(alert, readers=alert.readers | {event.read_by})
    return alert


ALERTS = Decider(initial=Alert(), evolve=evolve)


# decisions


def raise_alert(alert: Alert, command: RaiseAlert) -> Sequence[Event]:
    """Raise it, once."""
    alert_id = alert_id_of(command.kind, command.subject_id, command.occurrence)
    if alert.state is not State.UNKNOWN:
        raise Refused("alert.already_raised", alert_id=alert_id)
    told = command.model_dump(mode="json", exclude={"raised_at"})
    return [AlertRaised(**told, alert_id=alert_id, raised_at=command.raised_at)]


def end_cause(alert: Alert, command: EndAlertCause, actor: str) -> Sequence[Event]:
    """Resolve it, or note that it may be raised again."""
    _known(alert, command.alert_id)
    if alert.cause_is_gone:
        raise Refused("alert.cause_is_gone", alert_id=command.alert_id)
    told = {
        "alert_id": command.alert_id,
        "kind": alert.kind,
        "subject_id": alert.subject_id,
    }
    if alert.state is State.RESOLVED:
        return [AlertCauseEnded(**told, ended_at=command.ended_at)]
    return [
        AlertResolved(
            **told,
            cause_is_gone=True,
            reason="its cause is gone",
            resolved_by=actor,
            resolved_at=command.ended_at,
        )
    ]


def acknowledge(alert: Alert, command: AcknowledgeAlert, actor: str) -> Sequence[Event]:
    """Look after it."""
    _unresolved(alert, command.alert_id)
    if alert.state is State.ACKNOWLEDGED:
        raise Refused("alert.already_acknowledged", alert_id=command.alert_id)
    return [AlertAcknowledged(**command.model_dump(), acknowledged_by=actor)]


def snooze(alert: Alert, command: SnoozeAlert, actor: str) -> Sequence[Event]:
    """Leave it alone for a while."""
    _unresolved(alert, command.alert_id)
    if command.until <= command.snoozed_at:
        raise Refused(
            "alert.snoozed_until_past", alert_id=command.alert_id, until=str(command.until)
        )
    return [AlertSnoozed(**command.model_dump(), snoozed_by=actor)]


def resolve(alert: Alert, command: ResolveAlert, actor: str) -> Sequence[Event]:
    """Settle it, whether its cause is gone or not."""
    _unresolved(alert, command.alert_id)
    return [
        AlertResolved(
            **command.model_dump(),
            kind=alert.kind,
            subject_id=alert.subject_id,
            cause_is_gone=False,
            resolved_by=actor,
        )
    ]


def reopen(alert: Alert, command: ReopenAlert, actor: str) -> Sequence[Event]:
    """Take it back; what has no cause any more stays resolved."""
    _known(alert, command.alert_id)
    if alert.state is State.OPEN:
        raise Refused("alert.already_open", alert_id=command.alert_id)
    if alert.cause_is_gone:
        raise Refused("alert.cause_is_gone", alert_id=command.alert_id)
    return [
        AlertReopened(
            **command.model_dump(),
            kind=alert.kind,
            subject_id=alert.subject_id,
            reopened_by=actor,
        )
    ]


def read(alert: Alert, command: ReadAlert, actor: str) -> Sequence[Event]:
    """Note who has seen it; a second time nothing happens."""
    _known(alert, command.alert_id)
    if actor in alert.readers:
        raise Refused("alert.already_read", alert_id=command.alert_id)
    return [AlertRead(alert_id=command.alert_id, read_by=actor, read_at=command.read_at)]


def _known(alert: Alert, alert_id: str) -> None:
    if alert.state is State.UNKNOWN:
        raise Refused("alert.unknown", alert_id=alert_id)


def _unresolved(alert: Alert, alert_id: str) -> None:
    _known(alert, alert_id)
    if alert.state is State.RESOLVED:
        raise Refused("alert.already_resolved", alert_id=alert_id)
