"""Tariffs: what an organisation sets in the place of the defaults."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.access import Role
from domain.tariffs import EmissionFactorSet, SetEmissionFactor, SetTariff, TariffSet
from domain.values import Command, Event
from ml.catalogue import HANDLERS
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SET = SetTariff(
    mode="van",
    currency="EUR",
    fixed_minor=2_500,
    per_km_minor=35,
    source="our carriers' contract",
    set_at=NOON,
)
EMITS = SetEmissionFactor(
    mode="van",
    fuel="diesel",
    empty_mg_per_km=260_000,
    full_mg_per_km=330_000,
    source="measured",
    set_at=NOON,
)
tariff_set = TariffSet(
    mode="van",
    currency="EUR",
    fixed_minor=2_500,
    per_km_minor=35,
    per_hour_minor=0,
    per_stop_minor=0,
    toll_per_km_minor=0,
    source="our carriers' contract",
    set_by="ana",
    set_at=NOON,
)
factor_set = EmissionFactorSet(
    mode="van",
    fuel="diesel",
    empty_mg_per_km=260_000,
    full_mg_per_km=330_000,
    source="measured",
    set_by="ana",
    set_at=NOON,
)


@pytest.mark.parametrize("history", [[], [tariff_set]])
def test_a_tariff_is_replaced_as_a_whole(history: list[Event]) -> None:
    given(*history).when(SET).then(tariff_set)


@pytest.mark.parametrize("history", [[], [factor_set]])
def test_an_emission_factor_is_replaced_as_a_whole(history: list[Event]) -> None:
    given(*history).when(EMITS).then(factor_set)


def test_the_state_holds_what_was_set_last() -> None:
    dearer = tariff_set.model_copy(update={"per_km_minor": 99})
    tariff = HANDLERS[SetTariff].decider.fold([tariff_set, dearer])
    assert (tariff.rates.per_km_minor, tariff.currency) == (99, "EUR")
    factor = HANDLERS[SetEmissionFactor].decider.fold([factor_set])
    assert factor.emission.full_mg_per_km == 330_000


def test_who_operates_may_set_them() -> None:
    for command in (SetTariff, SetEmissionFactor):
        assert Role.ADMIN in HANDLERS[command].roles
        assert Role.ANALYST not in HANDLERS[command].roles


@pytest.mark.parametrize(
    ("right", "fields", "field", "rule"),
    [
        (SET, {"mode": "balloon"}, "mode", "Input should be"),
        (SET, {"currency": "XXX"}, "currency", "ISO 4217"),
        (SET, {"per_km_minor": -1}, "per_km_minor", "greater than or equal to 0"),
        (SET, {"source": ""}, "source", "at least 1 character"),
        (EMITS, {"fuel": "coal"}, "fuel", "Input should be"),
        (EMITS, {"full_mg_per_km": 1}, "full_mg_per_km", "must not be below"),
        (EMITS, {"empty_mg_per_km": 1.5}, "empty_mg_per_km", "valid integer"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    right: Command, fields: dict[str, Any], field: str, rule: str
) -> None:
    assert problems(type(right), **right.model_dump()) == ""
    told = problems(type(right), **(right.model_dump() | fields))
    assert field in told
    assert rule in told
