"""Places on the earth: a point, and how far two points are from each other."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt
from typing import Annotated

from pydantic import AfterValidator, Field

from domain.values import Value

#: Mean radius of the earth in metres (IUGG: (2a + b) / 3 of the WGS 84 ellipsoid).
EARTH_RADIUS_M = 6_371_008.8

#: Decimal places of a coordinate; the sixth is about a tenth of a metre.
PLACES = 6


def _rounded(degrees: float) -> float:
    return round(degrees, PLACES) + 0.0  # -0.0 and 0.0 are one place and one text


#: Degrees north of the equator (WGS 84).
Latitude = Annotated[float, Field(ge=-90, le=90), AfterValidator(_rounded)]
#: Degrees east of Greenwich (WGS 84).
Longitude = Annotated[float, Field(ge=-180, le=180), AfterValidator(_rounded)]


class Point(Value):
    """A point on the earth in degrees (WGS 84), kept to six decimal places."""

    latitude: Latitude = Field(examples=[52.520008])
    longitude: Longitude = Field(examples=[13.404954])


def distance_m(a: Point, b: Point) -> float:
    """Metres along the great circle between two points, by the haversine formula.

    The earth is taken as a sphere of its mean radius: up to 0.5 % off (R. W. Sinnott, "Virtues of
    the Haversine", Sky and Telescope 68, 1984).
    """
    lat_a, lat_b = radians(a.latitude), radians(b.latitude)
    half_lat = sin((lat_b - lat_a) / 2)
    half_lon = sin(radians(b.longitude - a.longitude) / 2)
    share = half_lat * half_lat + cos(lat_a) * cos(lat_b) * half_lon * half_lon
    return 2 * EARTH_RADIUS_M * asin(min(1.0, sqrt(share)))
