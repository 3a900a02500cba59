"""Places: coordinates are on the earth, and distances are those of the sphere."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.places import EARTH_RADIUS_M, Point, distance_m
from tests.spec import problems

BERLIN = Point(latitude=52.520008, longitude=13.404954)
PARIS = Point(latitude=48.856613, longitude=2.352222)
_points = st.builds(Point, latitude=st.floats(-90, 90), longitude=st.floats(-180, 180))


def test_known_distances() -> None:
    assert distance_m(BERLIN, PARIS) == pytest.approx(877_460, abs=500)
    # A quarter of a meridian and half of the equator, by hand.
    quarter = EARTH_RADIUS_M * 3.141592653589793 / 2
    pole, origin = Point(latitude=90, longitude=0), Point(latitude=0, longitude=0)
    assert distance_m(pole, origin) == pytest.approx(quarter, rel=1e-12)
    assert distance_m(origin, Point(latitude=0, longitude=180)) == pytest.approx(2 * quarter)
    # Over the 180th meridian it is not far.
    east, west = Point(latitude=0, longitude=179.5), Point(latitude=0, longitude=-179.5)
    assert distance_m(east, west) == pytest.approx(quarter / 90)


@given(_points, _points, _points)
def test_a_distance_is_one(a: Point, b: Point, c: Point) -> None:
    assert distance_m(a, a) == 0
    assert distance_m(a, b) == distance_m(b, a)
    assert 0 <= distance_m(a, b) <= EARTH_RADIUS_M * 3.1415927
    assert distance_m(a, c) <= distance_m(a, b) + distance_m(b, c) + 1e-3


def test_coordinates_are_kept_to_six_places() -> None:
    point = Point(latitude=52.52000849, longitude=-0.0000001)
    assert point.model_dump_json() == '{"latitude":52.520008,"longitude":0.0}'


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"latitude": 90.1}, "latitude"),
        ({"latitude": -91}, "latitude"),
        ({"longitude": 180.5}, "longitude"),
        ({"longitude": -181}, "longitude"),
        ({"latitude": nan}, "latitude"),
        ({"longitude": inf}, "longitude"),
        ({"latitude": "north"}, "latitude"),
        ({"latitude": None}, "latitude"),
        ({"altitude": 3}, "altitude"),
    ],
)
def test_what_is_not_on_the_earth_is_named(fields: dict[str, Any], where: str) -> None:
    assert where in problems(Point, **{"latitude": 0, "longitude": 0} | fields)
