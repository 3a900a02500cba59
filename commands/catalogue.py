"""Every command by name, and its handler."""

from __future__ import annotations

from collections.abc import Mapping

from commands import (
    api_keys,
    decisions,
    inventory,
    models,
    orders,
    organisations,
    people,
    policies,
    reviews,
    tasks,
    transport,
    webhooks,
)
from commands.handler import Handler
from domain.values import Command

HANDLERS: Mapping[type[Command], Handler] = {
    handler.command: handler
    for area in (
        orders,
        inventory,
        decisions,
        models,
        transport,
        reviews,
        policies,
        tasks,
        people,
        webhooks,
        organisations,
        api_keys,
    )
    for handler in area.HANDLERS
}

COMMANDS: Mapping[str, type[Command]] = {command.__name__: command for command in HANDLERS}
