"""Tables of the past, and declarations that are only tried."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import polars as pl
import typer

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, run, table
from chainlytics.preview import NoDeclaration, load, preview_rows
from chainlytics.settings import Settings
from ml.catalogue import FEATURE_TABLES
from projections.catalogue import TABLES
from projections.schema import EXACT, MOMENT
from projections.table import Table, WrongDeclaration
from readmodels.past import NotAMoment, NotByEffectiveTime, NotInThePast, moment_of

_As_of = Annotated[
    str | None,
    typer.Option("--as-of", help="As of this log position, or time (2026-03-31T23:59:59Z)."),
]
_Effective = Annotated[
    str | None,
    typer.Option(help="Only what counts from this time or earlier, where the table knows such."),
]
_Key = Annotated[str | None, typer.Option(help="Only these rows: column=value,column=value.")]
_Limit = Annotated[int, typer.Option(min=1, help="Rows shown; a file gets all of them.")]
_Out = Annotated[
    Path | None, typer.Option(help="Write all rows to this .csv, .json, .ndjson or .parquet file.")
]


def add_to(app: typer.Typer) -> None:
    """Put the commands beside the others of read models."""
    app.command()(show)
    app.command()(preview)


def show(
    name: Annotated[str, typer.Argument(help="A read model, as listed.")],
    as_of: _As_of = None,
    effective_at: _Effective = None,
    key: _Key = None,
    limit: _Limit = 20,
    out: _Out = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Show what a read model says, or said as of any day, folded from the log."""
    tables = {**TABLES, **{one.name: one for one in FEATURE_TABLES}}
    if name not in tables:
        raise CliError(f"projection {name!r} is not known; there are {', '.join(tables)}")
    _fold([tables[name]], as_of, effective_at, key, limit, out, organisation, json, parked=True)


def preview(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Python that declares tables.")
    ],
    name: Annotated[str | None, typer.Option("--table", help="Which of its tables.")] = None,
    as_of: _As_of = None,
    effective_at: _Effective = None,
    key: _Key = None,
    limit: _Limit = 20,
    out: _Out = None,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Try a declaration on the log: nothing is written. See docs/analysts.md.

    The file is run as any Python program: it may do all that you may.
    """
    try:
        tables = load(file, name)
    except (NoDeclaration, WrongDeclaration) as error:
        raise CliError(str(error)) from error
    except Exception as error:
        raise CliError(f"{file}: {type(error).__name__}: {error}") from error
    if out is not None and len(tables) > 1:
        raise CliError(f"{file} declares {len(tables)} tables: name one with --table")
    _fold(tables, as_of, effective_at, key, limit, out, organisation, json)


def _fold(
    tables: list[Table],
    as_of: str | None,
    effective_at: str | None,
    key: str | None,
    limit: int,
    out: Path | None,
    organisation: str | None,
    json: bool,
    *,
    parked: bool = False,
) -> None:
    when = None if as_of is None else moment(as_of)
    effective = None if effective_at is None else moment(effective_at, "--effective-at")
    if isinstance(effective, int):
        raise CliError("--effective-at: a time is needed, as in 2026-03-31T23:59:59Z")
    if out is not None and out.suffix not in _WRITERS:
        raise CliError(f"--out: {out.name!r} must end in {', '.join(_WRITERS)}")

    async def work(app: Application, settings: Settings) -> list[pl.DataFrame]:
        found = []
        for one in tables:
            keys = None
            if key is not None:
                values = keys_of(one, key, settings.organisation_id).row(0, named=True)
                keys = {name: value for name, value in values.items() if name != "organisation_id"}
            with bar(f"folding {one.name}", quiet=json) as report:
                found.append(
                    await preview_rows(
                        app,
                        one,
                        settings.organisation_id,
                        as_of=when,
                        effective_at=effective,
                        keys=keys,
                        report=report,
                        parked=parked,
                    )
                )
        return found

    try:
        frames = run(work, organisation)
    except (NotInThePast, NotByEffectiveTime) as error:
        raise CliError(str(error)) from error
    if json:
        emit({one.name: frame.to_dicts() for one, frame in zip(tables, frames, strict=True)})
    for one, frame in zip(tables, frames, strict=True):
        if out is not None:
            _WRITERS[out.suffix](frame, out)
        if not json:
            shown = [[_cell(value) for value in row] for row in frame.head(limit).iter_rows()]
            more = f", the first {limit:,}" if frame.height > limit else ""
            noun = "row" if frame.height == 1 else "rows"
            table(f"{one.name}: {frame.height:,} {noun}{more}", frame.columns, shown)
            if out is not None:
                console.print(f"all of them are in {out}")


_WRITERS: dict[str, Any] = {
    ".csv": lambda frame, file: _flat(frame).write_csv(file),
    ".json": lambda frame, file: frame.write_json(file),
    ".ndjson": lambda frame, file: frame.write_ndjson(file),
    ".parquet": lambda frame, file: frame.write_parquet(file),
}


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame whose nested columns are JSON text: CSV knows no others."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    return frame.with_columns(pl.struct(name).struct.json_encode().alias(name) for name in nested)


def _cell(value: object) -> object:
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value


def moment(text: str, option: str = "--as-of") -> int | datetime:
    """The position or time that an option names."""
    try:
        return moment_of(text, option)
    except NotAMoment as error:
        raise CliError(str(error)) from error


def keys_of(one: Table, text: str, organisation: UUID, *, whole: bool = False) -> pl.DataFrame:
    """The key columns that ``column=value,column=value`` names, in a frame of one row; with
    ``whole`` it must name all of them."""
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or name not in one.keys[1:]:
            told = ", ".join(f"{column}=..." for column in one.keys[1:])
            raise CliError(f"--key: {part!r} names no key column of {one.name}; write {told}")
        values[name] = _typed(one, name, value)
    missing = [name for name in one.keys[1:] if name not in values]
    if whole and missing:
        raise CliError(f"--key: {text!r} does not name {missing[0]!r}, which {one.name} needs")
    row = {"organisation_id": str(organisation), **values}
    return pl.DataFrame([row], schema={name: one.types[name] for name in row})


def _typed(one: Table, name: str, text: str) -> Any:
    dtype = one.types[name]
    try:
        if dtype == pl.Int64():
            return int(text)
        if dtype == EXACT:
            return Decimal(text)
        if dtype == pl.Date():
            return date.fromisoformat(text)
        if dtype == MOMENT:
            return datetime.fromisoformat(text)
        if dtype == pl.Boolean():
            return {"true": True, "false": False}[text]
    except (ValueError, KeyError, InvalidOperation) as error:
        raise CliError(f"--key: {name} is a {dtype}, {text!r} is none") from error
    return text
