"""Webhooks: addresses that are told what happens, by signed requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event, Id, Text, UtcTime, Words

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_SIGNS = re.compile(r"[\x21-\x7e]+")


def _address(url: str) -> str:
    """Messages do not quote the address: what should not be in it may be a password."""
    if not _SIGNS.fullmatch(url) or "\\" in url:
        raise ValueError("must be ASCII without blanks or backslashes (names as punycode)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be an address such as https://example.org/hooks") from None
    if parts.scheme not in ("https", "http"):
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password: the signature says who calls")
    if "?" in url or "#" in url:
        raise ValueError(
            "must have neither query nor fragment: it stands in the log for good, which is no "
            "place for a key"
        )
    host = parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError("must name a host, and a port above 0 if it names one")
    return url


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("must name each once")
    return names


#: Where requests are sent: http(s)://host[:port][/path]. Whether plain http and the host's
#: addresses are allowed is asked by who registers it and by who sends.
Address = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_address)]
#: What is told: names of areas (``orders``) and of events (``OrderPlaced``); none: everything.
Names = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z]{1,80}$")], ...],
    Field(max_length=50),
    AfterValidator(_each_once),
]
Description = Annotated[Words, Field(max_length=500)]
#: Areas that no webhook is told of: where webhooks lead, who is invited and who has which key.
NEVER_SENT = frozenset({"webhooks", "organisations", "api_keys"})
#: Names a secret, which is kept apart from the log.
SecretId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class RegisterWebhook(Command):
    """Tell an address what happens from now on: each event of the organisation that ``events``
    names (areas such as `orders`, or events such as `OrderPlaced`; none: everything but what
    happens to webhooks, memberships and API keys)."""

    webhook_id: Id
    url: Address
    events: Names = ()
    description: Description = ""
    secret_id: SecretId
    registered_at: UtcTime


class ChangeWebhook(Command):
    """Give a webhook another address, other events or another description, as a whole. What waits
    goes to the new address."""

    webhook_id: Id
    url: Address
    events: Names = ()
    description: Description = ""
    changed_at: UtcTime


class PauseWebhook(Command):
    """Send nothing for now. What happens meanwhile is sent when the webhook is resumed."""

    webhook_id: Id
    reason: Text
    paused_at: UtcTime


class ResumeWebhook(Command):
    """Send again, beginning with what happened since the webhook was paused."""

    webhook_id: Id
    resumed_at: UtcTime


class RotateWebhookSecret(Command):
    """Sign by a new secret. For ``grace_hours`` requests carry the signatures of both; 0 ends the
    former one at once."""

    webhook_id: Id
    secret_id: SecretId
    grace_hours: Annotated[int, Field(ge=0, le=24 * 30)] = 24
    rotated_at: UtcTime


class RemoveWebhook(Command):
    """Remove a webhook for good: nothing more is sent, and its secrets are destroyed."""

    webhook_id: Id
    removed_at: UtcTime


class WebhookRegistered(Event):
    """An address is told what happens from here on."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    description: str
    secret_id: str
    registered_by: str
    registered_at: datetime


class WebhookChanged(Event):
    """A webhook has another address, other events or another description."""

    webhook_id: str
    url: str
    events: tuple[str, ...]
    description: str
    changed_by: str
    changed_at: datetime


class WebhookPaused(Event):
    """Nothing is sent for now."""

    webhook_id: str
    reason: str
    paused_by: str
    paused_at: datetime


class WebhookResumed(Event):
    """What waited is sent, and what happens."""

    webhook_id: str
    resumed_by: str
    resumed_at: datetime


class WebhookSecretRotated(Event):
    """Requests are signed by another secret, and until ``former_until`` by the former one too."""

    webhook_id: str
    secret_id: str
    former_secret_id: str
    former_until: datetime
    rotated_by: str
    rotated_at: datetime


class WebhookRemoved(Event):
    """A webhook is no more."""

    webhook_id: str
    removed_by: str
    removed_at: datetime


EVENTS = (
    WebhookRegistered,
    WebhookChanged,
    WebhookPaused,
    WebhookResumed,
    WebhookSecretRotated,
    WebhookRemoved,
)

