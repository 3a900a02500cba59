"""Webhooks: which rule answers which command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from commands.handler import Handler
from domain import webhooks
from domain.access import OPERATE, Role
from domain.catalogue import AREAS
from domain.errors import Refused

_ADMIN = frozenset({Role.ADMIN})
#: What a webhook can name: areas and events.
NAMES = (frozenset(AREAS) - webhooks.NEVER_SENT) | {
    event.__name__
    for area, events in AREAS.items()
    for event in events
    if area not in webhooks.NEVER_SENT
}


def webhook_stream(webhook_id: str) -> str:
    """The stream of a webhook."""
    return webhooks.STREAM.format(webhook_id=webhook_id)


def _known(names: Collection[str]) -> None:
    """Refuse names of what there is not: a misspelt event would be waited for in vain."""
    for name in names:
        if name not in NAMES:
            raise Refused("webhook.unknown_event", event=name)


def _stream(command: Any) -> str:
    _known(getattr(command, "events", ()))
    return webhook_stream(command.webhook_id)


def _handler(command: Any, roles: frozenset[Role], rule: Callable[..., Any]) -> Handler:
    return Handler(
        command=command,
        roles=roles,
        stream=_stream,
        decider=webhooks.WEBHOOKS,
        decide=lambda command, actor, webhook: rule(webhook, command, actor),
    )


HANDLERS = (
    _handler(webhooks.RegisterWebhook, _ADMIN, webhooks.register),
    _handler(webhooks.ChangeWebhook, _ADMIN, webhooks.change),
    # The deliverer pauses what is gone, or fails for days.
    _handler(webhooks.PauseWebhook, OPERATE, webhooks.pause),
    _handler(webhooks.ResumeWebhook, _ADMIN, webhooks.resume),
    _handler(webhooks.RotateWebhookSecret, _ADMIN, webhooks.rotate),
    _handler(webhooks.RemoveWebhook, _ADMIN, webhooks.remove),
)
