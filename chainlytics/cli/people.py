"""People: find, show, erase, also again; and wrap their keys by another master key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import TypeAdapter, ValidationError

from chainlytics.application import Application, database
from chainlytics.cli.acting import Actor, context, reading, taken
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, run, table
from chainlytics.settings import Settings, operator
from commands.erasing import ErasedAgain, Erasure, erase, erase_again, erasures
from domain.access import Role
from domain.people import FIELDS, Reason
from eventstore import Receipt
from eventstore.persons.keys import rewrap
from readmodels.people import MOST, Found, PersonView, Reader

app = typer.Typer(no_args_is_help=True, help="People: find, show, erase; rewrap their keys.")

PersonArgument = Annotated[UUID, typer.Argument(help="The pseudonym, as orders have it.")]
Why = Annotated[str, typer.Option("--why", help="What it is needed for; kept in the log of looks.")]


@app.command()
def find(
    search: Annotated[
        str,
        typer.Argument(
            help="A person id, name, email or phone; exact. -: the first line of standard input, "
            "so that it is in no history and no list of processes."
        ),
    ],
    why: Why = "command line",
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Find people by what they told, letter case and blanks aside. Each look is written down."""

    if search == "-":
        search = typer.get_text_stream("stdin").readline().strip()
    if not search:
        raise CliError("say whom to find")

    async def work(app: Application, settings: Settings) -> Found:
        read = await reading(app, settings)
        return await app.people.find(read, _reader(settings, actor, why), search)

    found, more = run(work, organisation)
    if json:
        emit(found)
    elif not found:
        console.print("nobody is found")
    else:
        table(
            "People",
            ("person", "name", "email", "phone", "orders"),
            [(one.person, one.name, one.email, one.phone, one.orders) for one in found],
            whole_first=True,
        )
    if more:
        typer.echo(f"these are the first {MOST}, there are more: search by another field", err=True)


@app.command()
def show(
    person: PersonArgument,
    why: Why = "command line",
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Show what is kept of a person. The look is written down."""

    async def work(app: Application, settings: Settings) -> PersonView:
        read = await reading(app, settings)
        found = await app.people.show(read, _reader(settings, actor, why), person)
        if found is None:
            raise CliError(f"person {str(person)!r} is not known")
        return found

    found = run(work, organisation)
    if json:
        emit(found)
    elif found.erased_at is not None:
        console.print(f"person {person} was erased at {found.erased_at:%Y-%m-%d %H:%M:%S}")
    else:
        values = [(name, getattr(found, name)) for name in (*FIELDS, "orders")]
        table(f"Person {person}", ("field", "value"), values)


@app.command("erase")
def erase_person(
    person: Annotated[
        UUID | None, typer.Argument(help="The pseudonym, as orders have it.", show_default=False)
    ] = None,
    reason: Annotated[Reason, typer.Option(help="Why.")] = Reason.REQUESTED,
    again: Annotated[
        Path | None,
        typer.Option(
            "--again",
            dir_okay=False,
            exists=True,
            help="Instead of one: whom this file names, as `people erasures --json` wrote it "
            "before a backup was restored.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Erase a person: destroy the key, so that nothing of them can be read again, by anybody."""
    if again is not None:
        if person is not None:
            raise CliError("name a person or --again FILE, not both")
        _erase_all(_ledger(again), yes, organisation, actor, json)
        return
    if person is None:
        raise CliError("name a person, or --again FILE")
    if not yes:
        typer.confirm(f"Erase person {person} for good?", abort=True, err=True)

    async def work(app: Application, settings: Settings) -> Receipt:
        return await erase(app.bus, app.people.keys, person, reason, context(settings, actor))

    taken(run(work, organisation), f"person {person} is erased", json)


def _ledger(path: Path) -> list[Erasure]:
    try:
        return TypeAdapter(list[Erasure]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise CliError(f"{path} is no list of erasures: {error}") from error


def _erase_all(
    listed: Sequence[Erasure], yes: bool, organisation: str | None, actor: str | None, json: bool
) -> None:
    if not yes:
        words = f"Erase for good whom of {len(listed):,} persons the database has?"
        typer.confirm(words, abort=True, err=True)

    async def work(app: Application, settings: Settings) -> ErasedAgain:
        return await erase_again(app.bus, app.people.keys, listed, context(settings, actor))

    done = run(work, organisation)
    if json:
        emit(done._asdict())
    else:
        console.print(
            f"{done.erased:,} persons are erased, {done.before:,} were before, "
            f"{done.unknown:,} are not known here"
        )


@app.command("erasures")
def list_erasures(organisation: Organisation = None, json: Json = False) -> None:
    """List who was erased, by pseudonym. Kept outside of the database, the JSON tells a backup that
    is restored whom to erase again."""

    async def work(app: Application, settings: Settings) -> list[Erasure]:
        return await erasures(app.log, settings.organisation_id)

    found = run(work, organisation)
    if json:
        emit(found)
    elif not found:
        console.print("nobody was erased")
    else:
        table(
            "Erasures",
            ("person", "position", "at", "reason"),
            [
                (one.person, one.position, f"{one.at:%Y-%m-%d %H:%M:%S}", one.reason)
                for one in found
            ],
            whole_first=True,
        )


@app.command("rewrap")
def rewrap_keys(json: Json = False) -> None:
    """Wrap all keys by the master key of the settings, in one transaction.

    CHAINLYTICS_MASTER_KEY_OLD names the one they are wrapped by now. Stop the servers before, and
    start them with the new one.
    """
    settings = Settings()
    old = settings.former_personal_key()
    if old is None:
        raise CliError("set CHAINLYTICS_MASTER_KEY_OLD to the key that is to be replaced")
    with database(settings) as url, bar("wrapping keys", quiet=json) as update:
        count = rewrap(url, old, settings.personal_key(), lambda done: update(done, done))
    if json:
        emit({"keys": count})
    else:
        console.print(f"{count:,} keys are wrapped by the new master key")


def _reader(settings: Settings, actor: str | None, why: str) -> Reader:
    """Who sits at the command line may do everything, and is written down."""
    roles = frozenset({Role.ADMIN})
    return Reader(settings.organisation_id, actor or operator(), roles, why)