#: The stream that an event belongs to, by its fields.
STREAM = "webhooks/{webhook_id}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    WebhookRegistered: "Webhook {webhook_id} was registered by {registered_by} for {url}",
    WebhookChanged: "Webhook {webhook_id} was changed by {changed_by}; it goes to {url}",
    WebhookPaused: "Webhook {webhook_id} was paused by {paused_by}: {reason}",
    WebhookResumed: "Webhook {webhook_id} goes on, says {resumed_by}",
    WebhookSecretRotated: "Webhook {webhook_id} has a new secret since {rotated_by} rotated it",
    WebhookRemoved: "Webhook {webhook_id} was removed by {removed_by}",
}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as the rules and the deliverer see it; ``url`` is None before it is registered."""

    url: str | None = None
    events: tuple[str, ...] = ()
    secret_id: str = ""
    former_secret_id: str | None = None
    former_until: datetime | None = None
    paused: bool = False
    removed: bool = False


def evolve(webhook: Webhook, event: Event) -> Webhook:
    """The webhook after one more of its events."""
    match event:
        case WebhookRegistered():
            return Webhook(event.url, event.events, event.secret_id)
        case WebhookChanged():
            return replace(webhook, url=event.url, events=event.events)
        case WebhookPaused():
            return replace(webhook, paused=True)
        case WebhookResumed():
            return replace(webhook, paused=False)
        case WebhookSecretRotated():
            return replace(
                webhook,
                secret_id=event.secret_id,
                former_secret_id=event.former_secret_id,
                former_until=event.former_until,
            )
        case WebhookRemoved():
            return replace(webhook, removed=True)
    return webhook


WEBHOOKS = Decider(initial=Webhook(), evolve=evolve)


def register(webhook: Webhook, command: RegisterWebhook, actor: str) -> Sequence[Event]:
    """Take an address in. An id is used once: what was removed does not come back."""
    if webhook.removed:
        raise Refused("webhook.was_removed", webhook_id=command.webhook_id)
    if webhook.url is not None:
        raise Refused("webhook.already_registered", webhook_id=command.webhook_id)
    return [WebhookRegistered(**command.model_dump(), registered_by=actor)]


def change(webhook: Webhook, command: ChangeWebhook, actor: str) -> Sequence[Event]:
    """Replace address, events and description."""
    _known(webhook, command.webhook_id)
    return [WebhookChanged(**command.model_dump(), changed_by=actor)]


def pause(webhook: Webhook, command: PauseWebhook, actor: str) -> Sequence[Event]:
    """Stop sending."""
    _known(webhook, command.webhook_id)
    if webhook.paused:
        raise Refused("webhook.already_paused", webhook_id=command.webhook_id)
    return [WebhookPaused(**command.model_dump(), paused_by=actor)]


def resume(webhook: Webhook, command: ResumeWebhook, actor: str) -> Sequence[Event]:
    """Send again."""
    _known(webhook, command.webhook_id)
    if not webhook.paused:
        raise Refused("webhook.not_paused", webhook_id=command.webhook_id)
    return [WebhookResumed(**command.model_dump(), resumed_by=actor)]


def rotate(webhook: Webhook, command: RotateWebhookSecret, actor: str) -> Sequence[Event]:
    """Sign by another secret. Of two rotations within the grace only the later former one is
    good."""
    _known(webhook, command.webhook_id)
    return [
        WebhookSecretRotated(
            webhook_id=command.webhook_id,
            secret_id=command.secret_id,
            former_secret_id=webhook.secret_id,
            former_until=command.rotated_at + timedelta(hours=command.grace_hours),
            rotated_by=actor,
            rotated_at=command.rotated_at,
        )
    ]


def remove(webhook: Webhook, command: RemoveWebhook, actor: str) -> Sequence[Event]:
    """End it for good."""
    _known(webhook, command.webhook_id)
    return [WebhookRemoved(**command.model_dump(), removed_by=actor)]


def _known(webhook: Webhook, webhook_id: str) -> None:
    if webhook.url is None or webhook.removed:
        raise Refused("webhook.unknown", webhook_id=webhook_id)
