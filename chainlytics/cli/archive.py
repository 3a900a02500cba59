"""The archive: write, list, verify, drop from Postgres, put back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

import psycopg
import typer
from rich.filesize import decimal
from rich.markup import escape

from chainlytics.application import Application, application, archive_of, database
from chainlytics.cli.console import CliError, Json, bar, console, emit, run, table
from chainlytics.settings import Settings
from eventstore.archive import dropping
from eventstore.archive.dropping import Dropped
from eventstore.archive.writer import ArchiveError
from projections.segments import needed
from readmodels import archive as archives
from readmodels.archive import ArchivedSegment
from readmodels.page import MAX_LIMIT

app = typer.Typer(
    no_args_is_help=True,
    help="The archive: sealed ranges of the log as Parquet; write, verify, drop from Postgres.",
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """A segment and what is wrong with it; nothing if it is None."""

    number: int
    first: int
    last: int
    wrong: str | None


@app.command()
def write(
    now: Annotated[
        bool, typer.Option("--now", help="What is left behind the last whole segment too.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the sealed ranges that are due, as `serve` and `projector` do by themselves."""
    settings = Settings()

    def work(url: str) -> list[ArchivedSegment]:
        with bar("archiving", quiet=json) as update:
            writer = archive_of(url, settings)
            if writer is None:
                raise CliError("nobody says where the archive is: set CHAINLYTICS_ARCHIVE")
            written = writer.write(now=now, report=update)
        numbers = {one.number for one in written}
        return [one for one in asyncio.run(_every(url)) if one.number in numbers]

    found = _with_database(settings, work)
    if json:
        emit(found)
    elif not found:
        console.print("nothing is due: whole segments of what signed heads cover are archived")
    else:
        _show(f"Written to {escape(settings.archive_location or '')}", found)


@app.command("list")
def list_segments(json: Json = False) -> None:
    """List the segments."""

    async def work(app: Application, _: Settings) -> list[ArchivedSegment]:
        return await _all(app)

    found = run(work)
    if json:
        emit(found)
    elif not found:
        console.print("there is no segment yet")
    else:
        _show("Segments", found)


@app.command()
def show(
    number: Annotated[int, typer.Argument(min=0, help="As listed.")], json: Json = False
) -> None:
    """Show one segment and its files."""

    async def work(app: Application, _: Settings) -> ArchivedSegment | None:
        return await archives.get_segment(app.log, number)

    found = run(work)
    if found is None:
        raise CliError(f"there is no segment {number}")
    if json:
        emit(found)
        return
    _show(f"Segment {number}, manifest {found.manifest_sha256}", [found])
    rows = [(one.path, f"{one.rows:,}", decimal(one.bytes), one.sha256) for one in found.files]
    table("Files", ("path", "rows", "size", "sha256"), rows)


@app.command()
def verify(json: Json = False) -> None:
    """Read every file again and compare it with its manifest, and manifests with one another."""

    def work(url: str) -> list[Checked]:
        with (
            psycopg.connect(url, autocommit=True) as connection,
            bar("verifying", quiet=json) as update,
        ):
            return [
                Checked(one.number, one.first, one.last, wrong)
                for one, wrong in dropping.verify(connection, update)
            ]

    found = _with_database(Settings(), work)
    broken = [one for one in found if one.wrong is not None]
    if json:
        emit(found)
    else:
        for one in broken:
            told = escape(one.wrong or "")
            console.print(f"[red]segment {one.number}[/] ({one.first:,} to {one.last:,}): {told}")
        console.print(f"{len(found) - len(broken):,} of {len(found):,} segments are as sealed")
    if broken:
        raise typer.Exit(1)


@app.command()
def drop(
    before: Annotated[
        int | None, typer.Option(min=1, help="Segments that end before this position.")
    ] = None,
    older_than: Annotated[
        int | None,
        typer.Option(min=0, metavar="DAYS", help="Segments recorded longer ago than that."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Drop without asking.")] = False,
    json: Json = False,
) -> None:
    """Drop archived events from Postgres: from then on they stand in the archive only.

    Each segment is compared with Postgres first. The newest event of each stream stays.
    """
    if (before is None) == (older_than is None):
        raise CliError("say what: --before POSITION or --older-than DAYS")
    settings = Settings()

    def work(url: str) -> list[Dropped]:
        end = before if before is not None else _position(url, older_than or 0)
        planned = dropping.drop(url, end, needed, dry_run=True)
        if dry_run or not planned:
            return planned
        if not yes:
            gone = sum(one.gone for one in planned)
            typer.confirm(
                f"{gone:,} events of {len(planned):,} segments leave Postgres and stand in the "
                f"archive only. Drop them?",
                abort=True,
                err=True,
            )
        with bar("dropping", quiet=json) as update:
            return dropping.drop(url, end, needed, report=update)

    found = _with_database(settings, work)
    if json:
        emit(found)
    elif not found:
        console.print("no segment ends before that and is still in Postgres")
    else:
        rows = [
            (one.number, f"{one.first:,}", f"{one.last:,}", f"{one.gone:,}", f"{one.kept:,}")
            for one in found
        ]
        title = "Would be dropped" if dry_run else "Dropped"
        table(title, ("segment", "first", "last", "gone", "kept in Postgres"), rows)


@app.command()
def restore(
    number: Annotated[
        list[int] | None, typer.Option(help="Only this segment. May be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Put the events of dropped segments back into Postgres."""

    def work(url: str) -> list[int]:
        return [one.number for one in dropping.restore(url, number)]

    found = _with_database(Settings(), work)
    if json:
        emit(found)
    else:
        console.print(f"{len(found):,} segments are in Postgres again")


def _with_database(settings: Settings, work: Callable[[str], T]) -> T:
    with _explained(), database(settings) as url:
        return work(url)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        raise CliError(str(error)) from error


async def _every(url: str) -> list[ArchivedSegment]:
    async with application(url, pool_size=2) as app:
        return await _all(app)


async def _all(app: Application) -> list[ArchivedSegment]:
    found: list[ArchivedSegment] = []
    cursor: str | None = None
    while True:
        page = await archives.list_segments(app.log, cursor=cursor, limit=MAX_LIMIT)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def _position(url: str, days: int) -> int:
    """The first position that was recorded after so many days ago."""

    async def ask() -> int:
        async with application(url, pool_size=1) as app:
            return await app.log.position_at(datetime.now(UTC) - timedelta(days=days)) + 1

    return asyncio.run(ask())


def _show(title: str, found: list[ArchivedSegment]) -> None:
    rows = [
        (
            one.number,
            f"{one.first:,}",
            f"{one.last:,}",
            f"{one.recorded_from:%Y-%m-%d %H:%M}",
            f"{one.recorded_to:%Y-%m-%d %H:%M}",
            decimal(one.bytes),
            "yes" if one.sealed else "not yet",
            "" if one.dropped_at is None else f"{one.dropped_at:%Y-%m-%d %H:%M}",
        )
        for one in found
    ]
    columns = ("segment", "first", "last", "from", "to", "size", "sealed", "dropped")
    table(title, columns, rows)
