"""Every command by name, and its handler."""

from __future__ import annotations

from collections.abc import Mapping

from commands import decisions, inventory, models, orders, people, policies, reviews, transport
from commands.handler import Handler
from domain.values import Command

HANDLERS: Mapping[type[Command], Handler] = {
    handler.command: handler
    for area in (orders, inventory, decisions, models, transport, reviews, policies, people)
    for handler in area.HANDLERS
}

COMMANDS: Mapping[str, type[Command]] = {command.__name__: command for command in HANDLERS}
