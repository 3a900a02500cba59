"""A plan of tours as a map: each tour a line of its own colour through its stops, the depot a
house, and what was left behind as crosses.

There are no streets on it: a picture with streets would need the tiles of somebody else. Places are
drawn as they lie to each other (equirectangular about their middle), north is up, and a bar says
how long a round number of kilometres is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, radians

from domain.places import Point
from domain.routing import Problem, Route, Solution
from ml.drawing import EDGE, FAINT, INK, WIDTH, cut, escape, heading, line, svg, text
from ml.pictures import SERIES

_HEIGHT = 460
_ROW = 20
#: Metres of a degree of latitude (a 360th of the great circle of the mean radius).
_DEGREE_M = 111_195
_MOST_NUMBERED = 60


@dataclass(frozen=True, slots=True)
class _Frame:
    """How places become pixels."""

    west: float
    north: float
    across: float
    per_degree: float
    top: float

    def __call__(self, point: Point) -> tuple[float, float]:
        x = EDGE + 24 + (point.longitude - self.west) * self.across * self.per_degree
        return x, self.top + 24 + (self.north - point.latitude) * self.per_degree


def tour_map(title: str, problem: Problem, solution: Solution) -> str:
    """A plan as an SVG picture.

    Orders whose place is not known are named below the map only.
    """
    places: dict[str, Point] = {s.order_id: s.point for s in problem.stops if s.point is not None}
    head, y = heading(title)
    frame = _frame([*places.values(), *([problem.depot] if problem.depot else [])], y)
    bottom = y + _HEIGHT
    parts = [
        head,
        f'<rect x="{EDGE}" y="{y:.0f}" width="{WIDTH - 2 * EDGE}" height="{_HEIGHT}" '
        f'fill="#f7f7f7" stroke="#d9d9d9"/>',
    ]
    for number, route in enumerate(solution.routes):
        parts += _tour(frame, places, problem.depot, route, SERIES[number % len(SERIES)])
    for one in solution.unserved:
        if one.order_id in places:
            x, up = frame(places[one.order_id])
            parts.append(
                f"<g><title>{escape(one.sentence)}</title>"
                + line(x - 5, up - 5, x + 5, up + 5, "#d62728")
                + line(x - 5, up + 5, x + 5, up - 5, "#d62728")
                + "</g>"
            )
    if problem.depot is not None:
        parts.append(_depot(*frame(problem.depot), problem.site_id))
    parts += _bar(frame, bottom)
    legend, end = _legend(solution, bottom + 24)
    summary = (
        f"{len(solution.routes)} tours with {sum(len(r.visits) for r in solution.routes)} stops, "
        f"{solution.distance_m / 1000:.1f} km; {len(solution.unserved)} orders left behind."
    )
    return svg(title, summary, end + EDGE, [*parts, *legend])


def _frame(points: Sequence[Point], y: float) -> _Frame:
    west, east, south, north = 0.0, 0.0, 0.0, 0.0
    if points:
        west, east = min(p.longitude for p in points), max(p.longitude for p in points)
        south, north = min(p.latitude for p in points), max(p.latitude for p in points)
    across = max(cos(radians((south + north) / 2)), 0.01)
    wide, high = max((east - west) * across, 1e-4), max(north - south, 1e-4)
    room_x, room_y = WIDTH - 2 * EDGE - 48, _HEIGHT - 64
    per_degree = min(room_x / wide, room_y / high)
    # In the middle of the room that is left over.
    spare = (room_x - (east - west) * across * per_degree) / 2
    above = (room_y - (north - south) * per_degree) / 2
    return _Frame(west - spare / (across * per_degree), north, across, per_degree, y + above)


def _tour(
    frame: _Frame, places: Mapping[str, Point], depot: Point | None, route: Route, colour: str
) -> list[str]:
    stops = [
        (n, v, places[v.order_id]) for n, v in enumerate(route.visits, 1) if v.order_id in places
    ]
    way = [frame(place) for _, _, place in stops]
    if depot is not None:
        way = [frame(depot), *way, frame(depot)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
    told = f"{route.vehicle_id}: {len(route.visits)} stops, {route.distance_m / 1000:.1f} km"
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-linejoin="round"><title>{escape(told)}</title></polyline>'
    ]
    for number, visit, place in stops:
        x, y = frame(place)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if len(places) <= _MOST_NUMBERED else 4}" '
            f'fill="{colour}" stroke="#ffffff">'
            f"<title>{escape(f'{visit.order_id}, stop {number} of {route.vehicle_id}')}</title>"
            "</circle>"
        )
        if len(places) <= _MOST_NUMBERED:
            parts.append(text(x, y + 3, str(number), anchor="middle", fill="#ffffff", size=9))
    return parts


def _depot(x: float, y: float, site_id: str) -> str:
    return (
        f'<path d="M{x - 9:.1f},{y + 8:.1f} v-10 l9,-8 l9,8 v10 z" fill="{INK}" stroke="#ffffff">'
        f"<title>{escape(f'site {site_id}')}</title></path>"
    )


def _bar(frame: _Frame, bottom: float) -> list[str]:
    """How long some kilometres are: the longest 1, 2 or 5 times a power of ten that has room."""
    per_m = frame.per_degree / _DEGREE_M
    length = max(
        (
            base * 10**power
            for base in (1, 2, 5)
            for power in range(7)
            if base * 10**power * per_m <= 160
        ),
        default=1,
    )
    end = EDGE + 16 + length * per_m
    told = f"{length // 1000} km" if length >= 1000 else f"{length} m"
    return [
        line(EDGE + 16, bottom - 12, end, bottom - 12, INK),
        line(EDGE + 16, bottom - 16, EDGE + 16, bottom - 8, INK),
        line(end, bottom - 16, end, bottom - 8, INK),
        text(end + 6, bottom - 8, told, fill=FAINT),
    ]


def _legend(solution: Solution, y: float) -> tuple[list[str], float]:
    parts: list[str] = []
    for number, route in enumerate(solution.routes):
        colour = SERIES[number % len(SERIES)]
        parts.append(line(EDGE, y - 4, EDGE + 18, y - 4, colour))
        hours, minutes = divmod((route.ends_s - route.starts_s) // 60, 60)
        told = (
            f"{route.vehicle_id}: {len(route.visits)} stops, {route.distance_m / 1000:.1f} km, "
            f"{hours} h {minutes:02} min, {route.weight_g / 1000:.1f} kg"
        )
        parts.append(text(EDGE + 26, y, cut(told, WIDTH - 2 * EDGE - 26, 12)))
        y += _ROW
    for one in solution.unserved:
        parts.append(text(EDGE + 2, y, "×", fill="#d62728", bold=True))
        fitting = cut(one.sentence, WIDTH - 2 * EDGE - 26, 12)
        parts.append(text(EDGE + 26, y, fitting, full=one.sentence))
        y += _ROW
    return parts, y
