"""Tariffs and emission factors as they hold."""

from __future__ import annotations

from domain.tariffs import EmissionFactorSet, TariffSet
from projections.fold import last
from projections.table import Table

TARIFF_LIST = Table(
    name="tariff_list",
    key={TariffSet: ("mode",)},
    columns={
        name: last({TariffSet: name})
        for name in (
            *("version", "currency", "fixed_minor", "per_km_minor", "per_hour_minor"),
            *("per_stop_minor", "toll_per_km_minor", "source", "set_by", "set_at"),
        )
    },
)

EMISSION_FACTOR_LIST = Table(
    name="emission_factor_list",
    key={EmissionFactorSet: ("mode", "fuel")},
    columns={
        name: last({EmissionFactorSet: name})
        for name in (
            *("version", "empty_mg_per_km", "full_mg_per_km", "source", "set_by", "set_at"),
        )
    },
)

TABLES = (TARIFF_LIST, EMISSION_FACTOR_LIST)
