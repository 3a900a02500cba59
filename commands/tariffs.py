"""Tariffs: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler
from domain import tariffs
from domain.access import OPERATE


def tariff_stream(mode: str) -> str:
    """The stream of a mode's tariff."""
    return tariffs.STREAM.format(mode=mode)


def emission_stream(mode: str, fuel: str) -> str:
    """The stream of what a mode's vehicles emit with a fuel."""
    return tariffs.EMISSION_STREAM.format(mode=mode, fuel=fuel)


HANDLERS = (
    Handler(
        command=tariffs.SetTariff,
        roles=OPERATE,
        stream=lambda command: tariff_stream(command.mode),
        decider=tariffs.TARIFFS,
        decide=lambda command, actor, tariff: tariffs.set_tariff(tariff, command, actor),
    ),
    Handler(
        command=tariffs.SetEmissionFactor,
        roles=OPERATE,
        stream=lambda command: emission_stream(command.mode, command.fuel),
        decider=tariffs.EMISSION_FACTORS,
        decide=lambda command, actor, factor: tariffs.set_factor(factor, command, actor),
    ),
)
