"""Pictures of KPIs as SVG text: over days, by site or client, and all of them as tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date

from domain.values import money
from ml.drawing import EDGE, FAINT, SIZE, WIDTH, cut, heading, line, svg, text
from ml.pictures import SERIES, bars
from projections.kpi_formulas import Kpi

GOOD, BAD = "#007a5e", "#b22222"

#: Lines of one picture, and bars, at the most.
MOST_LINES, MOST_BARS = 7, 40
_TILE_WIDTH, _TILE_HEIGHT, _GAP = 236, 112, 10
_SUFFIX: Mapping[str, str] = {
    "days": " days",
    "per_year": " a year",
    "grams": " g CO2e",
    "units": " units",
}

Points = Sequence[tuple[date, float | None]]


def words(kpi: Kpi, value: float | None, currency: str | None = None) -> str:
    """A figure as people write it."""
    if value is None or not math.isfinite(value):
        return "-"
    if kpi.unit == "share":
        return f"{value * 100:.1f} %"
    if kpi.unit == "minor_units":
        return money(value, currency or None)
    digits = 0 if kpi.unit in ("count", "grams") else 2
    return f"{value:,.{digits}f}{_SUFFIX.get(kpi.unit, '')}"


def over_time(title: str, kpi: Kpi, series: Mapping[str, Points]) -> str:
    """A line for each series through its days; a day without a figure breaks it."""
    shown = dict(list(series.items())[:MOST_LINES])
    known = [
        (day, value) for points in shown.values() for day, value in points if value is not None
    ]
    head, y = heading(title)
    if not known:
        nothing = text(EDGE, y + 24, "There is nothing to tell it from.", fill=FAINT)
        return svg(title, "No figures.", y + 48, [head, nothing])
    parts = [head]
    for number, name in enumerate(shown):
        if name:
            label = cut(name, 200, SIZE)
            at = EDGE + 220 * (number % 3)
            y += 18 if number % 3 == 0 else 0
            parts.append(text(at + 16, y + 8, label, full=name))
            parts.append(
                f'<rect x="{at}" y="{y + 2}" width="12" height="4" fill="{SERIES[number]}"/>'
            )
    left, right, top, height = EDGE + 92.0, WIDTH - EDGE - 8.0, y + 30, 220.0
    low, high = min(0.0, *(value for _, value in known)), max(value for _, value in known)
    span = (high - low) or 1.0
    days = [day for day, _ in known]
    first, length = min(days), max((max(days) - min(days)).days, 1)

    def across(day: date) -> float:
        return left + (right - left) * (day - first).days / length

    def upward(value: float) -> float:
        return top + height * (1 - (value - low) / span)

    for step in range(5):
        value = low + span * step / 4
        parts.append(line(left, upward(value), right, upward(value), "#d9d9d9"))
        label = words(kpi, value)
        parts.append(text(left - 6, upward(value) + 4, label, anchor="end", fill=FAINT))
    for day, anchor in {first: "start", max(days): "end"}.items():
        anchor = "start" if day == first else anchor
        label = f"{day:%Y-%m-%d}"
        parts.append(text(across(day), top + height + 18, label, anchor=anchor, fill=FAINT))
    for number, points in enumerate(shown.values()):
        parts += _strokes(
            [(across(d), None if v is None else upward(v)) for d, v in points], number
        )
    told = f"{kpi.title} of {len(known)} points, {words(kpi, low)} to {words(kpi, high)}."
    return svg(title, told, top + height + 34, parts)


def by_name(title: str, kpi: Kpi, rows: Sequence[tuple[str, float | None]]) -> str:
    """A bar for each name, those first that one would rather have otherwise."""
    known = [(name, value) for name, value in rows if value is not None]
    sign = 1 if kpi.better == "higher" else -1
    ranked = sorted(known, key=lambda row: (sign * row[1], row[0]))[:MOST_BARS]
    unit = "%" if kpi.unit == "share" else kpi.unit.replace("_", " ")
    times = 100 if kpi.unit == "share" else 1
    return bars(title, [(name, {kpi.title: value * times}) for name, value in ranked], unit)


def tiles(
    title: str,
    told: Sequence[tuple[Kpi, str | None, float | None, float | None, bool | None, Points]],
) -> str:
    """A tile for each KPI: (kpi, currency, figure, that of the period before, whether that is
    better, day by day)."""
    head, y = heading(title)
    parts, y = [head], y + 14
    columns = 3
    for number, (kpi, currency, value, previous, is_better, points) in enumerate(told):
        left = EDGE + (number % columns) * (_TILE_WIDTH + _GAP)
        top = y + (number // columns) * (_TILE_HEIGHT + _GAP)
        parts.append(
            f'<rect x="{left}" y="{top}" width="{_TILE_WIDTH}" height="{_TILE_HEIGHT}" rx="6" '
            'fill="#f7f7f7" stroke="#d9d9d9"/>'
        )
        room = _TILE_WIDTH - 24
        parts.append(text(left + 12, top + 22, cut(kpi.title, room, SIZE), fill=FAINT))
        figure = words(kpi, value, currency)
        parts.append(text(left + 12, top + 48, cut(figure, room, 20), size=20, bold=True))
        earlier = words(kpi, previous, currency)
        # What looks the same is neither better nor worse.
        same = is_better is None or earlier == figure
        colour = FAINT if same else GOOD if is_better else BAD
        before = f"before: {earlier}"
        parts.append(text(left + 12, top + 68, cut(before, room, SIZE), fill=colour))
        parts += _spark(points, left + 12, top + 76, room, 26, number)
    rows = -(-len(told) // columns)
    summary = f"{len(told)} figures, each beside the period before."
    return svg(title, summary, y + rows * (_TILE_HEIGHT + _GAP) + 6, parts)


def _spark(
    points: Points, left: float, top: float, width: float, height: float, number: int
) -> list[str]:
    known = [value for _, value in points if value is not None]
    if not known:
        return []
    low, span = min(known), (max(known) - min(known)) or 1.0
    step = width / max(len(points) - 1, 1)
    placed = [
        (left + step * at, None if value is None else top + height * (1 - (value - low) / span))
        for at, (_, value) in enumerate(points)
    ]
    return _strokes(placed, number)


def _strokes(points: Sequence[tuple[float, float | None]], number: int) -> list[str]:
    """The line through some points; a point alone is a dot."""
    colour = SERIES[number % len(SERIES)]
    strokes: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            strokes[-1].append((x, y))
        elif strokes[-1]:
            strokes.append([])
    parts = []
    for stroke in strokes:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in stroke)
        if len(stroke) > 1:
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        elif stroke:
            parts.append(
                f'<circle cx="{stroke[0][0]:.1f}" cy="{stroke[0][1]:.1f}" r="2.5" fill="{colour}"/>'
            )
    return parts
