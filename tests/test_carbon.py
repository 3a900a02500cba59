"""What tours emit, reckoned by hand."""

from __future__ import annotations

import pytest

from domain.costing import Leg, carbon_g, freight_carbon_g, shares
from domain.factors import CONSUMPTION, ENERGY, INTENSITY, USUAL_FUEL, emission
from domain.routing import Emission
from domain.vehicle_kinds import Fuel

#: 200 g a kilometre empty, 300 g full.
TRUCK = Emission(empty_mg_per_km=200_000, full_mg_per_km=300_000)


def test_an_empty_and_a_full_vehicle() -> None:
    assert carbon_g(TRUCK, [Leg(distance_m=10_000, load_g=0)], 1_000) == 2_000
    assert carbon_g(TRUCK, [Leg(distance_m=10_000, load_g=1_000)], 1_000) == 3_000


def test_a_tour_that_grows_lighter() -> None:
    """Full for 10 km (3000 g), half full for 10 km (2500 g), empty for 20 km (4000 g)."""
    legs = [
        Leg(distance_m=10_000, load_g=1_000),
        Leg(distance_m=10_000, load_g=500),
        Leg(distance_m=20_000, load_g=0),
    ]
    assert carbon_g(TRUCK, legs, 1_000) == 9_500


def test_a_vehicle_of_unknown_limit_counts_as_half_full() -> None:
    assert carbon_g(TRUCK, [Leg(distance_m=10_000, load_g=7)], None) == 2_500


def test_it_is_rounded_once_for_the_whole_tour() -> None:
    """Three legs of 0.6 g are 2 g, not 3."""
    legs = [Leg(distance_m=3, load_g=0)] * 3
    assert carbon_g(TRUCK, legs, 1_000) == 2


def test_a_van_with_diesel_by_default() -> None:
    """8.5 l for 100 km at 3240 g a litre (EN 16258:2012): 275.4 g a kilometre; full 340.2 g."""
    assert emission("van", "diesel") == Emission(empty_mg_per_km=275_400, full_mg_per_km=340_200)
    assert emission("van", None) == emission("van", "diesel")


def test_muscles_emit_nothing_and_what_is_not_known_is_not_made_up() -> None:
    assert emission("cargo_bike", "none") == Emission(empty_mg_per_km=0, full_mg_per_km=0)
    assert emission("ship", "diesel") is None
    assert emission("plane", None) is None


def test_goods_that_are_carried_by_the_tonne() -> None:
    """500 kg over 600 km by rail: 300 tkm at 24 g."""
    rail = INTENSITY["rail"].g_per_tkm
    assert freight_carbon_g(rail, weight_g=500_000, distance_m=600_000) == 7_200


def test_parts_of_orders_sum_up_to_the_tours_emissions() -> None:
    found = shares(9_500, [(1, 7), (2, 11), (3, 13)])
    assert sum(found) == 9_500
    assert found == (979, 3_072, 5_449) or found[0] < found[1] < found[2]


def test_each_factor_says_what_it_is_worth() -> None:
    for energy in ENERGY.values():
        assert energy.source.basis in ("published", "estimate")
        assert energy.source.text
    for intensity in INTENSITY.values():
        assert intensity.source.text
    assert ENERGY["diesel"].g_co2e == 3_240
    assert ENERGY["diesel"].source.basis == "published"
    assert INTENSITY["plane"].source.basis == "estimate"


@pytest.mark.parametrize("key", CONSUMPTION, ids="-".join)
def test_a_full_vehicle_never_uses_less_than_an_empty_one(key: tuple[str, str]) -> None:
    empty, full = CONSUMPTION[key]
    assert 0 <= empty <= full
    assert key[1] in Fuel.__args__  # type: ignore[attr-defined]


def test_the_usual_fuel_of_a_mode_is_known() -> None:
    for mode, fuel in USUAL_FUEL.items():
        assert (mode, fuel) in CONSUMPTION
