"""Accounts of the built-in identity provider: list, add, disable, enable, remove, and a backup."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from api.identity.address import address
from api.identity.export import NotAnExport, export_accounts, import_accounts
from api.identity.operating import (
    AccountExists,
    NoSuchAccount,
    add_account,
    disable_account,
    enable_account,
    list_accounts,
    remove_account,
)
from api.identity.schema import prepare_identity
from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, console, emit, run, table
from chainlytics.settings import Settings
from eventstore import Log

app = typer.Typer(no_args_is_help=True, help="Accounts with a password: look after them.")
T = TypeVar("T")

Whose = Annotated[str, typer.Argument(help="E-mail address or id.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_all(json: Json = False) -> None:
    """List accounts."""
    found = _with(list_accounts)
    if json:
        emit([one._asdict() for one in found])
    else:
        table(
            "Accounts",
            ("id", "email", "name", "created", "disabled", "sessions"),
            [
                (one.id, one.email, one.name, one.created_at, one.disabled_at, one.sessions)
                for one in found
            ],
            whole_first=True,
        )


@app.command()
def add(
    email: Annotated[str, typer.Argument(help="The e-mail address.")],
    name: Annotated[str | None, typer.Option(help="What the owner is called.")] = None,
) -> None:
    """Open an account; prints the code by which its owner chooses a password within an hour."""
    try:
        normal = address(email)
    except ValueError as error:
        raise CliError(f"{email!r}: {error}") from None
    account_id, code = _with(lambda log: add_account(log, normal, name))
    console.print(f"local:{account_id}; the password is chosen at /auth/password/reset with")
    typer.echo(code)


@app.command()
def disable(who: Whose) -> None:
    """Let somebody in no more, and end all sessions now."""
    console.print(f"{_with(lambda log: disable_account(log, who))} is disabled")


@app.command()
def enable(who: Whose) -> None:
    """Let somebody in again."""
    console.print(f"{_with(lambda log: enable_account(log, who))} is enabled")


@app.command()
def remove(who: Whose, yes: Yes = False) -> None:
    """Forget somebody for good. The log keeps what was done, under an id that names nobody."""
    if not yes:
        typer.confirm(f"forget {who}?", abort=True)
    console.print(f"{_with(lambda log: remove_account(log, who))} is removed")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write them.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a former one.")] = False,
) -> None:
    """Write accounts, profiles and preferences to a file: a backup of the log holds none. It holds
    addresses and hashes of passwords, so only its owner reads it."""
    done = _with(lambda log: export_accounts(log, file, overwrite=force))
    console.print(f"{done.accounts} accounts, {done.profiles} profiles")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What `backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of the accounts that are there.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Put the accounts of a file back. Everybody logs in anew."""
    if replace and not yes:
        typer.confirm("replace all accounts?", abort=True)
    done = _with(lambda log: import_accounts(log, file, replace=replace))
    console.print(f"{done.accounts} accounts, {done.profiles} profiles")


def _with(work: Callable[[Log], Awaitable[T]]) -> T:
    async def within(app: Application, settings: Settings) -> T:
        await prepare_identity(app.log)
        return await work(app.log)

    try:
        return run(within)
    except (NoSuchAccount, AccountExists, NotAnExport) as error:
        raise CliError(str(error)) from None
