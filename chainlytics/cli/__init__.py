"""The command line: `chainlytics --help`."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import psycopg
import typer
from pydantic import ValidationError

from chainlytics import __version__
from chainlytics.cli import (
    archive,
    audit,
    data,
    database,
    decisions,
    demo,
    events,
    models,
    people,
    policies,
    projections,
    server,
)
from chainlytics.cli.console import CliError, complain
from chainlytics.memory import calm_collector
from chainlytics.settings import Settings
from chainlytics.telemetry import configure_logs
from commands import Forbidden, TooMuchContention
from domain.errors import Refused
from eventstore import CommandReused, LogUnavailable
from eventstore.embedded import EmbeddedPostgresError
from eventstore.persons.keys import WrongMasterKey
from eventstore.seals.signing import WrongKey

app = typer.Typer(
    name="chainlytics",
    help="An event-sourced decision backend: commands in, an append-only log, tables and "
    "explained decisions out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    configure_logs(Settings().log_level, pretty=sys.stderr.isatty())
    calm_collector()


server.add_to(app)
app.command("demo")(demo.demo)
app.command("import")(data.import_data)
app.command("token")(server.token)
app.add_typer(audit.app, name="audit")
app.add_typer(archive.app, name="archive")
app.add_typer(database.app, name="db")
app.add_typer(projections.app, name="projections")
app.add_typer(models.app, name="models")
app.add_typer(decisions.app, name="decisions")
app.add_typer(policies.app, name="policies")
app.add_typer(people.app, name="people")
app.add_typer(events.app, name="events")


def main() -> None:
    """Run the command line; every expected error is one clear sentence and exit code 1."""
    # A polite kill ends as Ctrl-C does: what was opened is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except (
        CliError,
        Refused,
        Forbidden,
        CommandReused,
        TooMuchContention,
        LogUnavailable,
        WrongMasterKey,
        WrongKey,
        EmbeddedPostgresError,
    ) as error:
        complain(str(error))
    except ValidationError as error:
        told = (
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        complain("; ".join(told))
    except psycopg.OperationalError as error:
        complain(f"the database cannot be reached: {str(error).strip()}")
    except KeyboardInterrupt:
        typer.echo("stopped; what was acknowledged is on the log", err=True)
        sys.exit(130)
