"""Tariffs over HTTP: what tours cost and emit, as set or by default."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, reading
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.routers import Router
from commands.tariffs import emission_stream, tariff_stream
from domain.tariffs import SetEmissionFactor, SetTariff
from domain.vehicle_kinds import Fuel, Mode
from readmodels import tariffs
from readmodels.database import ReadModels
from readmodels.page import Page
from readmodels.tariffs import EmissionFactorRow, TariffRow

router = Router("/tariffs", tags=["tariffs"])

POSTS = (
    Post(
        "/modes/{mode}",
        SetTariff,
        "Set what vehicles of a mode cost",
        now=("set_at",),
        example={
            "currency": "EUR",
            "fixed_minor": 2500,
            "per_km_minor": 35,
            "per_hour_minor": 3000,
            "source": "our carriers' contract of 2026",
        },
    ),
    Post(
        "/emissions/{mode}/{fuel}",
        SetEmissionFactor,
        "Set what vehicles of a mode and fuel emit",
        now=("set_at",),
        example={
            "empty_mg_per_km": 260_000,
            "full_mg_per_km": 330_000,
            "source": "our own measurements of 2025",
        },
    ),
)
mount(router, POSTS)


@router.get("/modes", summary="List tariffs", responses=documented())
async def list_tariffs(
    read: Annotated[ReadModels, reading("tariffs.list", "tariff_list")],
) -> list[TariffRow]:
    """The tariff of each mode: as set, or the default with its source."""
    return await tariffs.list_tariffs(read)


@router.get("/emissions", summary="List emission factors", responses=documented())
async def list_emission_factors(
    read: Annotated[ReadModels, reading("tariffs.emissions", "emission_factor_list")],
) -> list[EmissionFactorRow]:
    """What each mode emits with each fuel: as set, or the default with its source."""
    return await tariffs.list_emission_factors(read)


@router.get("/modes/{mode}/history", summary="Read a tariff's history", responses=documented(404))
async def get_tariff_history(
    mode: Annotated[Mode, Path()],
    read: Annotated[ReadModels, reading("tariffs.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """How a mode's tariff was set; not found where the default holds."""
    return await history_of(read, tariff_stream(mode), "tariff", mode, cursor, limit)


@router.get(
    "/emissions/{mode}/{fuel}/history",
    summary="Read an emission factor's history",
    responses=documented(404),
)
async def get_emission_factor_history(
    mode: Annotated[Mode, Path()],
    fuel: Annotated[Fuel, Path()],
    read: Annotated[ReadModels, reading("tariffs.emission_history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """How an emission factor was set; not found where the default holds."""
    stream = emission_stream(mode, fuel)
    return await history_of(read, stream, "emission factor", f"{mode}/{fuel}", cursor, limit)
