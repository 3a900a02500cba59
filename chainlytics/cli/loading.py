"""Commands whose modules are imported when somebody asks for them.

Most commands need neither FastAPI nor Kafka, and to import all that every command needs would take
longer than most of them do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_group


class LoadedGroup(TyperGroup):
    """A group whose commands are told by ``where``: a name, and ``module:attribute`` in this
    package, which is a function or a ``typer.Typer``."""

    where: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of ``--help``."""
        return list(self.where)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None where there is none."""
        if cmd_name not in self.commands and cmd_name in self.where:
            self.commands[cmd_name] = _loaded(cmd_name, self.where[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words begin with."""
        if args[0] not in self.where:
            self.load()  # its error suggests names that are like it
        return super().resolve_command(ctx, args)

    def load(self) -> None:
        """Import them all."""
        for name in self.where:
            self.get_command(None, name)


def _loaded(name: str, where: str) -> Any:
    module, _, attribute = where.partition(":")
    found = getattr(import_module(f"chainlytics.cli.{module}"), attribute)
    holder = typer.Typer()
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    return get_group(holder).commands[name]
