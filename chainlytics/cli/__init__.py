"""The command line: `chainlytics --help`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Annotated, ClassVar

import psycopg
import typer
from pydantic import ValidationError

from chainlytics import __version__
from chainlytics.cli.console import CliError, complain
from chainlytics.cli.loading import LoadedGroup
from chainlytics.memory import calm_collector
from chainlytics.settings import Settings
from chainlytics.telemetry import configure_logs, error_tracking_of
from commands import Forbidden, TooMuchContention
from domain.errors import Refused
from eventstore import CommandReused, LogUnavailable
from eventstore.embedded import EmbeddedPostgresError
from eventstore.persons.keys import WrongMasterKey
from eventstore.roles import RoleUnusable
from eventstore.seals.signing import WrongKey


class Commands(LoadedGroup):
    """Every command, and where it is."""

    where: ClassVar[Mapping[str, str]] = {
        "serve": "server:serve",
        "api": "server:api",
        "projector": "server:projector",
        "consumer": "server:consumer",
        "demo": "demo:demo",
        "import": "data:import_data",
        "token": "server:token",
        "intake": "intake:intake",
        "relay": "kafka:relay",
        "audit": "audit:app",
        "archive": "archive:app",
        "db": "database:app",
        "projections": "projections:app",
        "models": "models:app",
        "decisions": "decisions:app",
        "policies": "policies:app",
        "webhooks": "webhooks:app",
        "people": "people:app",
        "accounts": "accounts:app",
        "members": "members:app",
        "keys": "keys:app",
        "tasks": "tasks:app",
        "schedules": "schedules:app",
        "alerts": "alerts:app",
        "events": "events:app",
        "openapi": "openapi:openapi",
        "kafka": "kafka:app",
    }


app = typer.Typer(
    name="chainlytics",
    cls=Commands,
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
    settings = Settings()
    configure_logs(
        settings.log_level, pretty=sys.stderr.isatty(), errors=error_tracking_of(settings)
    )
    calm_collector()


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
        RoleUnusable,
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
