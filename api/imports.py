"""Imports of entities: a CSV file in, and row by row what did not go in, at once.

Small files; for larger ones, and for other data sets, there are uploads and the import task.
"""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from fastapi import HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from api.dependencies import Parts, allowed
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from commands.context import Rights
from commands.importer import SourcesUnusable, import_directory
from commands.mapping import Mapping, read_mapping, shipped_mappings
from domain.errors import Refused

router = Router("/imports", tags=["imports"])

#: What can be imported, each by the mapping of its name.
Entity = Literal["products", "sites", "clients", "vehicles", "stock", "assignments", "orders"]
#: Rows that are told of; the rest is counted.
MOST_ERRORS = 1000
_AT_ONCE = asyncio.Semaphore(2)


class ImportColumn(BaseModel):
    """A column of a file."""

    name: str = Field(examples=["sku"])
    holds: str = Field(examples=["id"], description="id, text, time, money, number or integer.")
    required: bool = Field(description="Whether the file must have it.")
    may_be_empty: bool


class ImportableEntity(BaseModel):
    """An entity that can be imported, and the columns of its file."""

    entity: str = Field(examples=["products"])
    title: str
    commands: list[str] = Field(description="What each row becomes.")
    columns: list[ImportColumn]


class ImportList(BaseModel):
    """What can be imported."""

    items: list[ImportableEntity]


class RowError(BaseModel):
    """A row, or a cell of it, that did not go in."""

    line: int = Field(description="As an editor counts: the head is line 1.")
    column: str
    value: str
    rule: str = Field(examples=["missing"])
    reason: str


class ImportResult(BaseModel):
    """What became of a file. With ``dry_run``, what would have."""

    entity: str
    dry_run: bool
    rows: int
    accepted: int = Field(description="Commands that were stored, or would be.")
    known_before: int = Field(description="Rows that were imported before, word for word.")
    rejected: int
    errors: list[RowError] = Field(description=f"The first {MOST_ERRORS}.")
    errors_left_out: int


def _mapping(entity: str) -> Mapping:
    return read_mapping(shipped_mappings()[entity])


@router.get("", summary="List what can be imported", responses=documented())
async def list_imports(_: Annotated[Identity, allowed("imports.run")]) -> ImportList:
    """The entities, and the columns of each one's file."""
    items = []
    for entity in Entity.__args__:  # type: ignore[attr-defined]
        mapping = _mapping(entity)
        [source] = mapping.files.values()
        items.append(
            ImportableEntity(
                entity=entity,
                title=mapping.title,
                commands=[step.command for step in mapping.steps],
                columns=[
                    ImportColumn(
                        name=name,
                        holds=column.kind,
                        required=not column.absent,
                        may_be_empty=column.optional,
                    )
                    for name, column in source.columns.items()
                ],
            )
        )
    return ImportList(items=items)


@router.get(
    "/{entity}/template.csv",
    summary="Fetch an empty file of an entity",
    response_class=Response,
    responses=documented() | {200: {"content": {"text/csv": {}}, "description": "The head."}},
)
async def get_import_template(
    entity: Entity, _: Annotated[Identity, allowed("imports.run")]
) -> Response:
    """The head of the file, with all columns; those that are not required may be left out."""
    [source] = _mapping(entity).files.values()
    headers = {"Content-Disposition": f'attachment; filename="{entity}.csv"'}
    return Response(",".join(source.columns) + "\n", media_type="text/csv", headers=headers)


@router.post(
    "/{entity}",
    summary="Import a CSV file of an entity",
    responses=documented(400, 408, 409, 413, 415),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file, with a head; a megabyte at the most.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    },
)
async def import_entity(
    entity: Entity,
    request: Request,
    deps: Parts,
    caller: Annotated[Identity, allowed("imports.run")],
    dry_run: Annotated[
        bool, Query(description="Only say what would go in and what would not; store nothing.")
    ] = False,
) -> ImportResult:
    """Each row becomes a command of the caller's, checked as any other; a row that is refused does
    not hold up the rest. A file that was imported before adds nothing when it is sent again; a row
    that was changed since is told as `command.reused`: facts are corrected by new facts."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "text/csv":
        raise HTTPException(415, f"the body must be text/csv, not {media[:80] or 'without a type'}")
    body = await request.body()
    if not body:
        raise HTTPException(400, "the body is empty: it is to be the file")
    mapping = _mapping(entity)
    [source] = mapping.files.values()

    async def rights() -> Rights:
        return Rights(caller.roles, caller.scopes)

    async with _AT_ONCE:
        with TemporaryDirectory(prefix="chainlytics-import-") as folder:
            (FilePath(folder) / source.file).write_bytes(body)
            rejects = FilePath(folder) / "rejects"
            try:
                report = await import_directory(
                    deps.bus,
                    mapping,
                    FilePath(folder),
                    organisation_id=caller.organisation_id,
                    actor=caller.actor,
                    rejects=rejects,
                    ask_rights=rights,
                    dry_run=dry_run,
                )
            except SourcesUnusable as error:
                [first, *_] = error.errors
                raise Refused(
                    "import.file_unusable", file=first.file, rule=first.rule, detail=first.detail
                ) from error
            errors = _told(rejects)
    return ImportResult(
        entity=entity,
        dry_run=dry_run,
        rows=sum(report.rows.values()),
        accepted=report.progress.stored,
        known_before=report.progress.repeated,
        rejected=report.progress.rejected + sum(report.rejected_rows.values()),
        errors=errors[:MOST_ERRORS],
        errors_left_out=max(0, len(errors) - MOST_ERRORS),
    )


def _told(rejects: FilePath) -> list[RowError]:
    """By their lines: rules look at files in another order."""
    with rejects.open(encoding="utf-8", newline="") as file:
        errors = [
            RowError(
                line=int(row["line"]),
                column=row["column"],
                value=row["value"],
                rule=row["rule"],
                reason=row["reason"],
            )
            for row in csv.DictReader(file)
        ]
    return sorted(errors, key=lambda error: error.line)
