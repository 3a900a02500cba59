"""Tariffs and emission factors: what an organisation has set, and the defaults beside it."""

from __future__ import annotations

from datetime import datetime

from domain.factors import (
    CONSUMPTION,
    CONSUMPTION_SOURCE,
    COST_CURRENCY,
    COST_SOURCE,
    ENERGY,
    RATES,
    emission,
)
from readmodels.database import ReadModels, Row

_TARIFFS = """SELECT mode, version, currency, fixed_minor, per_km_minor, per_hour_minor,
    per_stop_minor, toll_per_km_minor, source, 'set' AS basis, set_by, set_at
    FROM read_models.tariff_list WHERE organisation_id = %(organisation_id)s"""

_FACTORS = """SELECT mode, fuel, version, empty_mg_per_km, full_mg_per_km, source, 'set' AS basis,
    set_by, set_at FROM read_models.emission_factor_list
    WHERE organisation_id = %(organisation_id)s"""


class TariffRow(Row):
    """What vehicles of a mode cost, in minor units. ``basis``: "set" by the organisation, or what
    the default is worth: "published" or "estimate"."""

    mode: str
    version: int = 0
    currency: str
    fixed_minor: int
    per_km_minor: int
    per_hour_minor: int
    per_stop_minor: int
    toll_per_km_minor: int
    source: str
    basis: str
    set_by: str | None = None
    set_at: datetime | None = None


class EmissionFactorRow(Row):
    """What vehicles of a mode and fuel emit well to wheel, in milligrams of CO2e a kilometre."""

    mode: str
    fuel: str
    version: int = 0
    empty_mg_per_km: int
    full_mg_per_km: int
    source: str
    basis: str
    set_by: str | None = None
    set_at: datetime | None = None


async def list_tariffs(read: ReadModels) -> list[TariffRow]:
    """The tariff of each mode, by mode."""
    found = {row.mode: row for row in await read.rows(TariffRow, _TARIFFS)}
    defaults = {
        mode: TariffRow(
            mode=mode,
            currency=COST_CURRENCY,
            source=COST_SOURCE.text,
            basis=COST_SOURCE.basis,
            **rates.model_dump(),
        )
        for mode, rates in RATES.items()
    }
    return [row for _, row in sorted((defaults | found).items())]


async def list_emission_factors(read: ReadModels) -> list[EmissionFactorRow]:
    """What each mode emits with each fuel, by both."""
    found = {(row.mode, row.fuel): row for row in await read.rows(EmissionFactorRow, _FACTORS)}
    defaults: dict[tuple[str, str], EmissionFactorRow] = {}
    for mode, fuel in CONSUMPTION:
        emitted = emission(mode, fuel)
        if emitted is not None:
            energy = ENERGY["diesel" if fuel == "hybrid" else fuel]
            defaults[mode, fuel] = EmissionFactorRow(
                mode=mode,
                fuel=fuel,
                source=f"{CONSUMPTION_SOURCE.text} Fuel: {energy.source.text}",
                basis="estimate",  # as the weaker of its two parts
                **emitted.model_dump(),
            )
    return [row for _, row in sorted((defaults | found).items())]
