"""A forecast as a picture: what was asked for, what was foretold, and the interval around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from ml import drawing
from ml.drawing import EDGE, FAINT, INK, WIDTH
from readmodels.forecasts import ForecastDetail

_CAME, _TOLD, _BAND = "#595959", "#0072b2", "#cfe3f1"
_TOP, _HEIGHT, _LEFT = 70, 240, 60
Point = tuple[float, float]


def picture(told: ForecastDetail, came: Mapping[date, float], first: date, today: date) -> str:
    """The forecast as SVG.

    Args:
        told: the forecast.
        came: demand by day; days without an entry had none.
        first: the first day that is shown.
        today: the first day that is not over: demand is drawn up to the day before.
    """
    end = told.days[-1].day + timedelta(days=1)
    days = (end - first).days
    known = sorted(came)
    begin = max(first, known[0]) if known else told.from_day
    over = min(today, end)
    history = [begin + timedelta(days=n) for n in range(max(0, (over - begin).days))]
    most = max([one.high for one in told.days] + [came.get(day, 0.0) for day in history] + [1e-9])

    def at(day: date, value: float) -> Point:
        x = _LEFT + (WIDTH - EDGE - _LEFT) * (day - first).days / max(days - 1, 1)
        return x, _TOP + _HEIGHT * (1 - value / most)

    by = "rule-based" if told.method == "rule-based" else f"by model {told.method[:12]}"
    title = f"Demand for {told.sku} at {told.site_id}: {told.total:.1f} pieces foretold, {by}"
    heading, _ = drawing.heading(title)
    upper = [at(one.day, one.high) for one in told.days]
    lower = [at(one.day, one.low) for one in reversed(told.days)]
    parts = [heading, *_axes(first, end, told.from_day, most, at(told.from_day, 0.0)[0])]
    parts.append(f'<polygon class="band" points="{_points([*upper, *lower])}" fill="{_BAND}"/>')
    parts.append(_path([at(day, came.get(day, 0.0)) for day in history], _CAME, "came"))
    parts.append(_path([at(one.day, one.value) for one in told.days], _TOLD, "foretold"))
    y = _TOP + _HEIGHT + 44
    for x, colour, words in (
        (_LEFT, _CAME, "what was asked for"),
        (_LEFT + 170, _TOLD, "foretold"),
        (_LEFT + 280, _BAND, "four of five cases"),
    ):
        parts.append(f'<rect x="{x}" y="{y - 9}" width="18" height="8" fill="{colour}"/>')
        parts.append(drawing.text(x + 24, y, words, fill=FAINT))
    return drawing.svg(title, told.sentence, y + 20, parts)


def _axes(first: date, end: date, from_day: date, most: float, now: float) -> list[str]:
    base = _TOP + _HEIGHT
    parts = [
        drawing.line(_LEFT, base, WIDTH - EDGE, base, FAINT),
        drawing.line(now, _TOP, now, base, FAINT, "3 3"),
        drawing.text(_LEFT, base + 18, f"{first:%d %b %Y}", fill=FAINT),
        drawing.text(now, _TOP - 8, f"{from_day:%d %b}", anchor="middle", fill=FAINT),
        drawing.text(
            WIDTH - EDGE,
            base + 18,
            f"{end - timedelta(days=1):%d %b %Y}",
            anchor="end",
            fill=FAINT,
        ),
    ]
    for share in (0.0, 0.5, 1.0):
        y = base - _HEIGHT * share
        parts.append(drawing.text(_LEFT - 8, y + 4, f"{most * share:,.3g}", anchor="end", fill=INK))
    return parts


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _path(points: Sequence[Point], colour: str, name: str) -> str:
    return (
        f'<polyline class="{name}" points="{_points(points)}" fill="none" stroke="{colour}" '
        f'stroke-width="1.5"/>'
    )
