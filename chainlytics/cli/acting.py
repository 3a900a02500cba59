"""Who acts at the command line, and what is read and typed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.console import CliError, console, emit, run
from chainlytics.settings import Settings, operator
from commands import Context
from domain.access import Role
from domain.values import Command
from eventstore import Receipt
from ml.catalogue import KINDS
from ml.kind import Kind
from readmodels.database import ReadModels

Actor = Annotated[str | None, typer.Option("--actor", help="Who does it; you by default.")]
KindOption = Annotated[str, typer.Option("--kind", help="The kind of decision.")]
AnyKind = Annotated[str | None, typer.Option("--kind", help="Of this kind of decision only.")]


def context(settings: Settings, actor: str | None) -> Context:
    """The context of a command that a person sends from the command line."""
    return Context(
        organisation_id=settings.organisation_id,
        actor=actor or operator(),
        roles=frozenset({Role.ADMIN}),
    )


def kind_of(name: str) -> Kind:
    """A kind of decision.

    Raises:
        CliError: there is none of that name.
    """
    if name not in KINDS:
        raise CliError(f"kind {name!r} is not known; there are {', '.join(KINDS)}")
    return KINDS[name]


async def reading(app: Application, settings: Settings) -> ReadModels:
    """The organisation's read models, caught up with the log."""
    await app.projector.prepare()
    await app.projector.catch_up()
    return ReadModels(app.log, settings.organisation_id)


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """What NAME=VALUE words say.

    Raises:
        CliError: a word is none such, or a name is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name in found:
            why = "is given twice" if name in found else "is not NAME=VALUE"
            raise CliError(f"{option}: {word!r} {why}")
        found[name] = value
    return found


def send(
    command: Command, told: str, organisation: str | None, actor: str | None, json: bool
) -> None:
    """Send a command, and say that it was taken."""

    async def work(app: Application, settings: Settings) -> Receipt:
        return await app.bus.execute(command, context(settings, actor))

    taken(run(work, organisation), told, json)


def taken(receipt: Receipt, told: str, json: bool) -> None:
    """Say that a command was taken."""
    if json:
        emit(receipt._asdict())
    else:
        console.print(f"done: {told}, at log position {receipt.position}", markup=False)
