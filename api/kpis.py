"""KPIs over HTTP: of orders by day, of decisions by kind."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import Cursor, Limit, reading
from api.errors import documented
from api.times import Day
from domain.values import Id
from readmodels import decisions, kpis
from readmodels.database import ReadModels
from readmodels.decisions import DecisionKpi
from readmodels.kpis import DailyKpi
from readmodels.page import Page

router = APIRouter(prefix="/kpis", tags=["kpis"])


@router.get("/daily", summary="Daily KPIs", responses=documented())
async def daily_kpis(
    read: Annotated[ReadModels, reading("kpis.daily", "daily_kpis")],
    first: Annotated[Day | None, Query(description="First day, included.")] = None,
    last: Annotated[Day | None, Query(description="Last day, included.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DailyKpi]:
    """Orders, deliveries, late share and revenue by the day that orders were placed (UTC)."""
    return await kpis.daily_kpis(read, first=first, last=last, cursor=cursor, limit=limit)


@router.get("/decisions", summary="KPIs of decisions", responses=documented())
async def decision_kpis(
    read: Annotated[ReadModels, reading("kpis.decisions", "decision_kpis")],
    kind: Annotated[Id | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DecisionKpi]:
    """What becomes of decisions, by kind: how many were made, referred, overridden, contested, and
    how often what the model warned of came true."""
    return await decisions.decision_kpis(read, kind=kind, cursor=cursor, limit=limit)
