"""What the command line shows: tables, bars with rate and time left, JSON for scripts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from chainlytics.application import Application, application, database
from chainlytics.settings import Settings

T = TypeVar("T")
_HASH = re.compile(r"^[0-9a-f]{64}$")

console = Console(highlight=False)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Organisation = Annotated[
    str | None,
    typer.Option("--organisation", help="Name or uuid; CHAINLYTICS_ORGANISATION by default."),
]


class CliError(Exception):
    """A mistake of the person at the command line, in one sentence."""


def complain(message: str) -> NoReturn:
    """Say what went wrong and end with exit code 1."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(1)


def run(
    work: Callable[[Application, Settings], Awaitable[T]], organisation: str | None = None
) -> T:
    """Run some work against the database of the settings."""
    settings = Settings()
    if organisation is not None:
        settings = settings.model_copy(update={"organisation": organisation})

    async def within(url: str) -> T:
        async with application(
            url,
            pool_size=settings.pool_size,
            master=settings.personal_key,
            api_url=settings.api_database_url,
        ) as app:
            return await work(app, settings)

    with database(settings) as url:
        return uvloop.run(within(url))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "-/s", style="cyan")


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with rate and time left; call it with what is done and what there is."""
    if quiet:
        yield lambda done, total: None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        # Unseen until there is something to show: an early error leaves no empty bar behind.
        task = progress.add_task(title, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    whole_first: bool = False,
) -> None:
    """Print rows; what is not known is left empty. ``whole_first``: the first column is not
    folded, however narrow the terminal."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        shown.add_column(column, overflow="fold", no_wrap=whole_first and number == 0)
    for row in rows:
        shown.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console.print(shown)


def rows(title: str, found: Sequence[BaseModel], json: bool, columns: Sequence[str] = ()) -> None:
    """Print rows as a table, or as JSON; all columns unless some are named."""
    if json:
        emit(list(found))
    elif not found:
        console.print(f"{title}: none yet")
    else:
        names = columns or list(type(found[0]).model_fields)
        table(title, names, [[_short(getattr(row, name)) for name in names] for row in found])


def _short(value: object) -> object:
    """A moment to the second, a number to four digits, a long hash by its start: as much as a
    person compares."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value[:12] if isinstance(value, str) and _HASH.match(value) else value


def emit(value: Any) -> None:
    """Print a value as JSON."""
    plain = partial(to_jsonable_python, bytes_mode="hex", fallback=str)
    typer.echo(json.dumps(value, default=plain, ensure_ascii=False, indent=2))
