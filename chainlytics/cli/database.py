"""The database: the embedded server, and backup and restore of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg import AsyncConnection
from rich.filesize import decimal
from rich.markup import escape

from chainlytics.application import database
from chainlytics.cli.console import CliError, Json, console, emit, table
from chainlytics.settings import Settings
from eventstore import backup as backups
from eventstore import prepare_database, retention
from eventstore.embedded import EmbeddedPostgres

app = typer.Typer(
    no_args_is_help=True,
    help="The database: the embedded PostgreSQL server, backup and restore of the log.",
)
_CLASSES = {
    "commands": "accepted commands: their answers, who sent them as what",
    "attempts": "denied and refused attempts",
    "personal_access": "looks at personal data",
}
_NOTE = "read models are folded anew by the projector as it starts"


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


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write the backup.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a former backup.")] = False,
    json: Json = False,
) -> None:
    """Write the log to a file, while servers go on; its checksum goes beside it."""
    with database(Settings()) as url, _moving("backing up to", file, quiet=json) as report:
        done = backups.backup(url, file, overwrite=force, report=report)
        accounts = _accounts(url)
    if json:
        emit(done)
        return
    console.print(
        f"{escape(str(file))}: {decimal(done.bytes)}, head at position {done.head:,}\n"
        f"sha256 {done.sha256}"
    )
    if accounts:
        console.print(
            f"{accounts:,} accounts with a password are not in it: chainlytics accounts backup"
        )
    if done.archive is not None:
        console.print(
            f"the archive at {escape(done.archive)} is not in it: keep it too, "
            f"{done.only_archived:,} events are nowhere else"
        )


def _accounts(url: str) -> int:
    """How many accounts of the built-in identity provider there are."""
    with psycopg.connect(url) as connection:
        there = connection.execute("SELECT to_regclass('identity.accounts') IS NOT NULL").fetchone()
        if there is None or not there[0]:
            return 0
        row = connection.execute("SELECT count(*) FROM identity.accounts").fetchone()
    return 0 if row is None else int(row[0])


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What `backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a log that is not empty.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace without asking.")] = False,
    despite_connections: Annotated[
        bool,
        typer.Option(
            "--despite-connections",
            help="Replace although somebody is connected (a monitor). Stop servers, projectors "
            "and consumers all the same: they remember states of the former log.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Put the log of a backup into the database, all of it or nothing."""
    with database(Settings()) as url:
        head = backups.head_of(url)
        if replace and head and not yes:
            asked = f"The log there, its head at position {head:,}, is lost. Replace it?"
            typer.confirm(asked, abort=True, err=True)
        with _moving("restoring", file, quiet=json) as report:
            done = backups.restore(
                url, file, replace=replace, despite_connections=despite_connections, report=report
            )
    if json:
        emit(done)
        return
    console.print(
        f"restored: head at position {done.head:,}, {done.streams:,} streams, "
        f"{done.commands:,} commands, {done.artifacts:,} artifacts; the log was verified"
    )
    if done.replaced:
        console.print(f"replaced a log whose head was at position {done.replaced:,}; {_NOTE}")


@app.command()
def prune(
    older_than: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="DAYS", help="As long as `db retention` says where it is not said."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Forget the ids of old commands, as `serve` does by itself. A retry after that is run anew."""
    settings = Settings()
    stored = settings.retention.by_table["commands"]
    kept = stored if older_than is None else timedelta(days=older_than)
    if kept is None:
        raise CliError("ids are remembered for ever by the settings; say --older-than DAYS")

    async def work(url: str, report: Callable[[int], None]) -> int:
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            return await retention.prune(connection, kept, report=report)

    title = f"forgetting commands older than {kept.days} days"
    with (
        database(settings) as url,
        console.status(title) if not json else nullcontext() as status,
    ):

        def report(count: int) -> None:
            if status is not None:
                status.update(f"{title}: {count:,}")

        count = asyncio.run(work(url, report))
    if json:
        emit({"forgotten": count, "older_than_days": kept.days})
    else:
        console.print(f"{count:,} commands older than {kept.days} days are forgotten")


@app.command("retention")
def show_retention(json: Json = False) -> None:
    """Show how long each class of record is kept, how much there is, and since when."""
    settings = Settings()

    async def work(url: str) -> list[retention.Kept]:
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            return await retention.kept(connection, settings.retention)

    with database(settings) as url:
        found = asyncio.run(work(url))
    if json:
        emit([one._asdict() | {"oldest": one.oldest and one.oldest.isoformat()} for one in found])
        return
    told = [
        (
            _CLASSES[one.table],
            "for ever" if one.days is None else f"{one.days} days",
            f"{one.rows:,}",
            one.oldest and f"{one.oldest:%Y-%m-%d %H:%M:%S}",
        )
        for one in found
    ]
    table("How long records are kept", ("record", "kept for", "rows", "oldest"), told)
    console.print("events are kept for ever; what `serve` and the workers find too old they delete")


@contextmanager
def _moving(what: str, file: Path, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Say what begins and show, at a terminal, how many bytes are done."""
    title = f"{what} {file}"
    if not quiet:
        console.print(escape(title))
    with console.status(escape(title)) if not quiet else nullcontext() as status:
        try:
            yield (
                lambda done: (
                    None if status is None else status.update(f"{escape(title)}: {decimal(done)}")
                )
            )
        except backups.BackupError as error:
            raise CliError(str(error)) from error
