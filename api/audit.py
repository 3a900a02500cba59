"""The audit trail, and how far read models are, over HTTP."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from api.dependencies import Cursor, Limit, Parts, allowed, either, reading
from api.errors import documented
from api.tokens import Identity
from domain.catalogue import AREAS
from readmodels import audit
from readmodels.audit import AuditLine
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.positions import ProjectionState

router = APIRouter(tags=["audit"])


class Projections(BaseModel):
    """Every read model and how far it is."""

    items: list[ProjectionState]


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


@router.get("/projections", summary="How far read models are", responses=documented())
async def list_projections(
    deps: Parts, _: Annotated[Identity, allowed("projections.list")]
) -> Projections:
    """Position, head and events behind of each read model; the error of one that stands still."""
    return Projections(items=await deps.positions.states())
