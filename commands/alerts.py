"""Alerts: which rule answers which command, for alerts, their rules, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from commands.handler import Handler
from domain import alert_rules, alerts, notifications
from domain.access import OPERATE, PLAN, READ, SERVE, Role
from domain.decider import Decider


def alert_stream(alert_id: str) -> str:
    """The stream of an alert."""
    return alerts.STREAM.format(alert_id=alert_id)


def rule_stream(kind: str) -> str:
    """The stream of the rule of a kind of alert."""
    return alert_rules.STREAM.format(kind=kind)


def subscriber_stream(subscriber: str) -> str:
    """The stream of what somebody is told of."""
    return notifications.SUBSCRIBER.format(subscriber=subscriber)


def reader_stream(reader: str) -> str:
    """The stream of what somebody has seen."""
    return notifications.READER.format(reader=reader)


def _of_alert(command: Any) -> str:
    return alert_stream(command.alert_id)


def _of_raised(command: alerts.RaiseAlert) -> str:
    return alert_stream(alerts.alert_id_of(command.kind, command.subject_id, command.occurrence))


def _of_rule(command: alert_rules.SetAlertRule) -> str:
    return rule_stream(command.alert_kind)


def _of_reader(command: notifications.ReadAllAlerts) -> str:
    return reader_stream(command.reader)


def _of_subscriber(command: Any) -> str:
    return subscriber_stream(command.subscriber)


def _by_actor(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, actor, state: rule(state, command, actor)


def _by_service(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda command, _, state: rule(state, command)


_RULES: tuple[
    tuple[Any, frozenset[Role], Callable[[Any], str], Decider[Any], Callable[..., Any]], ...
] = (
    (alerts.RaiseAlert, SERVE, _of_raised, alerts.ALERTS, _by_service(alerts.raise_alert)),
    (alerts.EndAlertCause, SERVE, _of_alert, alerts.ALERTS, _by_actor(alerts.end_cause)),
    (alerts.AcknowledgeAlert, PLAN, _of_alert, alerts.ALERTS, _by_actor(alerts.acknowledge)),
    (alerts.SnoozeAlert, PLAN, _of_alert, alerts.ALERTS, _by_actor(alerts.snooze)),
    (alerts.ResolveAlert, PLAN, _of_alert, alerts.ALERTS, _by_actor(alerts.resolve)),
    (alerts.ReopenAlert, PLAN, _of_alert, alerts.ALERTS, _by_actor(alerts.reopen)),
    (alerts.ReadAlert, READ, _of_alert, alerts.ALERTS, _by_actor(alerts.read)),
    (
        alert_rules.SetAlertRule,
        OPERATE,
        _of_rule,
        alert_rules.ALERT_RULES,
        _by_actor(alert_rules.set_rule),
    ),
    (
        notifications.ReadAllAlerts,
        READ,
        _of_reader,
        notifications.READERS,
        _by_actor(notifications.read_all),
    ),
    (
        notifications.SubscribeToAlerts,
        READ,
        _of_subscriber,
        notifications.SUBSCRIPTIONS,
        _by_actor(notifications.subscribe),
    ),
    (
        notifications.UnsubscribeFromAlerts,
        READ,
        _of_subscriber,
        notifications.SUBSCRIPTIONS,
        _by_actor(notifications.unsubscribe),
    ),
    (
        notifications.RecordNotice,
        SERVE,
        _of_subscriber,
        notifications.SUBSCRIPTIONS,
        _by_service(notifications.record),
    ),
)

HANDLERS = tuple(
    Handler(command=command, roles=roles, stream=stream, decider=decider, decide=decide)
    for command, roles, stream, decider, decide in _RULES
)
