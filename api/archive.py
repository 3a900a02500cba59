"""The archive over HTTP."""

from __future__ import annotations

from typing import Annotated

from api.dependencies import Cursor, Limit, Parts, allowed
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from readmodels import archive
from readmodels.archive import ArchivedSegment
from readmodels.page import Page

router = Router("/archive", tags=["archive"])


@router.get("/segments", summary="List the archive's segments", responses=documented())
async def list_segments(
    deps: Parts,
    _: Annotated[Identity, allowed("archive.segments")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ArchivedSegment]:
    """The sealed ranges of the log that stand in the archive, with the hash of each of their files.
    For admins and auditors."""
    return await archive.list_segments(deps.log, cursor=cursor, limit=limit)
