"""Pictures as SVG text: why a score is what it is, how well risks fit, what a change would swap.

Each is a whole document of its own: fonts every machine has, no script, no style sheet and no ids,
so that many can stand in one page; a white ground, so that a dark page can hold it. Colours are
those of Okabe & Ito 2008, told apart by the colour-blind too. Lengths are in pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml.calibration import Bin
from ml.drawing import EDGE as _EDGE
from ml.drawing import FAINT as _FAINT
from ml.drawing import INK as _INK
from ml.drawing import SIZE as _SIZE
from ml.drawing import WIDTH
from ml.drawing import cut as _cut
from ml.drawing import escape as _escape
from ml.drawing import heading as _heading
from ml.drawing import line as _line
from ml.drawing import plain as _plain
from ml.drawing import svg as _svg
from ml.drawing import text as _text
from ml.drawing import width as _width

UP, DOWN = "#d62728", "#0072b2"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#595959")
#: How far the parts of a waterfall may sum past its end: less than a pixel in any picture.
ADDITIVITY_TOLERANCE = 1e-3
#: Nodes on a side of ``flows``, the one for the rest included.
MOST_NODES = 12

_GRID = "#d9d9d9"


def waterfall(
    title: str,
    base: float,
    contributions: Sequence[tuple[str, str, float]],
    margin: float,
    unit: str = "log odds",
    most: int = 12,
) -> str:
    """How SHAP values (Lundberg & Lee 2017) lead from the base value to the margin.

    ``contributions``: (feature, its value in words, push) each. The strongest ``most`` get a bar
    each, from the top; one more sums the rest.

    Raises:
        ValueError: base and contributions do not sum to the margin, or are not finite.
    """
    total = base + math.fsum(push for _, _, push in contributions)
    if not abs(total - margin) <= ADDITIVITY_TOLERANCE * max(1.0, abs(margin)):
        raise ValueError(f"base and contributions sum to {total}, not to the margin {margin}")
    ranked = sorted(contributions, key=lambda each: -abs(each[2]))
    shown = ranked if len(ranked) <= most + 1 else ranked[:most]
    bars = [(name, value, push) for name, value, push in shown]
    if rest := ranked[len(shown) :]:
        bars.append((f"{len(rest)} others", "", math.fsum(push for _, _, push in rest)))
    runs = [base]
    for _, _, push in bars:
        runs.append(runs[-1] + push)
    runs[-1] = margin if bars else base

    room, left, right, row = 244, 276, 592, 26
    pushes_at, totals_at = 656, WIDTH - _EDGE
    scale = _scale((*runs, margin), left, right)
    show = _writer(scale.high - scale.low)
    heading, y = _heading(title)
    top = y + 26
    bottom = top + row * len(bars)
    parts = [heading, _axis_x(scale, top - 6, bottom + 26, unit)]
    parts.append(_line(scale(base), top - 6, scale(base), top + row - 6, _FAINT, "3 2"))
    parts.append(_marker(scale, base, f"E[f(x)] = {show(base)}", top - 12))
    parts.append(_text(pushes_at, top - 12, "push", anchor="end", fill=_FAINT))
    parts.append(_text(totals_at, top - 12, "running total", anchor="end", fill=_FAINT))
    for number, (name, value, push) in enumerate(bars):
        y = top + row * number
        start, end = scale(runs[number]), scale(runs[number + 1])
        colour = UP if push > 0 else DOWN
        label = f"{name} = {value}" if value else name
        parts.append(_label(_EDGE + room, y + 14, name, value, room))
        parts.append(
            f'<rect class="push" x="{min(start, end):.2f}" y="{y}" width="{abs(end - start):.2f}" '
            f'height="{row - 8}" fill="{colour}" stroke="{colour}" stroke-width="0.5">'
            f"<title>{_escape(f'{label}: {show(push, signed=True)}')}</title></rect>"
        )
        parts.append(_line(end, y + row - 8, end, y + row, _FAINT))
        signed = show(push, signed=True)
        parts.append(_text(pushes_at, y + 14, signed, anchor="end", fill=colour, bold=True))
        parts.append(_text(totals_at, y + 14, show(runs[number + 1]), anchor="end"))
    end = scale(margin)
    parts.append(_line(end, bottom - 8, end, bottom + 2, _INK))
    parts.append(_line(end, bottom + 19, end, bottom + 26, _INK))
    parts.append(_marker(scale, margin, f"f(x) = {show(margin)}", bottom + 14, bold=True))
    told = "; ".join(f"{name} {show(push, signed=True)}" for name, _, push in bars[:3])
    summary = f"From {show(base)} to {show(margin)} {unit}. Strongest: {told or 'nothing'}."
    return _svg(title, summary, bottom + 70, parts)


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """A group of horizontal bars for each row, one for each series; values may be negative.

    A value that is not finite is told as "none".
    """
    series = list(dict.fromkeys(name for _, values in rows for name in values))
    heading, y = _heading(title)
    if not series:
        return _nothing(title, heading, y)
    known = [value for _, values in rows for value in values.values() if math.isfinite(value)]
    show = _writer(max((*known, 0.0)) - min((*known, 0.0)))
    gutter = max((_width(show(value), _SIZE) for value in known), default=0.0) + 8
    room, bar = 200, 14
    left = _EDGE + room + 12 + (gutter if min((*known, 0.0)) < 0 else 0)
    scale = _scale((*known, 0.0), left, WIDTH - _EDGE - max(gutter, 40), padded=False)
    legend, y = _legend(series, y)
    parts, marks, top = [heading, legend], [], y
    y += 6
    for label, values in rows:
        height = max(bar * len(values), bar) + 12
        parts.append(_label(_EDGE + room, y + height / 2 - 2, label, "", room))
        for number, (name, value) in enumerate(values.items()):
            at, zero = y + bar * number, scale(0.0)
            if not math.isfinite(value):
                marks.append(_text(zero + 4, at + 10, "none", fill=_FAINT, size=11))
                continue
            end = scale(value)
            marks.append(
                f'<rect class="bar" x="{min(zero, end):.2f}" y="{at}" '
                f'width="{abs(end - zero):.2f}" height="{bar - 2}" fill="{_colour(series, name)}">'
                f"<title>{_escape(f'{label}, {name}: {show(value)} {unit}')}</title></rect>"
            )
            anchor, beside = ("start", end + 4) if value >= 0 else ("end", end - 4)
            marks.append(_text(beside, at + 10, show(value), anchor=anchor, size=11))
        y += height
    parts.append(_axis_x(scale, top, y, unit))
    parts.append(_line(scale(0.0), top, scale(0.0), y, _FAINT))
    summary = f"{_many(len(rows), 'row')} of {', '.join(series)} in {unit}."
    return _svg(title, summary, y + 44, parts + marks)


def reliability_diagram(title: str, bins: Sequence[Bin]) -> str:
    """Predicted risk against the observed share; the area of a circle is its number of cases."""
    heading, y = _heading(title)
    held = [each for each in bins if each.n > 0]
    if not held:
        return _nothing(title, heading, y)
    side, left, pad = 400, 200, 22
    most = max(each.n for each in held)
    x = _Scale(0, 1, left + pad, left + side - pad)
    top = y + 44
    bottom = top + side
    up = _Scale(0, 1, bottom - pad, top + pad)
    note = (
        f"Area of a circle: its cases, {most:,} in the largest. Above the line: riskier than told"
    )
    parts = [heading, _text(WIDTH / 2, y + 8, note, anchor="middle", fill=_FAINT)]
    parts.append(_text(left - 8, top - 8, "observed share", fill=_FAINT))
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(_line(x(tick), top, x(tick), bottom, _GRID))
        parts.append(_line(left, up(tick), left + side, up(tick), _GRID))
        parts.append(_text(x(tick), bottom + 16, f"{tick:.0%}", anchor="middle", fill=_FAINT))
        parts.append(_text(left - 8, up(tick) + 4, f"{tick:.0%}", anchor="end", fill=_FAINT))
    parts.append(_line(x(0), up(0), x(1), up(1), _FAINT, "5 4"))
    middle = left + side / 2
    parts.append(_text(middle, bottom + 36, "predicted risk", anchor="middle", fill=_FAINT))
    for each in sorted(held, key=lambda each: -each.n):
        at, met = x(each.predicted), up(each.observed)
        parts.append(_line(at, up(each.predicted), at, met, DOWN))
        told = f"{each.n:,} cases: {each.predicted:.1%} predicted, {each.observed:.1%} observed"
        parts.append(
            f'<circle cx="{at:.2f}" cy="{met:.2f}" r="{max(20 * math.sqrt(each.n / most), 2):.2f}" '
            f'fill="{DOWN}" fill-opacity="0.55" stroke="{DOWN}"><title>{told}</title></circle>'
        )
    cases = sum(each.n for each in held)
    off = sum(each.n * abs(each.predicted - each.observed) for each in held) / cases
    summary = f"{cases:,} cases in {_many(len(held), 'bin')}; {off:.1%} off on average."
    return _svg(title, summary, bottom + 50, parts)


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str
) -> str:
    """A line for each series through its (x, y) points, in their order; one that is not finite
    breaks it."""
    heading, y = _heading(title)
    known = [
        (across, upward)
        for points in series.values()
        for across, upward in points
        if math.isfinite(across) and math.isfinite(upward)
    ]
    if not known:
        return _nothing(title, heading, y)
    legend, y = _legend(list(series), y)
    top, height = y + 24, 260
    bottom = top + height
    up = _scale([upward for _, upward in known], bottom, top)
    ticks, show = _ticks(up.low, up.high, 6)
    left = _EDGE + max(_width(show(tick), _SIZE) for tick in ticks) + 8
    x = _scale([across for across, _ in known], left, WIDTH - 40, padded=False)
    parts = [heading, legend, _text(_EDGE, top - 10, _cut(y_label, 400, _SIZE), fill=_FAINT)]
    parts.append(_axis_x(x, top, bottom, x_label))
    for tick in ticks:
        parts.append(_line(left, up(tick), WIDTH - 40, up(tick), _GRID))
        parts.append(_text(left - 8, up(tick) + 4, show(tick), anchor="end", fill=_FAINT))
    for number, (name, points) in enumerate(series.items()):
        colour, dash = SERIES[number % len(SERIES)], _dash(number)
        strokes: list[list[tuple[float, float]]] = [[]]
        for across, upward in points:
            if math.isfinite(across) and math.isfinite(upward):
                strokes[-1].append((x(across), up(upward)))
            elif strokes[-1]:
                strokes.append([])
        told = f"<title>{_escape(name)}</title>"
        for stroke in strokes:
            path = " ".join(f"{across:.2f},{upward:.2f}" for across, upward in stroke)
            if len(stroke) > 1:
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                    f'stroke-linejoin="round"{dash}>{told}</polyline>'
                )
            for across, upward in stroke if len(stroke) == 1 or len(known) <= 100 else ():
                parts.append(
                    f'<circle cx="{across:.2f}" cy="{upward:.2f}" r="3" fill="{colour}">{told}'
                    "</circle>"
                )
    summary = f"{y_label} by {x_label}: {', '.join(series)}."
    return _svg(title, summary, bottom + 44, parts)


def flows(title: str, pairs: Sequence[tuple[str, str, int]]) -> str:
    """What goes from which label to which, counted: a band for each pair, as thick as its count.

    Made for swap sets: what keeps its label is grey, what changes has the colour of where it was.
    The smallest labels beyond ``MOST_NODES`` a side are one node.

    Raises:
        ValueError: a count is negative.
    """
    if any(count < 0 for _, _, count in pairs):
        raise ValueError("a count is negative")
    heading, y = _heading(title)
    counts = Counter[tuple[str, str]]()
    for source, target, count in pairs:
        counts[source, target] += count
    total = counts.total()
    if not total:
        return _nothing(title, heading, y)
    lefts, rights, both = Counter[str](), Counter[str](), Counter[str]()
    for (source, target), count in counts.items():
        lefts[source] += count
        rights[target] += count
        both.update({source: count})
        both.update({target: count})
    order = sorted(both, key=lambda label: (-both[label], label))
    left, right = _Side.of(lefts, order), _Side.of(rights, order)
    bands = Counter[tuple[int, int, bool]]()
    for (source, target), count in counts.items():
        bands[left.node[source], right.node[target], source == target] += count

    room, bar, thick = 210, 12, 300 / total
    top = y + 30
    left_at, right_at = _EDGE + room + 8, WIDTH - _EDGE - room - 8 - bar
    left_tops, left_end = left.stack(top, thick)
    right_tops, right_end = right.stack(top, thick)
    parts = [heading, _text(left_at + bar, y + 14, "from", anchor="end", fill=_FAINT)]
    parts.append(_text(right_at, y + 14, "to", fill=_FAINT))
    out, into = list(left_tops), list(right_tops)
    middle = (left_at + bar + right_at) / 2
    for (source_node, target_node, stays), count in sorted(bands.items()):
        if not count:
            continue
        height = count * thick
        a, b = out[source_node], into[target_node]
        out[source_node] += height
        into[target_node] += height
        colour = "#8c8c8c" if stays else SERIES[source_node % (len(SERIES) - 1)]
        told = f"{left.names[source_node]} → {right.names[target_node]}: {count:,}"
        parts.append(
            f'<path class="band" d="M{left_at + bar},{a:.2f} '
            f"C{middle},{a:.2f} {middle},{b:.2f} {right_at},{b:.2f} V{b + height:.2f} "
            f"C{middle},{b + height:.2f} {middle},{a + height:.2f} {left_at + bar},{a + height:.2f}"
            f'Z" fill="{colour}" fill-opacity="{0.35 if stays else 0.65}" stroke="{colour}" '
            f'stroke-width="0.5" stroke-opacity="0.65"><title>{_escape(told)}</title></path>'
        )
    for side, tops, at, label_at, anchor in (
        (left, left_tops, left_at, left_at - 8, "end"),
        (right, right_tops, right_at, right_at + bar + 8, "start"),
    ):
        for node, (name, count) in enumerate(zip(side.names, side.counts, strict=True)):
            height = count * thick
            colour = SERIES[node % (len(SERIES) - 1)] if side is left else _FAINT
            parts.append(
                f'<rect class="node" x="{at}" y="{tops[node]:.2f}" width="{bar}" '
                f'height="{max(height, 0.5):.2f}" fill="{colour}"/>'
            )
            value = f"{count:,} ({count / total:.0%})"
            centre = tops[node] + height / 2 + 4
            parts.append(_label(label_at, centre, name, value, room, anchor, between=": "))
    kept = sum(count for (_, _, stays), count in bands.items() if stays)
    bottom = max(left_end, right_end)
    note = f"{total:,} in all: {kept:,} stay as they were (grey), {total - kept:,} move (coloured)"
    parts.append(_text(WIDTH / 2, bottom + 14, note, anchor="middle", fill=_FAINT))
    return _svg(title, f"{note}.", bottom + 30, parts)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values from low to high onto pixels from start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class _Side:
    """The nodes on one side of ``flows``, and which of them each label went to."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    node: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counter[str], order: Sequence[str]) -> _Side:
        labels = [label for label in order if counts[label]]
        zeros = dict.fromkeys((label for label in order if not counts[label]), 0)
        if len(labels) <= MOST_NODES:
            node = zeros | {label: number for number, label in enumerate(labels)}
            return cls(tuple(labels), tuple(counts[label] for label in labels), node)
        shown, rest = labels[: MOST_NODES - 1], labels[MOST_NODES - 1 :]
        node = zeros | {label: number for number, label in enumerate(shown)}
        return cls(
            (*shown, f"{len(rest)} others"),
            (*(counts[label] for label in shown), sum(counts[label] for label in rest)),
            node | dict.fromkeys(rest, len(shown)),
        )

    def stack(self, top: float, thick: float) -> tuple[list[float], float]:
        """Where each node begins, a line of text or more apart, and where the last slot ends."""
        tops = []
        for count in self.counts:
            height = count * thick
            slot = max(height, 16.0)
            tops.append(top + (slot - height) / 2)
            top += slot + 6
        return tops, top


