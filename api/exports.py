"""Exports: a whole read model as CSV or Excel, streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Depends, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.dependencies import Caller, NotAllowed, NotFound, Parts, allowed, may_ask, reading
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from projections.catalogue import TABLES
from readmodels.database import ReadModels
from readmodels.exports import EXPORTS, Format, columns_of, wanted

router = Router("/exports", tags=["exports"])

_TYPES = {
    "csv": "text/csv; charset=utf-8; header=present",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class Exportable(BaseModel):
    """A read model that can be exported."""

    name: str = Field(examples=["order_summary"])
    columns: list[str] = Field(examples=[["order_id", "status"]])
    by_effective_time: bool = Field(description="Whether `effective_at` may be asked for.")


class ExportList(BaseModel):
    """What the caller may export."""

    items: list[Exportable]


async def _until_sent() -> AsyncIterator[AsyncExitStack]:
    """What is open until the answer was sent, or nobody takes it any more."""
    async with AsyncExitStack() as stack:
        yield stack


@router.get("", summary="List what can be exported", responses=documented())
async def list_exports(
    caller: Annotated[Identity, allowed("exports.read")],
) -> ExportList:
    """The read models that the caller may export, with their columns."""
    return ExportList(
        items=[
            Exportable(
                name=name,
                columns=list(columns_of(TABLES[name])),
                by_effective_time=bool(TABLES[name].effective),
            )
            for name, query in EXPORTS.items()
            if may_ask(query, caller)
        ]
    )


@router.get(
    "/{read_model}",
    summary="Export a read model",
    response_class=Response,
    responses=documented(404, 503)
    | {
        200: {
            "content": {
                "text/csv": {},
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": {},
            },
            "description": "The rows in the order of their key.",
        }
    },
)
async def export(
    read_model: Annotated[str, Path(pattern="^[a-z][a-z0-9_]{0,49}$")],
    deps: Parts,
    caller: Caller,
    response: Response,
    read: Annotated[ReadModels, reading("exports.read")],
    stack: Annotated[AsyncExitStack, Depends(_until_sent)],
    format: Annotated[Format, Query(description="CSV, or an Excel workbook.")] = "csv",
    columns: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=2000,
            description="Only these columns, in this order, with commas between them.",
            examples=["order_id,status"],
        ),
    ] = None,
    where: Annotated[
        list[Annotated[str, Field(min_length=2, max_length=300)]] | None,
        Query(
            max_length=10,
            description="`column:value`: only rows with this value; may be said several times.",
            examples=[["status:placed"]],
        ),
    ] = None,
    raw: Annotated[
        bool,
        Query(
            description="In CSV a text that a spreadsheet would take for a formula gets an "
            "apostrophe in front; true: it is left as it is."
        ),
    ] = False,
) -> StreamingResponse:
    """All rows of a read model, now or `as_of` any time, as they are read: of any size. Whoever may
    list them may export them. What is cut off in the middle is not complete: the connection then
    ends without its proper end."""
    query = EXPORTS.get(read_model)
    if query is None:
        raise NotFound("read model", read_model, "cannot be exported or is not known")
    if not may_ask(query, caller):
        raise NotAllowed(query, caller)
    names = [name.strip() for name in columns.split(",")] if columns is not None else []
    what = wanted(read_model, names, where or [])
    # Entered here, so that what stands in its way is told as an error, not as half a file.
    blocks = await stack.enter_async_context(deps.exports.open(read, what, format, raw=raw))
    headers = {
        "Content-Disposition": f'attachment; filename="{read_model}.{format}"',
        "X-Content-Type-Options": "nosniff",
        **{name: value for name, value in response.headers.items() if name == "as-of-position"},
    }
    return StreamingResponse(blocks, media_type=_TYPES[format], headers=headers)
