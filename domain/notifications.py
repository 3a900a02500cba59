"""Notifications: who is told of alerts by mail, and what everybody has seen of them.

A subscriber is an account. Its address is no part of any event: who sends asks the accounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from domain.alert_rules import AlertKind, Severity
from domain.decider import Decider
from domain.errors import Refused
from domain.organisations import Member
from domain.time_windows import Zone
from domain.values import Command, Event, Id, Text, UtcTime, Words

#: Whoever acts: a member, a key, an operator's token.
Actor = Annotated[Words, Field(min_length=1, max_length=300)]


def _once(kinds: tuple[AlertKind, ...]) -> tuple[AlertKind, ...]:
    if len(set(kinds)) < len(kinds):
        raise ValueError("each kind is named once")
    return kinds


# commands


class ReadAllAlerts(Command):
    """Say that one has seen all alerts that were raised up to a log position; without it, all."""

    reader: Actor
    to_position: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    read_at: UtcTime


class SubscribeToAlerts(Command):
    """Be told of alerts by mail: of these kinds (none: of all), from this severity on; of each at
    once, or of all in one letter a day, at ``hour`` by the clock of ``zone``. It takes the place of
    what was subscribed to before."""

    subscriber: Member
    kinds: Annotated[tuple[AlertKind, ...], Field(max_length=20), AfterValidator(_once)] = ()
    least_severity: Severity = Severity.WARNING
    channel: Literal["email"] = "email"
    digest: Literal["immediate", "daily"] = "immediate"
    hour: Annotated[int, Field(ge=0, le=23)] = 7
    zone: Zone = "UTC"
    subscribed_at: UtcTime


class UnsubscribeFromAlerts(Command):
    """Be told no more."""

    subscriber: Member
    unsubscribed_at: UtcTime


class RecordNotice(Command):
    """Say of which alerts a subscriber was told; ``failure``: why it could not be, and never will
    be as things are."""

    subscriber: Member
    notice_id: Id
    alert_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=500)]
    failure: Text | None = None
    told_at: UtcTime


# events


class AlertsRead(Event):
    """Somebody has seen all alerts up to a log position; null: up to this event's own."""

    reader: str
    to_position: int | None
    read_at: datetime


class AlertsSubscribed(Event):
    """Somebody is told of alerts by mail."""

    subscriber: str
    kinds: tuple[str, ...]
    least_severity: str
    channel: str
    digest: str
    hour: int
    zone: str
    subscribed_at: datetime


class AlertsUnsubscribed(Event):
    """Somebody is told no more; ``reason``: where it was not their wish."""

    subscriber: str
    reason: str | None
    unsubscribed_at: datetime


class NoticeSent(Event):
    """A subscriber was told of some alerts."""

    subscriber: str
    notice_id: str
    alert_ids: tuple[str, ...]
    told_at: datetime


EVENTS: tuple[type[Event], ...] = (AlertsRead, AlertsSubscribed, AlertsUnsubscribed, NoticeSent)

#: The streams that events belong to, by their fields: what somebody has read, is told of.
READER = "alert_readers/{reader}"
SUBSCRIBER = "alert_subscribers/{subscriber}"
STREAMS: dict[type[Event], str] = {
    AlertsRead: READER,
    AlertsSubscribed: SUBSCRIBER,
    AlertsUnsubscribed: SUBSCRIBER,
    NoticeSent: SUBSCRIBER,
}

SENTENCES: dict[type[Event], str] = {
    AlertsRead: "{reader} has seen all alerts",
    AlertsSubscribed: "{subscriber} is told of alerts by mail, {digest}",
    AlertsUnsubscribed: "{subscriber} is told of no more alerts: {reason}",
    NoticeSent: "{subscriber} was told of alerts by mail, {notice_id}",
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """What somebody is told of; None: nothing."""

    to: AlertsSubscribed | None = None


def evolve(subscription: Subscription, event: Event) -> Subscription:
    """The subscription after one more of its events."""
    match event:
        case AlertsSubscribed():
            return replace(subscription, to=event)
        case AlertsUnsubscribed():
            return replace(subscription, to=None)
    return subscription


SUBSCRIPTIONS = Decider(initial=Subscription(), evolve=evolve)
READERS: Decider[None] = Decider(initial=None, evolve=lambda state, _: state)


def read_all(_: None, command: ReadAllAlerts, actor: str) -> Sequence[Event]:
    """Note how far somebody has seen them."""
    _must_be(command.reader, actor)
    return [AlertsRead(**command.model_dump())]


def subscribe(
    subscription: Subscription, command: SubscribeToAlerts, actor: str
) -> Sequence[Event]:
    """Tell somebody of alerts from now on."""
    _must_be(command.subscriber, actor)
    event = AlertsSubscribed(
        **command.model_dump(mode="json", exclude={"subscribed_at"}),
        subscribed_at=command.subscribed_at,
    )
    before = subscription.to
    if before is not None and before == event.model_copy(
        update={"subscribed_at": before.subscribed_at}
    ):
        raise Refused("notification.already_subscribed", subscriber=command.subscriber)
    return [event]


def unsubscribe(
    subscription: Subscription, command: UnsubscribeFromAlerts, actor: str
) -> Sequence[Event]:
    """Tell them no more."""
    _must_be(command.subscriber, actor)
    _subscribed(subscription, command.subscriber)
    return [AlertsUnsubscribed(**command.model_dump(), reason=None)]


def record(subscription: Subscription, command: RecordNotice) -> Sequence[Event]:
    """Note what was sent; what can never be sent ends the subscription."""
    _subscribed(subscription, command.subscriber)
    if command.failure is not None:
        return [
            AlertsUnsubscribed(
                subscriber=command.subscriber,
                reason=command.failure,
                unsubscribed_at=command.told_at,
            )
        ]
    return [NoticeSent(**command.model_dump(exclude={"failure"}))]


def _must_be(who: str, actor: str) -> None:
    if who != actor:
        raise Refused("notification.of_somebody_else", subscriber=who, actor=actor)


def _subscribed(subscription: Subscription, subscriber: str) -> None:
    if subscription.to is None:
        raise Refused("notification.not_subscribed", subscriber=subscriber)
