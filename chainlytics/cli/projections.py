"""Read models: how far they are, rebuilding them."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, bar, console, emit, rows, run
from chainlytics.settings import Settings
from projections.catalogue import TABLES
from readmodels.positions import Positions, ProjectionState

app = typer.Typer(no_args_is_help=True, help="Read models: list and rebuild.")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuild: events folded and seconds taken."""

    name: str
    events: int
    seconds: float


@app.command("list")
def list_projections(json: Json = False) -> None:
    """Say how far each read model is behind the log."""

    async def work(app: Application, _: Settings) -> list[ProjectionState]:
        await app.projector.prepare()
        return await Positions(app.log, app.url).states()

    columns = ("name", "position", "behind", "diverged", "updated_at", "error")
    rows("Projections", run(work), json, columns)


@app.command()
def rebuild(
    names: Annotated[list[str] | None, typer.Argument(help="Names as listed.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Rebuild every read model.")] = False,
    json: Json = False,
) -> None:
    """Fold the whole log into a new table beside the live one, then swap."""
    chosen = list(TABLES) if all_of_them else names or []
    unknown = [name for name in chosen if name not in TABLES]
    if unknown or not chosen:
        what = f"projection {unknown[0]!r} is not known" if unknown else "no projection is named"
        raise CliError(f"{what}; there are {', '.join(TABLES)}")

    async def work(app: Application, _: Settings) -> list[Rebuilt]:
        await app.projector.prepare()
        done = []
        for name in chosen:
            start = perf_counter()
            with bar(f"rebuilding {name}", quiet=json) as update:
                events = await app.projector.rebuild(TABLES[name], update)
            done.append(Rebuilt(name, events, perf_counter() - start))
        return done

    found = run(work)
    if json:
        emit(found)
        return
    for row in found:
        rate = row.events / max(row.seconds, 1e-9)
        console.print(f"{row.name}: {row.events:,} events in {row.seconds:.2f} s, {rate:,.0f}/s")
