"""Uploads: files on their way into an import; streamed, bounded, without a name."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Annotated

from fastapi import HTTPException, Request
from pydantic import BaseModel, Field

from api.dependencies import Parts, allowed
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from domain.errors import Refused
from eventstore.uploads import NoRoom

router = Router("/uploads", tags=["tasks"])

#: Where files are uploaded, behind the API's prefix: bodies there may be larger than elsewhere.
PATH = "/uploads"
#: Bytes that no setting allows more than.
MOST = 256 << 20
_GZIP = b"\x1f\x8b"
#: How long a sender may take, in seconds.
_PATIENCE_S = 600.0
#: So much stays in memory; the rest goes to a file without a name.
_IN_MEMORY = 1 << 20


class StoredUpload(BaseModel):
    """A file that can be named in an import, for a day at the most."""

    upload_id: str = Field(examples=["0f8fad5b-d9cb-469f-a165-70867728950e"])
    bytes: int
    sha256: str


@router.post(
    "",
    status_code=201,
    summary="Upload a file to be imported",
    responses=documented(400, 408, 409, 411, 413, 415),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file as it is, not packed.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "text/csv": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
)
async def create_upload(
    request: Request,
    deps: Parts,
    caller: Annotated[Identity, allowed("uploads.create")],
) -> StoredUpload:
    """The body is the file. It has no name: an import says which of its mapping's files it is. It
    is deleted when the import ends, and after a day if there is none."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        size = 0
        try:
            async with asyncio.timeout(_PATIENCE_S):
                async for part in request.stream():
                    if not size and part.startswith(_GZIP):
                        raise HTTPException(415, "the file is compressed: send it plain")
                    size += len(part)
                    if size > deps.upload_bytes:
                        told = f"the file is larger than {deps.upload_bytes:,} bytes"
                        raise HTTPException(413, told)
                    await asyncio.to_thread(file.write, part)
        except TimeoutError:
            raise HTTPException(408, f"the file took longer than {_PATIENCE_S:.0f} s") from None
        if not size:
            raise HTTPException(400, "the body is empty: it is to be the file")
        file.seek(0)
        try:
            stored = await deps.uploads.put(caller.organisation_id, caller.actor, file)
        except NoRoom as error:
            raise Refused("upload.no_room", waiting=error.waiting, most=error.most) from error
    return StoredUpload(**stored._asdict())
