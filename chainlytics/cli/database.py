"""The embedded PostgreSQL: start, stop, where it is."""

from __future__ import annotations

import typer

from chainlytics.cli.console import Json, console, emit, table
from chainlytics.settings import Settings
from eventstore import prepare_database
from eventstore.embedded import EmbeddedPostgres

app = typer.Typer(no_args_is_help=True, help="The embedded PostgreSQL server.")


@app.command()
def start() -> None:
    """Start the server and leave it running; prints its address."""
    url = EmbeddedPostgres(Settings().home).start()
    prepare_database(url)
    typer.echo(url)


@app.command()
def stop() -> None:
    """Stop the server."""
    stopped = EmbeddedPostgres(Settings().home).stop()
    console.print("stopped" if stopped else "was not running")


@app.command()
def status(json: Json = False) -> None:
    """Say whether the server runs and where its data is."""
    found = EmbeddedPostgres(Settings().home).status()
    if json:
        emit(found)
        return
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    table("Embedded PostgreSQL", ("", ""), list(fields.items()))
