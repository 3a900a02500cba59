"""Read models: how far they are, rebuilding, rolling back, dead letters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Annotated, Any

import polars as pl
import psycopg
import typer
from rich.markup import escape

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, bar, console, emit, run, table
from chainlytics.cli.preview import add_to, keys_of, moment
from chainlytics.settings import Settings, organisation_id
from ml.catalogue import FEATURE_TABLES
from projections import dead_letters as letters
from projections import store
from projections.catalogue import TABLES
from projections.rebuild import (
    NotLive,
    rebuild_between,
    rebuild_keys,
    rebuild_organisation,
)
from projections.replay import NoSuchLetter, Replayed, replay
from projections.table import Table
from readmodels.positions import Positions, ProjectionState

app = typer.Typer(
    no_args_is_help=True,
    help="Read models: list, rebuild, roll back, replay dead letters, show the past, preview.",
)
add_to(app)
Name = Annotated[str, typer.Argument(help="A read model, as listed.")]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuild: events folded, or rows made again, and seconds taken."""

    name: str
    events: int | None
    rows: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rollback: the position that the table is at now."""

    name: str
    position: int


@app.command("list")
def list_projections(json: Json = False) -> None:
    """Say how far each read model is behind the log, and what state it is in."""

    async def work(app: Application, _: Settings) -> list[ProjectionState]:
        await app.projector.create()
        return await Positions(app.log, app.url).states()

    found = run(work)
    if json:
        emit(found)
        return
    columns = ("name", "state", "position", "behind", "events/s")
    lines = [_line(state) for state in found]
    table(f"Read models; the log's head is {found[0].head:,}", columns, lines, whole_first=True)
    for state in found:
        if state.rebuild is not None:
            rebuild = state.rebuild
            console.print(
                f"{state.name}: rebuilt beside as far as {rebuild.position:,} of {state.head:,}"
            )
        if state.dead_letters:
            console.print(f"{state.name}: {state.dead_letters:,} dead letters")
        if state.error:
            console.print(f"[red]{state.name}[/]: {escape(state.error)}")


def _line(state: ProjectionState) -> tuple[object, ...]:
    behind = f"{state.behind:,}"
    if state.behind:
        behind += f", {state.seconds_behind:,.0f} s"
    if state.behind and state.eta_s is not None:
        behind += f"; {timedelta(seconds=round(state.eta_s))} left"
    rate = None if state.rate is None else f"{state.rate:,.0f}"
    return state.name, state.state, f"{state.position:,}", behind, rate


@app.command()
def rebuild(
    names: Annotated[list[str] | None, typer.Argument(help="Names as listed.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Rebuild every read model.")] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Only this key: column=value,column=value. May be repeated."),
    ] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Only the rows of this organisation, by name or uuid.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only rows that events recorded since then touch: a position or a time."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="With --since: and not after that position or time.")
    ] = None,
    json: Json = False,
) -> None:
    """Fold the log into a new table beside the live one, then swap; or some of its rows in place.

    Readers go on all the while. One that was cut off goes on where it was; the former table is kept
    for `chainlytics projections rollback`.
    """
    chosen = list(TABLES) if all_of_them else names or []
    if not chosen:
        raise CliError(f"no projection is named; there are {', '.join(TABLES)}")
    tables = [_known(name) for name in chosen]
    if sum(map(bool, (key, organisation and not key, since))) > 1:
        raise CliError("--key, --organisation and --since are three ways: name one of them")
    if until and not since:
        raise CliError("--until needs --since")

    async def work(app: Application, settings: Settings) -> list[Rebuilt]:
        await app.projector.create()
        done = []
        whose = organisation_id(organisation or settings.organisation)
        for one in tables:
            start = perf_counter()
            made: int | None = None
            events: int | None = None
            with bar(f"rebuilding {one.name}", quiet=json) as update:
                if key:
                    wanted = pl.concat([keys_of(one, text, whose, whole=True) for text in key])
                    made = await rebuild_keys(app.url, one, wanted)
                elif since:
                    after, to = await _span(app, since, until)
                    made = await rebuild_between(app.url, one, after, to, update)
                elif organisation:
                    made = await rebuild_organisation(app.url, one, whose, update)
                else:
                    events = await app.projector.rebuild(one, update)
            done.append(Rebuilt(one.name, events, made, perf_counter() - start))
        return done

    try:
        found = run(work)
    except NotLive as error:
        raise CliError(str(error)) from error
    if json:
        emit(found)
        return
    for row in found:
        if row.events is None:
            console.print(f"{row.name}: {row.rows:,} rows made again in {row.seconds:.2f} s")
        else:
            rate = row.events / max(row.seconds, 1e-9)
            console.print(
                f"{row.name}: {row.events:,} events in {row.seconds:.2f} s, {rate:,.0f}/s"
            )


@app.command()
def rollback(name: Name, json: Json = False) -> None:
    """Put the table back that the last rebuild replaced. Twice is as not at all.

    A table of another declaration is held as it is until code with that declaration runs, or until
    it is rebuilt.
    """
    one = _known(name)

    async def work(app: Application, _: Settings) -> RolledBack:
        async with app.log.connection() as connection:
            return RolledBack(name, await store.roll_back(connection, one))

    try:
        found = run(work)
    except store.NothingToRollBack as error:
        raise CliError(str(error)) from error
    except psycopg.errors.LockNotAvailable as error:
        raise CliError(
            f"{name} is being read by a long query: try again when it is done"
        ) from error
    if json:
        emit(found)
    else:
        console.print(f"{name} is the former table again, at position {found.position:,}")


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="A read model that no code declares any more.")],
    json: Json = False,
) -> None:
    """Drop what is left of a read model that was taken out of the code. The log keeps all."""
    if name in TABLES or name in {one.name for one in FEATURE_TABLES}:
        raise CliError(f"{name} is declared: it would be made anew at the next start")

    async def work(app: Application, _: Settings) -> bool:
        async with app.log.connection() as connection:
            return await store.forget(connection, name)

    if not run(work):
        raise CliError(f"projection {name!r} is not known")
    if json:
        emit({"name": name, "dropped": True})
    else:
        console.print(f"{name} is dropped")


@app.command("dead-letters")
def dead_letters(
    name: Name,
    after: Annotated[int, typer.Option(min=0, help="Behind this position.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Letters shown.")] = 100,
    json: Json = False,
) -> None:
    """List the events that a read model could not fold, and those that wait for them."""
    _known(name)

    async def work(app: Application, _: Settings) -> list[letters.DeadLetter]:
        async with app.log.connection() as connection:
            return await letters.letters(connection, name, after=after, limit=limit)

    found = run(work)
    if json:
        emit(found)
    elif not found:
        console.print(f"{name} has no dead letters")
    else:
        columns = ("position", "topic", "keys", "error", "attempts", "parked")
        shown = [
            (
                letter.position,
                letter.topic,
                ", ".join(letter.keys),
                letter.error or "waits for an earlier event of its key",
                letter.attempts,
                f"{letter.parked_at:%Y-%m-%d %H:%M:%S}",
            )
            for letter in found
        ]
        table(f"Dead letters of {name}", columns, shown)


@app.command("replay")
def replay_letters(
    name: Name,
    position: Annotated[
        list[int] | None, typer.Option(help="Only the letter of this position. May be repeated.")
    ] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    json: Json = False,
) -> None:
    """Fold dead letters again, in the order of their keys, once what was wrong is mended."""
    one = _known(name)
    if bool(position) == all_of_them:
        raise CliError("say which: --position N (may be repeated), or --all")

    async def work(app: Application, _: Settings) -> Replayed:
        with bar(f"replaying {name}", quiet=json) as update:
            return await replay(app.url, one, positions=position, limit=limit, report=update)

    try:
        found = run(work)
    except NoSuchLetter as error:
        raise CliError(str(error)) from error
    if json:
        emit(found)
    else:
        console.print(
            f"{name}: {found.folded:,} folded, {found.failed:,} failed again, "
            f"{found.waiting:,} wait for those; {found.left:,} dead letters left"
        )
    if found.failed:
        raise typer.Exit(1)


def _known(name: str) -> Table:
    tables = {**TABLES, **{one.name: one for one in FEATURE_TABLES}}
    if name not in tables:
        raise CliError(f"projection {name!r} is not known; there are {', '.join(tables)}")
    return tables[name]


async def _span(app: Application, since: str, until: str | None) -> tuple[int, int]:
    """Positions behind which and up to which events count."""

    async def position(text: str, inside: Callable[[int], int]) -> int:
        at: Any = moment(text, "--since, --until")
        return await app.log.position_at(at) if isinstance(at, datetime) else inside(at)

    head = await app.log.head()
    after = await position(since, lambda at: at - 1)
    to = head if until is None else await position(until, lambda at: at)
    if not 0 <= after <= to <= head:
        raise CliError(f"--since and --until: the log goes from position 1 to {head:,}")
    return after, to
