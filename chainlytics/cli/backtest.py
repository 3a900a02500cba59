"""Backtests: decide past requests again by another model or other weights."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, run, table
from chainlytics.settings import Settings
from domain.decisions import Weights
from ml.backtest import NothingToCompare
from ml.backtest import backtest as compare
from ml.backtest_report import of_backtest
from ml.catalogue import KINDS
from ml.comparison import Backtest
from ml.deciding import Instead
from ml.kind import Kind
from ml.monitoring import NotMeasurable, model_of
from ml.report import Heading, Report, Rows, Text, as_html, write_markdown
from readmodels.past import NotAMoment, moment_of


def backtest(
    model: Annotated[
        str | None, typer.Option(help="Decide by this model: the start of its hash.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Decide by these weights: cost=1,risk_minor=5000,carbon_minor_per_kg=10; "
            "those left out are the kind's usual ones."
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="First log position of a request, or time recorded.")
    ] = "0",
    end: Annotated[
        str | None, typer.Option("--to", help="Last log position, or time; now by default.")
    ] = None,
    kind: Annotated[str, typer.Option(help="The kind of decision.")] = "fulfilment",
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a report with pictures: one file.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write it as Markdown, pictures as .svg beside it."),
    ] = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Decide past requests again by another model or other weights: what would change?

    Each is decided from what the log held at its own position. Nothing is written to the log.
    """
    if kind not in KINDS:
        raise CliError(f"kind {kind!r} is not known; there are {', '.join(KINDS)}")
    if model is None and weights is None:
        raise CliError("name another model (--model), other weights (--weights), or both")
    declared = KINDS[kind]
    other = None if weights is None else weights_of(weights, declared)

    async def work(app: Application, settings: Settings) -> Backtest:
        name = None
        if model is not None:
            name = await model_of(app.url, app.log, settings.organisation_id, model)
        first, last = await _position(app, start, first=True), await app.log.head()
        if end is not None:
            last = min(last, await _position(app, end, first=False))
        if first > last:
            raise CliError(f"--from {start} lies behind --to {end or last}")
        with bar("deciding again", quiet=json) as update:
            return await compare(
                app.url,
                app.log,
                app.artifacts,
                settings.organisation_id,
                declared,
                Instead(name, other),
                first,
                last,
                update,
            )

    try:
        found = run(work, organisation)
    except (NothingToCompare, NotAMoment, NotMeasurable) as error:
        raise CliError(str(error)) from error
    report = of_backtest(found)
    written = _write(report, html, markdown)
    if json:
        emit(found)
        return
    show_report(report)
    for file in written:
        console.print(f"written: {escape(str(file))}")


def weights_of(text: str, kind: Kind) -> Weights:
    """The weights that a text such as ``cost=1,risk_minor=5000`` names.

    Raises:
        CliError: a name or a value that weights cannot have.
    """
    given = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not equals or name.strip() not in Weights.model_fields:
            raise CliError(f"--weights: {pair!r} is none of {', '.join(Weights.model_fields)}=N")
        given[name.strip()] = value.strip()
    try:
        return Weights.model_validate(kind.subject.weights.model_dump() | given)
    except ValidationError as error:
        told = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise CliError(f"--weights: {told}") from error


async def _position(app: Application, text: str, *, first: bool) -> int:
    """The position that a position or a time names: the first at or behind it, or the last."""
    moment = moment_of(text, "--from" if first else "--to")
    if not isinstance(moment, datetime):
        return max(moment, 1) if first else moment
    if first:
        return await app.log.position_at(moment - timedelta(microseconds=1)) + 1
    return await app.log.position_at(moment)


def _write(report: Report, html: Path | None, markdown: Path | None) -> list[Path]:
    written = []
    try:
        if html is not None:
            html.write_text(as_html(report), encoding="utf-8")
            written.append(html)
        if markdown is not None:
            written += write_markdown(report, markdown)
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    return written


def show_report(report: Report) -> None:
    """Print a report without its pictures."""
    console.rule(f"[bold]{escape(report.title)}[/]", align="left")
    for block in report.blocks:
        match block:
            case Heading(text):
                console.print(f"\n[bold]{escape(text)}[/]")
            case Text(text):
                console.print(escape(text))
            case Rows(title, columns, rows, _):
                table(title, columns, rows)
