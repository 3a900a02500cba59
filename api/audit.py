"""The audit trail over HTTP."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from api.dependencies import Cursor, Limit, either, reading
from api.errors import documented
from domain.catalogue import AREAS
from readmodels import audit
from readmodels.audit import AuditLine
from readmodels.database import ReadModels
from readmodels.page import Page

router = APIRouter(tags=["audit"])


@router.get("/audit", summary="Read the audit trail", responses=documented())
async def audit_trail(
    read: Annotated[ReadModels, reading("audit.trail", "audit_trail")],
    area: Annotated[str | None, Query(pattern=either(list(AREAS)))] = None,
    stream_id: Annotated[UUID | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[AuditLine]:
    """Every event as a readable line, in log order. For admins and auditors."""
    return await audit.audit_trail(read, area=area, stream_id=stream_id, cursor=cursor, limit=limit)