def _scale(values: Iterable[float], start: float, end: float, *, padded: bool = True) -> _Scale:
    found = list(values)
    low, high = min(found), max(found)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):
        half = max(abs(low) * 0.1, 0.5)
        return _Scale(low - half, high + half, start, end)
    pad = (high - low) * 0.04 if padded else 0.0
    return _Scale(low - pad, high + pad, start, end)


def _ticks(low: float, high: float, most: int) -> tuple[list[float], Callable[[float], str]]:
    """At most ``most`` round numbers in [low, high], 1, 2 or 5 times a power of ten apart, and how
    to write them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    steps = (power * times for times in (1, 2, 5, 10, 20))
    step = next(step for step in steps if high // step - math.ceil(low / step) < most)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = decimals <= 6 and max(abs(low), abs(high)) < 1e7

    def show(value: float) -> str:
        return _sign(f"{value:,.{decimals}f}" if plain else f"{value:.4g}")

    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [number * step for number in numbers], show


def _writer(span: float) -> Callable[..., str]:
    """Writes values with three digits or so of the span of all."""
    decimals = min(max(2 - math.floor(math.log10(span)), 0), 6) if span > 0 else 2

    def show(value: float, *, signed: bool = False) -> str:
        plus = "+" if signed else ""
        plain = abs(value) < 1e7 and not (span and span < 1e-5)
        return _sign(f"{value:{plus},.{decimals}f}" if plain else f"{value:{plus}.3g}")

    return show


def _sign(number: str) -> str:
    if number[0] == "-" and not any(digit in number for digit in "123456789"):
        number = number[1:]
    return number.replace("-", "−")


def _axis_x(scale: _Scale, top: float, bottom: float, unit: str) -> str:
    """Grid lines, the line at the bottom, tick labels that do not touch, and the unit."""
    width = scale.end - scale.start
    most = 8
    ticks, show = _ticks(scale.low, scale.high, most)
    while most > 1 and sum(_width(show(tick), _SIZE) + 10 for tick in ticks) > width:
        most -= 1
        ticks, show = _ticks(scale.low, scale.high, most)
    parts = []
    for tick in ticks:
        at = scale(tick)
        parts.append(_line(at, top, at, bottom, _GRID))
        parts.append(_text(at, bottom + 16, show(tick), anchor="middle", fill=_FAINT))
    parts.append(_line(scale.start, bottom, scale.end, bottom, _FAINT))
    middle = (scale.start + scale.end) / 2
    named = _cut(unit, width, _SIZE)
    parts.append(_text(middle, bottom + 34, named, anchor="middle", fill=_FAINT))
    return "".join(parts)


def _marker(scale: _Scale, value: float, text: str, y: float, *, bold: bool = False) -> str:
    half = _width(text, _SIZE, bold=bold) / 2
    at = min(max(scale(value), scale.start + half), scale.end - half)
    return _text(at, y, text, anchor="middle", bold=bold)


def _legend(series: Sequence[str], y: float) -> tuple[str, float]:
    """Swatches with names in as many lines as they need, and where the next thing may begin."""
    parts, x = [], float(_EDGE)
    y += 6
    for number, name in enumerate(series):
        short = _cut(name, 180, _SIZE)
        wide = 18 + _width(short, _SIZE) + 18
        if x > _EDGE and x + wide > WIDTH - _EDGE:
            x, y = float(_EDGE), y + 20
        colour = SERIES[number % len(SERIES)]
        parts.append(f'<rect x="{x:.2f}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 18, y + 10, short, full=name))
        x += wide
    return "".join(parts), y + 22


def _colour(series: Sequence[str], name: str) -> str:
    return SERIES[series.index(name) % len(SERIES)]


def _dash(number: int) -> str:
    """Series that share a colour differ in their dashes."""
    dashes = ("", "7 3", "2 3", "9 3 2 3")[number // len(SERIES) % 4]
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _label(
    x: float,
    y: float,
    name: str,
    value: str,
    room: float,
    anchor: str = "end",
    between: str = " = ",
) -> str:
    """Name and value on one line of at most ``room``; the value is cut last."""
    if not value:
        return _text(x, y, _cut(name, room, _SIZE), anchor=anchor, full=name)
    value = _plain(value)
    full = f"{_plain(name)}{between}{value}"
    if _width(full, _SIZE) > room:
        value = _cut(value, room * 0.6, _SIZE)
        tail = f"{between}{value}"
        short = f"{_cut(name, room - _width(tail, _SIZE), _SIZE)}{tail}"
    else:
        short = full
    return _text(x, y, short, anchor=anchor, full=full)


def _nothing(title: str, heading: str, y: float) -> str:
    parts = [heading, _text(_EDGE, y + 20, "Nothing to show yet.", fill=_FAINT)]
    return _svg(title, "Nothing to show yet.", y + 40, parts)


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
