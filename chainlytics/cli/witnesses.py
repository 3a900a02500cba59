"""Witnesses: which of them has which signed head, and who refuses."""

from __future__ import annotations

import typer
from rich.markup import escape

from chainlytics.application import Application
from chainlytics.cli.console import Json, console, emit, run, table
from chainlytics.settings import Settings
from eventstore.witnesses.addresses import witnesses_of
from eventstore.witnesses.witnessed import WitnessState, witness_states


def witnesses(json: Json = False) -> None:
    """Say which signed head each witness has, and who is away. Exit code 1 where one refuses."""

    async def work(app: Application, settings: Settings) -> list[WitnessState]:
        names = [one.name for one in witnesses_of(settings.witnesses)]
        async with app.log.connection() as connection:
            return await witness_states(connection, names)

    found = run(work)
    if json:
        emit(found)
    elif not found:
        console.print("no witness is named: CHAINLYTICS_WITNESSES=file:///... (or http, kafka)")
    else:
        _show(found)
    if any(one.state == "refused" for one in found):
        raise typer.Exit(1)


def _show(found: list[WitnessState]) -> None:
    columns = ("witness", "state", "head", "events", "behind", "taken", "signed")
    newest = found[0].newest_number
    title = "Witnesses; no head is signed yet"
    if newest is not None:
        title = f"Witnesses; the newest head is {newest:,}, of {found[0].newest_size:,} events"
    table(title, columns, [_line(one) for one in found])
    for one in found:
        if one.error is not None:
            since = "" if one.failed_at is None else f" (since {one.failed_at:%Y-%m-%d %H:%M:%S})"
            word = "[bold red]REFUSED[/] by" if one.state == "refused" else "not taken by"
            console.print(f"{word} {escape(one.name)}{since}: {escape(one.error)}", soft_wrap=True)


def _line(one: WitnessState) -> tuple[object, ...]:
    behind = None
    if one.newest_size is not None:
        behind = f"{one.newest_size - (one.size or 0):,}"
    return (
        one.name,
        one.state,
        None if one.number is None else f"{one.number:,}",
        None if one.size is None else f"{one.size:,}",
        behind,
        None if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%S}",
        "yes" if one.cosigned else None,
    )
