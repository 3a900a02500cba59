"""Members: who may act for the organisation, and as what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import TypeAdapter

from chainlytics.application import Application
from chainlytics.cli.acting import Actor, reading, send
from chainlytics.cli.console import CliError, Json, Organisation, rows, run
from chainlytics.settings import Settings
from domain.access import Role
from domain.organisations import (
    AddMember,
    ChangeMemberRoles,
    Member,
    RemoveMember,
    RenameOrganisation,
)
from readmodels.organisations import MemberView, list_members

app = typer.Typer(
    no_args_is_help=True, help="Members: who may act for the organisation, and as what."
)
Account = Annotated[
    str, typer.Argument(help="An account, provider:subject, as GET /api/v1/auth/me tells it.")
]
AsRole = Annotated[list[Role], typer.Option("--role", help="May be repeated.")]


@app.command("list")
def list_all(
    former: Annotated[bool, typer.Option("--former", help="Former members too.")] = False,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List the members and their roles."""

    async def work(app: Application, settings: Settings) -> list[MemberView]:
        read = await reading(app, settings)
        found = await list_members(read, former=former)
        items = list(found.items)
        while found.next_cursor is not None:
            found = await list_members(read, former=former, cursor=found.next_cursor)
            items += found.items
        return items

    columns = ("member", "roles", "added_at", "added_by", "changed_at", "removed_at")
    rows("Members", run(work, organisation), json, columns)


@app.command()
def add(
    member: Account,
    role: AsRole,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Let an account act for the organisation."""
    command = AddMember(member=_account(member), roles=_once(role), added_at=datetime.now(UTC))
    send(command, f"{member} is a member", organisation, actor, json)


@app.command()
def roles(
    member: Account,
    role: AsRole,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Replace a member's roles as a whole."""
    command = ChangeMemberRoles(
        member=_account(member), roles=_once(role), changed_at=datetime.now(UTC)
    )
    send(command, f"{member} has other roles", organisation, actor, json)


@app.command()
def remove(
    member: Account, organisation: Organisation = None, actor: Actor = None, json: Json = False
) -> None:
    """End a membership."""
    command = RemoveMember(member=_account(member), removed_at=datetime.now(UTC))
    send(command, f"{member} is no member any more", organisation, actor, json)


@app.command()
def rename(
    name: Annotated[str, typer.Argument(help="What the organisation is called.")],
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Give the organisation a name."""
    command = RenameOrganisation(name=name, renamed_at=datetime.now(UTC))
    send(command, f"the organisation is called {name}", organisation, actor, json)


def _once(given: list[Role]) -> tuple[Role, ...]:
    return tuple(sorted(set(given)))


def _account(member: str) -> str:
    try:
        return TypeAdapter[str](Member).validate_python(member)
    except ValueError:
        raise CliError(f"{member!r} is no account: it must be like local:ID") from None
