"""Zones: named stretches of the earth, a polygon or a circle."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, ValidationInfo, model_validator

from domain.places import PLACES, Point, distance_m
from domain.values import Text, Value, is_stored

_Corner = tuple[int, int]


class Zone(Value):
    """A polygon, whose last corner is joined to the first, or a circle. Its border belongs to it.

    A polygon's sides are straight in degrees, as they are drawn on the map of a town; it does not
    lie over a pole or the 180th meridian. ``radius_m`` is along the great circle.
    """

    name: Text = Field(examples=["Berlin inside the S-Bahn ring"])
    polygon: Annotated[tuple[Point, ...], Field(max_length=200)] = ()
    centre: Point | None = None
    radius_m: Annotated[int, Field(gt=0, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _is_one_shape(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        circle = (self.centre is not None, self.radius_m is not None)
        if circle == (False, False):
            if len(set(self.polygon)) < 3:
                raise ValueError(
                    "polygon: must have at least three corners, unless centre and radius_m are told"
                )
            east = [point.longitude for point in self.polygon]
            if max(east) - min(east) > 180:
                raise ValueError("polygon: must not lie over the 180th meridian; write two zones")
        elif circle != (True, True) or self.polygon:
            raise ValueError("centre: a circle has centre and radius_m, and no polygon beside them")
        return self

    def contains(self, point: Point) -> bool:
        """Whether a point lies in the zone or on its border."""
        if self.centre is not None and self.radius_m is not None:
            return distance_m(self.centre, point) <= self.radius_m
        return _within(_corner(point), [_corner(corner) for corner in self.polygon])

    def crosses_itself(self) -> bool:
        """Whether two sides of the polygon meet elsewhere than in their common corner, or all
        corners lie on one line: nobody could say what is inside."""
        corners = [_corner(point) for point in self.polygon]
        sides = list(zip(corners, [*corners[1:], *corners[:1]], strict=True))
        last = len(sides) - 1
        for n, (a, b) in enumerate(sides):
            if a == b:
                return True
            for m in range(n + 1, len(sides)):
                c, d = sides[m]
                if m == n + 1 or (n == 0 and m == last):
                    # Neighbours: one must not run back over the other.
                    far, near, near_far = (a, b, d) if m == n + 1 else (b, a, c)
                    if _turn(far, near, near_far) == 0 and _towards(near, far, near_far):
                        return True
                elif _meet(a, b, c, d):
                    return True
        return False


def _corner(point: Point) -> _Corner:
    """East and north in millionths of a degree: whole numbers, so that nothing below is rounded."""
    scale = 10**PLACES
    return round(point.longitude * scale), round(point.latitude * scale)


def _turn(a: _Corner, b: _Corner, c: _Corner) -> int:
    """Above 0 where a, b, c turn left, below where they turn right, 0 on one line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _between(point: _Corner, a: _Corner, b: _Corner) -> bool:
    """Whether a point on the line through a and b lies between them."""
    return min(a[0], b[0]) <= point[0] <= max(a[0], b[0]) and (
        min(a[1], b[1]) <= point[1] <= max(a[1], b[1])
    )


def _towards(a: _Corner, b: _Corner, c: _Corner) -> bool:
    """Whether b and c, on one line with a, lie on the same side of it."""
    return (b[0] - a[0]) * (c[0] - a[0]) + (b[1] - a[1]) * (c[1] - a[1]) > 0


def _meet(a: _Corner, b: _Corner, c: _Corner, d: _Corner) -> bool:
    """Whether the sides a-b and c-d share a point."""
    one, two = _turn(a, b, c), _turn(a, b, d)
    three, four = _turn(c, d, a), _turn(c, d, b)
    if (one > 0) != (two > 0) and (three > 0) != (four > 0) and 0 not in (one, two, three, four):
        return True
    ends = ((one, c, a, b), (two, d, a, b), (three, a, c, d), (four, b, c, d))
    return any(turn == 0 and _between(point, *side) for turn, point, *side in ends)


def _within(point: _Corner, corners: list[_Corner]) -> bool:
    """By the parity of sides crossed on the way east (M. Shimrat, Algorithm 112, CACM 5, 1962)."""
    inside = False
    before = corners[-1]
    for corner in corners:
        turn = _turn(before, corner, point)
        if turn == 0 and _between(point, before, corner):
            return True
        if (before[1] > point[1]) != (corner[1] > point[1]) and (turn > 0) == (
            corner[1] > before[1]
        ):
            inside = not inside
        before = corner
    return inside
