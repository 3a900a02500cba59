"""What tours cost, reckoned by hand."""

from __future__ import annotations

import random

import pytest

from domain.costing import CostParts, cost, part, shares
from domain.factors import COST_SOURCE, DETOUR_SOURCE, RATES, TRAVEL
from domain.places import Point
from domain.routing import Rates
from domain.vehicle_kinds import Mode
from ml.travel import RULE_BASED, profile, travel

BERLIN = Point(latitude=52.52, longitude=13.405)
POTSDAM = Point(latitude=52.3989, longitude=13.0657)


def test_a_tour_of_100_km_and_8_hours() -> None:
    """20.00 fixed, 100 km at 0.30, at 0.15 toll, 8 h at 28.00, 12 stops at 0.50."""
    rates = Rates(
        fixed_minor=2_000,
        per_km_minor=30,
        per_hour_minor=2_800,
        per_stop_minor=50,
        toll_per_km_minor=15,
    )
    found = cost(rates, distance_m=100_000, duration_s=28_800, stops=12)
    assert found == CostParts(fixed=2_000, distance=3_000, toll=1_500, time=22_400, stops=600)
    assert found.total == 29_500


@pytest.mark.parametrize(
    ("metres", "minor"), [(0, 0), (16, 0), (17, 1), (50, 2), (1_000, 30), (1_017, 31)]
)
def test_each_part_is_rounded_once_half_upwards(metres: int, minor: int) -> None:
    """30 cents a kilometre: 17 m are 0.51 cents, 50 m are 1.5."""
    assert cost(Rates(per_km_minor=30), distance_m=metres, duration_s=0, stops=0).total == minor


def test_nothing_costs_nothing() -> None:
    assert cost(Rates(), distance_m=10**6, duration_s=10**5, stops=100).total == 0


def test_parts_by_largest_remainder() -> None:
    """100 by 1 : 1 : 1 is 33.33 each; the one that is left goes to the first."""
    assert part(100, [1, 1, 1]) == (34, 33, 33)
    # 10 by 3 : 2 : 2: 4.29, 2.86, 2.86; the two that are left go where most is missing.
    assert part(10, [3, 2, 2]) == (4, 3, 3)
    assert part(-10, [3, 2, 2]) == (-4, -3, -3)
    assert part(7, [0, 0]) == (4, 3)
    assert part(0, [5, 1]) == (0, 0)


@pytest.mark.parametrize("weights", [[], [-1, 2]])
def test_there_is_nobody_to_part_it_among(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        part(100, weights)


def test_parts_always_sum_up_to_the_whole() -> None:
    random.seed(7)
    for _ in range(500):
        whole = random.randint(-(10**12), 10**12)
        weights = [random.randint(0, 10**9) for _ in range(random.randint(1, 40))]
        found = part(whole, weights)
        assert sum(found) == whole
        quotas = [whole * weight / (sum(weights) or 1) for weight in weights]
        if any(weights):
            assert all(abs(a - b) <= 1.001 for a, b in zip(found, quotas, strict=True))


def test_a_tours_cost_is_parted_by_weight_and_direct_distance() -> None:
    """10 kg over 10 km, 10 kg over 30 km, 20 kg over 30 km: 1 : 3 : 6 of 295.00."""
    orders = [(10_000, 10_000), (10_000, 30_000), (20_000, 30_000)]
    assert shares(29_500, orders) == (2_950, 8_850, 17_700)


def test_an_order_of_unknown_weight_counts_as_the_lightest() -> None:
    assert shares(100, [(0, 1_000), (2_000, 1_000), (4_000, 1_000)]) == (25, 25, 50)
    assert shares(100, [(0, 1_000), (0, 3_000)]) == (25, 75)


def test_the_way_from_berlin_to_potsdam() -> None:
    """26.6 km of great circle, times 1.4; 5 km at 30 km/h are 600 s, the rest at 65 km/h."""
    way = travel("van", BERLIN, POTSDAM)
    straight = way.distance_m / 1.4
    assert 26_500 < straight < 26_700
    assert 0 <= way.duration_s - (600 + (way.distance_m - 5_000) * 3.6 / 65) < 1
    assert way.estimate == RULE_BASED == "rule_based"


def test_a_short_way_is_all_in_town_and_no_way_takes_no_time() -> None:
    near = Point(latitude=52.521, longitude=13.405)  # 111 m north, 155 m on the road
    way = travel("van", BERLIN, near)
    assert way.distance_m == 155
    assert way.duration_s == 19  # 155 * 3.6 / 30 = 18.6, upwards
    assert travel("van", BERLIN, BERLIN).duration_s == 0


def test_every_mode_of_vehicles_has_factors_with_a_source() -> None:
    modes = set(Mode.__args__)  # type: ignore[attr-defined]
    assert modes == TRAVEL.keys() == RATES.keys()
    assert COST_SOURCE.basis == "estimate"
    assert "Ballou" in DETOUR_SOURCE.text


def test_a_profile_is_square_and_starts_at_the_depot() -> None:
    found = profile("truck", [BERLIN, POTSDAM])
    way = travel("truck", BERLIN, POTSDAM)
    assert found.distance_m == ((0, way.distance_m), (way.distance_m, 0))
    assert found.duration_s == ((0, way.duration_s), (way.duration_s, 0))
