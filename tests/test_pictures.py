"""Pictures: well-formed, true to their numbers, and no text on another or beyond the edge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.calibration import Bin
from ml.drawing import WIDTH
from ml.pictures import (
    DOWN,
    MOST_NODES,
    UP,
    bars,
    flows,
    lines,
    reliability_diagram,
    waterfall,
)

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<&\"> 'x' \x00 ]]>"
LONG = "the free stock on hand at the chosen site after this order " * 4

LABEL = st.text(max_size=30) | st.sampled_from([NASTY, LONG, "WWWWWWWWWW" * 20, ""])
NUMBER = st.floats(-1e6, 1e6)
ANY = st.floats()


@dataclass(frozen=True)
class Box:
    """Where a text is, by widths of Arial-like letters: 0.55 em each."""

    text: str
    left: float
    right: float
    baseline: float
    size: float

    def touches(self, other: Box) -> bool:
        apart = abs(self.baseline - other.baseline) >= min(self.size, other.size) * 0.9
        return not apart and self.left < other.right and other.left < self.right


def parsed(picture: str) -> ElementTree.Element:
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert [child.tag for child in root][:3] == [f"{SVG}title", f"{SVG}desc", f"{SVG}rect"]
    ground = root[2]
    assert ground.get("fill") == "#ffffff"
    assert (ground.get("width"), ground.get("height")) == (root.get("width"), root.get("height"))
    assert "nan" not in picture.replace("Nan", "").split("<desc>")[0]
    return root


def boxes(root: ElementTree.Element) -> Iterator[Box]:
    for element in root.iter(f"{SVG}text"):
        told = element.find(f"{SVG}title")
        text = (element.text or "") if told is None else (told.tail or "")
        size = float(element.get("font-size", "12"))
        wide, at = len(text) * size * 0.55, float(element.get("x", "nan"))
        narrow = sum(letter in "ijl.,:;|'!ft()[] " for letter in text) * size * 0.25
        left = (
            at
            - (wide - narrow)
            * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
        )
        yield Box(text, left, left + wide - narrow, float(element.get("y", "nan")), size)


def is_legible(picture: str) -> ElementTree.Element:
    """Parsed, after a look at every text, number and pair of texts."""
    root = parsed(picture)
    height = float(root.get("height", "nan"))
    found = list(boxes(root))
    for box in found:
        assert box.left >= -1, box
        assert box.right <= WIDTH + 1, box
        assert box.size <= box.baseline <= height - 3, box
    for one, other in combinations(found, 2):
        assert not one.touches(other), (one, other)
    for element in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"):
            assert math.isfinite(float(element.get(name, "0")))
        assert float(element.get("width", "0")) >= 0
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [box.text for box in boxes(root)]


def rects(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [each for each in root.iter(f"{SVG}rect") if each.get("class") == kind]


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.get(name, "nan"))


# waterfall


def ends(bar: ElementTree.Element) -> tuple[float, float]:
    """Where a push begins and ends: red leads right, blue leads left."""
    left, right = number(bar, "x"), number(bar, "x") + number(bar, "width")
    return (left, right) if bar.get("fill") == UP else (right, left)


@given(
    LABEL,
    NUMBER,
    st.lists(st.tuples(LABEL, LABEL, NUMBER), max_size=20),
    LABEL,
    st.integers(1, 12),
)
def test_a_waterfall_leads_from_base_to_margin(
    title: str, base: float, pushes: Sequence[tuple[str, str, float]], unit: str, most: int
) -> None:
    margin = base + math.fsum(push for *_, push in pushes)
    root = is_legible(waterfall(title, base, pushes, margin, unit, most))
    drawn = rects(root, "push")
    assert len(drawn) == min(len(pushes), most + 1)
    for before, after in pairwise(drawn):
        assert ends(before)[1] == pytest.approx(ends(after)[0], abs=0.03)
        assert number(before, "y") + number(before, "height") < number(after, "y")
    if len(pushes) <= most + 1:
        wide = [number(bar, "width") for bar in drawn]
        assert wide == sorted(wide, reverse=True) or max(wide) < 0.03


def test_the_bars_of_a_waterfall_are_to_scale() -> None:
    pushes = [("distance", "1,204 km", 2.0), ("carrier", "slow", -0.5), ("stock", "3", 1.0)]
    root = is_legible(waterfall("Order 4711", -1.0, pushes, 1.5))
    first, second, third = rects(root, "push")
    pixel = number(first, "width") / 2.0
    assert number(second, "width") == pytest.approx(pixel * 1.0, abs=0.03)
    assert number(third, "width") == pytest.approx(pixel * 0.5, abs=0.03)
    assert [bar.get("fill") for bar in (first, second, third)] == [UP, UP, DOWN]
    assert ends(third)[1] - ends(first)[0] == pytest.approx(pixel * 2.5, abs=0.03)
    told = texts(root)
    assert {"E[f(x)] = −1.00", "f(x) = 1.50", "distance = 1,204 km", "+2.00", "−0.50"} <= set(told)
    dashes = [each for each in root.iter(f"{SVG}line") if each.get("stroke") == "#222222"]
    assert [number(each, "x1") for each in dashes] == pytest.approx([ends(third)[1]] * 2, abs=0.03)


def test_the_rest_is_one_bar_and_one_more_is_no_rest() -> None:
    pushes = [(f"feature {i}", "1", 1.0 / (i + 1)) for i in range(20)]
    margin = sum(push for *_, push in pushes)
    assert "8 others" in texts(is_legible(waterfall("t", 0.0, pushes, margin)))
    thirteen = waterfall("t", 0.0, pushes[:13], sum(push for *_, push in pushes[:13]))
    assert not any("other" in text for text in texts(is_legible(thirteen)))


@pytest.mark.parametrize(
    ("base", "push", "margin"), [(0.0, 1.0, 1.1), (0.0, math.nan, 0.0), (math.inf, 1.0, math.inf)]
)
def test_a_waterfall_that_does_not_add_up_is_refused(
    base: float, push: float, margin: float
) -> None:
    with pytest.raises(ValueError, match="sum to"):
        waterfall("t", base, [("a", "1", push)], margin)


# bars


@given(
    LABEL,
    st.lists(st.tuples(LABEL, st.dictionaries(LABEL, ANY | NUMBER, max_size=4)), max_size=5),
    LABEL,
)
def test_bars_are_legible_whatever_they_show(
    title: str, rows: Sequence[tuple[str, dict[str, float]]], unit: str
) -> None:
    moderate = [
        (label, {name: value for name, value in values.items() if not 1e12 < abs(value) < math.inf})
        for label, values in rows
    ]
    root = is_legible(bars(title, moderate, unit))
    known = [value for _, values in moderate for value in values.values() if math.isfinite(value)]
    assert len(rects(root, "bar")) == len(known)


def test_bars_start_at_zero_and_are_to_scale() -> None:
    rows = [("now", {"cost": 200.0, "carbon": -50.0}), ("then", {"cost": 100.0})]
    root = is_legible(bars("Policies", rows, "EUR"))
    cost, carbon, then = rects(root, "bar")
    assert number(cost, "width") == pytest.approx(2 * number(then, "width"), abs=0.03)
    assert number(cost, "width") == pytest.approx(4 * number(carbon, "width"), abs=0.03)
    assert number(cost, "x") == number(then, "x")
    assert number(carbon, "x") + number(carbon, "width") == pytest.approx(number(cost, "x"))
    assert cost.get("fill") == then.get("fill") != carbon.get("fill")
    assert {"200", "−50", "100", "cost", "carbon", "now", "then", "EUR"} <= set(texts(root))


# the others


def test_circles_are_where_the_bins_are_and_as_large() -> None:
    found = [Bin(0.0, 0.1, 400, 0.05, 0.0), Bin(0.5, 0.6, 100, 0.5, 0.25)]
    root = is_legible(reliability_diagram("Risks", found))
    large, small = root.iter(f"{SVG}circle")
    assert number(large, "r") == 2 * number(small, "r")
    (diagonal,) = (
        each for each in root.iter(f"{SVG}line") if each.get("stroke-dasharray") == "5 4"
    )
    left, right = number(diagonal, "x1"), number(diagonal, "x2")
    low, high = number(diagonal, "y1"), number(diagonal, "y2")
    assert number(small, "cx") == pytest.approx((left + right) / 2)
    assert number(small, "cy") == pytest.approx(low + (high - low) * 0.25)


@given(
    LABEL,
    st.dictionaries(LABEL, st.lists(st.tuples(NUMBER, NUMBER | ANY), max_size=8), max_size=9),
    LABEL,
    LABEL,
)
def test_lines_are_legible_whatever_they_show(
    title: str, series: dict[str, list[tuple[float, float]]], x_label: str, y_label: str
) -> None:
    moderate = {
        name: [(x, y) for x, y in points if not 1e12 < abs(y) < math.inf]
        for name, points in series.items()
    }
    is_legible(lines(title, moderate, x_label, y_label))


def test_a_gap_breaks_a_line_and_a_lone_point_is_a_dot() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0), (4.0, 3.0)]
    root = is_legible(lines("AUC", {"a": points, "b": [(2.0, 2.0)]}, "week", "AUC"))
    assert [len((each.get("points") or "").split()) for each in root.iter(f"{SVG}polyline")] == [
        2,
        2,
    ]
    assert len(list(root.iter(f"{SVG}circle"))) == 5


@settings(deadline=None)
@given(LABEL, st.lists(st.tuples(LABEL, LABEL, st.integers(0, 10**6)), max_size=40))
def test_flows_lose_nothing(title: str, pairs: list[tuple[str, str, int]]) -> None:
    root = is_legible(flows(title, pairs))
    nodes = rects(root, "node")
    total = sum(count for *_, count in pairs)
    for at in {each.get("x") for each in nodes}:
        side = [each for each in nodes if each.get("x") == at]
        assert len(side) <= MOST_NODES
        stacked = sum(number(each, "height") for each in side)
        assert stacked == pytest.approx(300, abs=0.5 * MOST_NODES + 0.1)
    kept = sum(count for source, target, count in pairs if source == target)
    if total:
        told = f"{total:,} in all: {kept:,} stay as they were (grey), {total - kept:,} move"
        assert any(text.startswith(told) for text in texts(root))


def test_a_swap_is_coloured_and_what_stays_is_grey() -> None:
    pairs = [("NORTH", "NORTH", 70), ("NORTH", "SOUTH", 20), ("SOUTH", "SOUTH", 9), ("B", "A", 1)]
    root = is_legible(flows("Swaps", pairs))
    bands = [each for each in root.iter(f"{SVG}path") if each.get("class") == "band"]
    assert [each.get("fill") == "#8c8c8c" for each in bands].count(True) == 2
    assert "NORTH → SOUTH: 20" in [each[0].text for each in bands]
    assert {"NORTH: 90 (90%)", "SOUTH: 29 (29%)", "A: 1 (1%)", "from", "to"} <= set(texts(root))


def test_many_labels_end_in_others_on_each_side() -> None:
    pairs = [(f"from {i}", f"to {i % 14}", 100 - i) for i in range(30)]
    root = is_legible(flows("Many", pairs))
    told = texts(root)
    assert sum(text.startswith("19 others: ") for text in told) == 1
    assert sum(text.startswith("3 others: ") for text in told) == 1


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        flows("t", [("a", "b", -1)])


def every(label: str) -> list[str]:
    return [
        waterfall(label, 0.0, [(label, label, 1.0)], 1.0, label),
        bars(label, [(label, {label: 1.0})], label),
        reliability_diagram(label, [Bin(0.0, 0.1, 3, 0.05, 0.1)]),
        lines(label, {label: [(0.0, 1.0), (1.0, 2.0)]}, label, label),
        flows(label, [(label, label, 3), (label, "b", 1)]),
    ]


@pytest.mark.parametrize("label", [NASTY, LONG, "", "\ud800", "漢字" * 40, "a\nb\tc"])
def test_any_text_is_escaped_cut_and_legible(label: str) -> None:
    for picture in every(label):
        is_legible(picture)


def test_what_was_cut_can_still_be_read() -> None:
    full = " ".join(LONG.split())
    for picture in (every(LONG)[0], every(LONG)[1], every(LONG)[4]):
        hints = [each.findtext(f"{SVG}title") or "" for each in parsed(picture).iter(f"{SVG}text")]
        assert any(hint.startswith(full) for hint in hints)
    assert "<&\"> 'x' � ]]>" in texts(parsed(bars("t", [(NASTY, {"a": 1.0})], "")))


def test_nothing_to_show_is_said() -> None:
    empty = [bars("t", [], "EUR"), reliability_diagram("t", []), lines("t", {}, "x", "y")]
    empty += [flows("t", []), flows("t", [("a", "b", 0)]), lines("t", {"a": []}, "x", "y")]
    for picture in empty:
        assert texts(is_legible(picture)) == ["t", "Nothing to show yet."]
    assert "f(x) = 0.50" in texts(is_legible(waterfall("t", 0.5, [], 0.5)))


def test_nothing_is_fetched_and_nothing_runs() -> None:
    for picture in every("a"):
        lower = picture.replace("http://www.w3.org/2000/svg", "").lower()
        for word in ("http", "href", "<script", "<style", "url(", " id="):
            assert word not in lower
