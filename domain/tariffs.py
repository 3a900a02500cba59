"""Tariffs: what an organisation reckons tours with, in the place of the defaults.

A tariff holds for a mode of vehicles, an emission factor for a mode and a fuel; each names its
source. What a vehicle itself is said to cost counts before its mode's tariff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.routing import Emission, Rates
from domain.values import Command, Currency, Event, Text, UtcTime
from domain.vehicle_kinds import Fuel, Mode

_Rate = Annotated[int, Field(ge=0, le=10**9)]
#: Milligrams of CO2e a kilometre: a ton of it a kilometre is more than any vehicle emits.
_Emitted = Annotated[int, Field(ge=0, le=10**9)]


class SetTariff(Command):
    """Say what vehicles of a mode cost, in minor units: for each tour, kilometre, hour and stop."""

    mode: Mode
    currency: Currency
    fixed_minor: _Rate = 0
    per_km_minor: _Rate = 0
    per_hour_minor: _Rate = 0
    per_stop_minor: _Rate = 0
    toll_per_km_minor: _Rate = 0
    source: Text = Field(examples=["our carriers' contract of 2026"])
    set_at: UtcTime


class SetEmissionFactor(Command):
    """Say what vehicles of a mode and fuel emit well to wheel, in milligrams of CO2e a km."""

    mode: Mode
    fuel: Fuel
    empty_mg_per_km: _Emitted
    full_mg_per_km: _Emitted
    source: Text = Field(examples=["DESNZ conversion factors, 2025"])
    set_at: UtcTime

    @model_validator(mode="after")
    def _full_is_no_less(self) -> Self:
        if self.full_mg_per_km < self.empty_mg_per_km:
            raise ValueError(
                f"full_mg_per_km: must not be below empty_mg_per_km, {self.empty_mg_per_km}"
            )
        return self


class TariffSet(Event):
    """What vehicles of a mode cost, from this log position on."""

    mode: str
    currency: str
    fixed_minor: int
    per_km_minor: int
    per_hour_minor: int
    per_stop_minor: int
    toll_per_km_minor: int
    source: str
    set_by: str
    set_at: datetime


class EmissionFactorSet(Event):
    """What vehicles of a mode and fuel emit, from this log position on."""

    mode: str
    fuel: str
    empty_mg_per_km: int
    full_mg_per_km: int
    source: str
    set_by: str
    set_at: datetime


EVENTS = (TariffSet, EmissionFactorSet)

#: The stream that an event belongs to, by its fields.
STREAM = "tariffs/{mode}"
EMISSION_STREAM = "emission_factors/{mode}/{fuel}"
STREAMS: dict[type[Event], str] = {TariffSet: STREAM, EmissionFactorSet: EMISSION_STREAM}

SENTENCES: dict[type[Event], str] = {
    TariffSet: "{set_by} set the tariff of {mode}: {fixed_minor} {currency} minor units a tour, "
    "{per_km_minor} a km, {per_hour_minor} an hour; source: {source}",
    EmissionFactorSet: "{set_by} set the emissions of {mode} with {fuel}: {empty_mg_per_km} to "
    "{full_mg_per_km} mg CO2e a km; source: {source}",
}


@dataclass(frozen=True, slots=True)
class Tariff:
    """A mode's rates; None: the defaults hold."""

    rates: Rates | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class EmissionFactor:
    """What is emitted; None: the default holds."""

    emission: Emission | None = None


def evolve(tariff: Tariff, event: Event) -> Tariff:
    """The tariff after one more of its events."""
    match event:
        case TariffSet():
            told = {name: getattr(event, name) for name in Rates.model_fields}
            return Tariff(Rates(**told), event.currency)
    return tariff


def evolve_factor(factor: EmissionFactor, event: Event) -> EmissionFactor:
    """The factor after one more of its events."""
    match event:
        case EmissionFactorSet():
            told = {name: getattr(event, name) for name in Emission.model_fields}
            return EmissionFactor(Emission(**told))
    return factor


TARIFFS = Decider(initial=Tariff(), evolve=evolve)
EMISSION_FACTORS = Decider(initial=EmissionFactor(), evolve=evolve_factor)


def set_tariff(_: Tariff, command: SetTariff, actor: str) -> Sequence[Event]:
    """Replace a mode's tariff as a whole. Plans that are made keep the rates they were made by."""
    return [TariffSet(**command.model_dump(), set_by=actor)]


def set_factor(_: EmissionFactor, command: SetEmissionFactor, actor: str) -> Sequence[Event]:
    """Replace an emission factor as a whole."""
    return [EmissionFactorSet(**command.model_dump(), set_by=actor)]
