"""Tries a declaration on the log: for notebooks and the command line. Nothing is written.

from chainlytics.preview import preview
frame = preview(MY_TABLE)          # a polars frame of the rows that the table would have
"""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl

from chainlytics.application import Application, application, database
from chainlytics.settings import Settings, organisation_id
from projections import dead_letters
from projections.as_of import rows_as_of, running_as_of
from projections.reading import LogReader
from projections.table import Table
from readmodels.past import Past

Report = Callable[[int, int], None]


class NoDeclaration(Exception):
    """A file that declares no table, or not the one asked for."""


def preview(
    table: Table,
    *,
    organisation: str | None = None,
    as_of: int | str | datetime | None = None,
    effective_at: datetime | None = None,
    keys: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> pl.DataFrame:
    """The rows that a table would have, folded from the log of the settings' database.

    Args:
        table: the declaration.
        organisation: whose events, by name or uuid; the settings' by default.
        as_of: a log position or a time with zone; the end of the log by default.
        effective_at: only what counts from this moment or earlier, by the times of the declaration.
        keys: values of some key columns: only those rows.
        progress: show a bar while it works.

    Returns:
        A frame with the key's columns, the columns, ``last_position``, computed columns; sorted by
        key.

    Raises:
        NotAMoment: ``as_of`` or ``effective_at`` is none.
        NotInThePast: the log has not come to ``as_of``.
        NotByEffectiveTime: ``effective_at`` for a declaration without ``effective``.
        TypeError: ``keys`` names a column that is none of the key.
    """
    settings = Settings()
    whose = organisation_id(organisation or settings.organisation)

    async def work(app: Application, report: Report) -> pl.DataFrame:
        return await preview_rows(
            app,
            table,
            whose,
            as_of=as_of,
            effective_at=effective_at,
            keys=keys,
            report=report,
        )

    return _run(settings, f"folding {table.name}", work, progress)


def as_of_each(
    table: Table,
    probes: pl.DataFrame,
    *,
    organisation: str | None = None,
    progress: bool = True,
) -> pl.DataFrame:
    """The running form: what the table said about each of many keys, each at its own log position,
    in one pass over the log. The same as asking ``preview`` as of each of them.

    Args:
        table: the declaration.
        probes: the table's key columns (without ``organisation_id``) and ``position``; other
            columns are kept.
        organisation: whose events, by name or uuid; the settings' by default.
        progress: show a bar while it works.

    Returns:
        The probes in their order with the table's columns; ``last_position`` is null where there
        was no row.

    Raises:
        TypeError: the table has no running form, or a key column is missing in ``probes``.
    """
    table.check()
    settings = Settings()
    whose = organisation_id(organisation or settings.organisation)
    missing = [name for name in (*table.keys[1:], "position") if name not in probes.columns]
    if missing:
        raise TypeError(f"{table.name}: the probes have no column {missing[0]!r}")
    asked = probes.with_columns(pl.lit(str(whose)).alias("organisation_id")).cast(
        {name: table.types[name] for name in table.keys}
    )

    async def work(app: Application, report: Report) -> pl.DataFrame:
        async with LogReader(app.url) as reader:
            last = min(int(asked["position"].max() or 0), await app.log.head())  # type: ignore[arg-type]
            return await running_as_of(reader, table, asked, last, whose, report)

    return _run(settings, f"folding {table.name}", work, progress).drop("organisation_id")


def _run(
    settings: Settings,
    title: str,
    work: Callable[[Application, Report], Awaitable[pl.DataFrame]],
    progress: bool,
) -> pl.DataFrame:
    # The command line has this module's functions too: it is not there before it is loaded.
    from chainlytics.cli.console import bar

    async def within(url: str) -> pl.DataFrame:
        async with application(url, pool_size=2) as app:
            with bar(title, quiet=not progress) as report:
                return await work(app, report)

    # A notebook runs an event loop of its own in this thread.
    with database(settings) as url, ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, within(url)).result()


async def preview_rows(
    app: Application,
    table: Table,
    whose: UUID,
    *,
    as_of: int | str | datetime | None = None,
    effective_at: datetime | None = None,
    keys: Mapping[str, Any] | None = None,
    report: Report | None = None,
    parked: bool = False,
) -> pl.DataFrame:
    """As ``preview``, on an application that is open.

    ``parked``: leave out what the read model of this name could not fold, as its queries do.

    Raises:
        WrongDeclaration: before anything is read.
    """
    table.check()
    unknown = [name for name in keys or () if name not in table.keys[1:]]
    if unknown:
        raise TypeError(
            f"{table.name} has no key column {unknown[0]!r}; it has {', '.join(table.keys[1:])}"
        )
    moment = await Past(app.log, app.url).at(as_of, effective_at)
    wanted = None
    if keys:
        row = {"organisation_id": str(whose), **keys}
        wanted = pl.DataFrame([row], schema={name: table.types[name] for name in row})
    async with LogReader(app.url) as reader, app.log.connection() as connection:
        letters = await dead_letters.parked_positions(connection, table) if parked else []
        rows = await rows_as_of(
            reader,
            table,
            moment.position,
            organisation_id=whose,
            keys=wanted,
            effective_at=moment.effective_at,
            parked=letters,
            report=report,
        )
    hidden = [name for name in rows.columns if name.endswith("__seen")]
    return rows.drop("organisation_id", *hidden).sort(table.keys[1:])


def load(file: Path, name: str | None = None) -> list[Table]:
    """The tables that a Python file declares, or the one of that name. The file is run: it may do
    all that its user may.

    Raises:
        NoDeclaration: it declares none, or not that one.
        WrongDeclaration: one that is asked for cannot work.
    """
    found: dict[str, Table] = {}
    for value in runpy.run_path(str(file)).values():
        if isinstance(value, Table):
            found[value.name] = value
    if name is not None and name not in found:
        told = f"it declares {', '.join(found)}" if found else "it declares no table"
        raise NoDeclaration(f"{file}: there is no table {name!r}; {told}")
    if not found:
        raise NoDeclaration(f"{file}: no table is declared: assign a Table to a name")
    asked = [found[name]] if name is not None else list(found.values())
    for table in asked:
        table.check()
    return asked
