"""Imports: data sets as commands through the one bus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chainlytics.application import Application
from chainlytics.cli.console import CliError, Json, Organisation, bar, console, emit, run, table
from chainlytics.settings import Settings, operator
from commands.bulk import Progress
from commands.importer import ImportReport, SourcesUnusable, import_directory
from commands.mapping import MappingError, read_mapping, shipped_mappings


def import_data(
    mapping: Annotated[
        str, typer.Argument(help="A shipped mapping (olist) or the path of a mapping file (.toml).")
    ],
    directory: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Where the CSV files are.")
    ],
    rejects: Annotated[
        Path | None, typer.Option(help="Where rejected rows are told; MAPPING-rejects.csv.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go in; store nothing.")
    ] = False,
    organisation: Organisation = None,
    json: Json = False,
) -> None:
    """Bring a data set in. Broken rows are told in a file; importing twice adds nothing."""
    shipped = shipped_mappings()
    path = shipped.get(mapping, Path(mapping))
    if not path.is_file():
        raise CliError(
            f"mapping {mapping!r}: neither a shipped one ({', '.join(shipped)}) nor a file"
        )
    try:
        declared = read_mapping(path)
    except MappingError as error:
        raise CliError(str(error)) from error
    target = rejects or Path(f"{declared.name}-rejects.csv")

    async def work(app: Application, settings: Settings) -> ImportReport:
        with bar(f"importing {declared.name}", quiet=json) as update:

            def show(progress: Progress) -> None:
                update(progress.done, progress.total)

            return await import_directory(
                app.bus,
                declared,
                directory,
                organisation_id=settings.organisation_id,
                actor=operator(),
                rejects=target,
                on_progress=show,
                dry_run=dry_run,
            )

    try:
        report = run(work, organisation)
    except SourcesUnusable as error:
        raise CliError(str(error)) from error
    if json:
        emit(report)
        return
    table(
        f"{'Would import' if dry_run else 'Imported'} {declared.name}",
        ("file", "rows", "rejected"),
        [(file, f"{n:,}", report.rejected_rows.get(file, 0)) for file, n in report.rows.items()],
    )
    progress = report.progress
    done = "would be stored" if dry_run else "stored"
    console.print(
        f"{progress.total:,} commands: [green]{progress.stored:,} {done}[/], "
        f"{progress.repeated:,} known before, {progress.rejected:,} rejected; "
        f"{report.seconds:.1f} s, {report.per_second:,.0f} commands/s"
    )
    if not report.reject_lines:
        report.rejects.unlink(missing_ok=True)
    else:
        console.print(f"what was rejected and why: {report.rejects}")
