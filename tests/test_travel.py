"""Ways between many places at once are those between two, to the metre and to the second."""

from __future__ import annotations

import numpy as np
import pytest

from domain.factors import TRAVEL
from domain.places import Point, distance_m
from ml.travel import profile, straight, travel

#: Where a formula might slip: poles, the date line, opposite ends of the earth, hardly a metre.
EDGES = [
    Point(latitude=latitude, longitude=longitude)
    for latitude, longitude in (
        *((90, 0), (-90, 0), (90, 77.7), (0, 180), (0, -180), (0, 0), (0.000001, 0.000001)),
        *((52.52, 13.405), (-52.52, -166.595), (-52.520001, -166.594999), (52.520001, 13.405)),
        *((89.999999, 179.999999), (-89.999999, -0.000001), (0, 179.999999), (45, 45)),
    )
]


def scattered(count: int, within: float) -> list[Point]:
    """Points around Berlin, up to so many degrees off."""
    chance = np.random.default_rng(7)
    return [
        Point(latitude=52.52 + float(north), longitude=13.405 + float(east))
        for north, east in chance.uniform(-within, within, (count, 2))
    ]


@pytest.mark.parametrize(
    "places",
    [EDGES, scattered(300, 0.001), scattered(300, 0.3), scattered(300, 30)],
    ids=["edges", "a yard", "a town", "a continent"],
)
def test_all_at_once_are_the_same_whole_metres(places: list[Point]) -> None:
    """Byte for byte: problems are known by the hash of these numbers."""
    alone = [[round(distance_m(start, end)) for end in places] for start in places]
    assert straight(places).tolist() == alone


@pytest.mark.parametrize("mode", sorted(TRAVEL))
def test_a_profile_has_the_ways_of_its_mode(mode: str) -> None:
    places = [*scattered(25, 0.3), *scattered(5, 5), *EDGES]
    found = profile(mode, places)
    ways = [[travel(mode, start, end) for end in places] for start in places]
    assert found.distance_m == tuple(tuple(way.distance_m for way in row) for row in ways)
    assert found.duration_s == tuple(tuple(way.duration_s for way in row) for row in ways)
    assert found.estimate == ways[0][0].estimate


def test_a_metre_that_could_be_either_is_reckoned_alone() -> None:
    """Due north a half metre is where a last bit decides: as much as the sixth place allows."""
    places = [Point(latitude=n / 10**6, longitude=0) for n in range(2_000)]
    alone = [round(distance_m(places[0], end)) for end in places]
    assert straight(places)[0].tolist() == alone
