"""API keys: what services of the organisation show who they are with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Annotated
from uuid import uuid4

import typer

from api.authorisation import api_key_of, digest_of
from chainlytics.application import Application
from chainlytics.cli.acting import Actor, context, reading, send
from chainlytics.cli.console import CliError, Json, Organisation, console, emit, rows, run
from chainlytics.settings import Settings
from commands import HANDLERS
from domain.access import Role
from domain.api_keys import IssueApiKey, RevokeApiKey
from eventstore import Receipt
from readmodels.access import QUERIES
from readmodels.api_keys import ApiKeyView, list_api_keys

app = typer.Typer(no_args_is_help=True, help="API keys: issue, list and revoke those of services.")


@app.command("list")
def list_all(
    revoked: Annotated[bool, typer.Option("--revoked", help="Revoked ones too.")] = False,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """List the keys, without their secrets."""

    async def work(app: Application, settings: Settings) -> list[ApiKeyView]:
        read = await reading(app, settings)
        found = await list_api_keys(read, revoked=revoked)
        items = list(found.items)
        while found.next_cursor is not None:
            found = await list_api_keys(read, revoked=revoked, cursor=found.next_cursor)
            items += found.items
        return items

    columns = ("key_id", "name", "roles", "scopes", "issued_at", "expires_at", "revoked_at")
    rows("API keys", run(work, organisation), json, columns)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[list[Role], typer.Option(help="May be repeated.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A command or query that it is good for; may be repeated. All without."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires.")] = None,
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """Issue a key. It is shown this once."""
    known = QUERIES.keys() | {command.__name__ for command in HANDLERS}
    for one in scope or ():
        if one not in known:
            raise CliError(f"--scope {one}: there is no such command or query")
    now, secret = datetime.now(UTC), token_hex(32)
    command = IssueApiKey(
        key_id=uuid4().hex,
        name=name,
        roles=tuple(sorted(set(role))),
        scopes=tuple(scope or ()),
        digest=digest_of(secret),
        expires_at=None if days is None else now + timedelta(days=days),
        issued_at=now,
    )

    async def work(app: Application, settings: Settings) -> tuple[str, Receipt]:
        receipt = await app.bus.execute(command, context(settings, actor))
        return api_key_of(settings.organisation_id, command.key_id, secret), receipt

    key, receipt = run(work, organisation)
    if json:
        emit({"key_id": command.key_id, "key": key, "position": receipt.position})
    else:
        console.print(f"key {command.key_id} of {name}; it is shown this once:")
        typer.echo(key)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `chainlytics keys list` has it.")],
    organisation: Organisation = None,
    actor: Actor = None,
    json: Json = False,
) -> None:
    """End a key, for good."""
    command = RevokeApiKey(key_id=key_id, revoked_at=datetime.now(UTC))
    send(command, f"key {key_id} is revoked", organisation, actor, json)
