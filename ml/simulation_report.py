"""What came of a simulation: figures of the base line and of the scenario beside it, for machines
as JSON and for people as pictures and one page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict, Field

from domain.values import money
from ml.pictures import bars, lines
from ml.report import Block, Heading, Picture, Report, Rows, Text, as_html

#: Sites, articles that a result tells of: those that differ most.
MOST_AFFECTED = 10
_SERIES = ("base line", "scenario")
#: Student's t, two-sided 95 %, by degrees of freedom (any table of it).
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Pair(_Told):
    """A figure of the base line and of the scenario; means, where it was run several times."""

    base_line: float
    scenario: float


class KpiDifference(_Told):
    """A KPI of the orders and stock of the simulated days. ``difference``: scenario less base line,
    the mean over all runs; ``low`` to ``high``: its 95 % confidence interval (Student's t over
    paired differences), where there are two runs or more. Null: it says nothing there."""

    kpi: str
    title: str
    unit: str
    better: str
    currency: str | None
    base_line: float | None
    scenario: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    runs: int

    @property
    def relative(self) -> float:
        """The difference as a share of the base line; NaN where there is none."""
        if self.difference is None or not self.base_line:
            return math.nan
        return self.difference / abs(self.base_line)


class DayFigures(_Told):
    """What became of the orders that were placed on a day."""

    day: date
    orders: Pair
    delivered: Pair
    late: Pair
    cancelled: Pair


class Affected(_Told):
    """A site, or an article, and what differs: of a site the orders delivered and late;
    of an article the units used and the days without stock."""

    name: str
    figures: dict[str, Pair]


class RunDigest(_Told):
    """The seed of a run and SHA-256 over all events of its branches: the same of the same."""

    seed: int
    base_line: str
    scenario: str


class SimulationResults(_Told):
    """What came of a simulation.

    ``position``: where the branches leave the log. ``decided_by``: how many decisions of which kind
    which model made, or the kind's rule (``rule_based``). ``refused``: how often which rule refused
    a command: what could not be done.
    """

    simulation_id: str
    scenario_id: str
    position: int
    first_day: date
    last_day: date
    replications: int
    sampled_orders: int
    disturbances: tuple[str, ...] = Field(description="The scenario, in words.")
    kpis: tuple[KpiDifference, ...]
    days: tuple[DayFigures, ...]
    sites: tuple[Affected, ...]
    skus: tuple[Affected, ...]
    events: dict[str, Pair]
    refused: dict[str, Pair]
    decided_by: dict[str, Pair]
    digests: tuple[RunDigest, ...]


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the mean of paired differences; None for fewer than two."""
    n = len(differences)
    if n < 2:
        return None
    half = _T95[min(n - 1, len(_T95)) - 1] * stdev(differences) / math.sqrt(n)
    mean = fmean(differences)
    return mean - half, mean + half


def paired(runs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Pair]:
    """The means over runs of what base line and scenario have, by name; what is not there is 0."""
    names = sorted({name for run in runs for side in run for name in side})
    return {
        name: Pair(
            base_line=fmean(base.get(name, 0) for base, _ in runs),
            scenario=fmean(scenario.get(name, 0) for _, scenario in runs),
        )
        for name in names
    }


def affected(
    runs: Sequence[tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]]],
) -> tuple[Affected, ...]:
    """Those whose figures differ most, the largest sum of differences first."""
    names = sorted({name for run in runs for side in run for name in side})
    found = [
        Affected(
            name=name,
            figures=paired(
                [(base.get(name, {}), scenario.get(name, {})) for base, scenario in runs]
            ),
        )
        for name in names
    ]

    def differs(one: Affected) -> float:
        return sum(abs(pair.scenario - pair.base_line) for pair in one.figures.values())

    found.sort(key=lambda one: (-differs(one), one.name))
    return tuple(one for one in found if differs(one) > 0)[:MOST_AFFECTED]


# pictures


def _share(part: float, of: float) -> float:
    return part / of if of else math.nan


_DAILY: Mapping[str, tuple[str, str, Callable[[DayFigures, str], float]]] = {
    "orders": ("Orders placed", "orders", lambda one, side: getattr(one.orders, side)),
    "late": (
        "Late share, by the day placed",
        "late, of those delivered",
        lambda one, side: _share(getattr(one.late, side), getattr(one.delivered, side)),
    ),
    "delivered": (
        "Delivered by the end, by the day placed",
        "of the orders of the day",
        lambda one, side: _share(getattr(one.delivered, side), getattr(one.orders, side)),
    ),
}
#: The pictures that there are of a result.
PICTURES = ("kpis", *_DAILY)


def picture(found: SimulationResults, name: str) -> str:
    """A picture of a result as SVG, by its name."""
    if name == "kpis":
        return differences({"scenario": found}, f"What scenario {found.scenario_id} changes")
    title, unit, figure = _DAILY[name]
    series = {
        told: [(float(number), figure(one, side)) for number, one in enumerate(found.days, 1)]
        for told, side in zip(_SERIES, ("base_line", "scenario"), strict=True)
    }
    return lines(title, series, f"day of the simulation, from {found.first_day}", unit)


def differences(of: Mapping[str, SimulationResults], title: str) -> str:
    """Each KPI's difference from its base line in per cent, for some simulations, as bars."""
    rows: dict[str, dict[str, float]] = {}
    for name, found in of.items():
        for one in found.kpis:
            told = one.title if one.currency is None else f"{one.title}, {one.currency}"
            if one.difference is not None:
                rows.setdefault(told, {})[name] = 100 * one.relative
    return bars(title, list(rows.items()), "per cent of the base line")


# the page


def page(found: SimulationResults) -> str:
    """A result as one HTML page that needs no other file."""
    return as_html(Report(f"Simulation {found.simulation_id}", list(_blocks(found))))


def _blocks(found: SimulationResults) -> Iterator[Block]:
    yield Text(
        f"Scenario {found.scenario_id} from {found.first_day} to {found.last_day}, on branches of "
        f"the log at position {found.position:,}, against a base line without its disturbances. "
        f"Both met the same chance; {found.replications} "
        f"{'run' if found.replications == 1 else 'runs'}. Nothing of it is on the log."
    )
    for told in found.disturbances:
        yield Text(f"{told}.")
    yield Heading("Key figures")
    yield Rows(
        "KPIs of the orders and stock of these days",
        ("KPI", "base line", "scenario", "difference", "95 % interval"),
        [
            (
                one.title if one.currency is None else f"{one.title} ({one.currency})",
                written(one, one.base_line),
                written(one, one.scenario),
                _apart(one, one.difference),
                "-" if one.low is None else f"{_apart(one, one.low)} to {_apart(one, one.high)}",
            )
            for one in found.kpis
            if one.base_line is not None or one.scenario is not None
        ],
        numbers=4,
    )
    yield Picture("kpis", "Differences", picture(found, "kpis"))
    yield Heading("Day by day")
    for name in _DAILY:
        yield Picture(name, _DAILY[name][0], picture(found, name))
    for title, some in (("Sites", found.sites), ("Articles", found.skus)):
        if some:
            yield Heading(f"{title} that differ most")
            names = list(some[0].figures)
            yield Rows(
                "Base line → scenario",
                (title[:-1], *(name.replace("_", " ") for name in names)),
                [(one.name, *(_both(one.figures.get(name)) for name in names)) for one in some],
                numbers=len(names),
            )
    yield Heading("What happened, and what could not")
    for title, counted in (
        ("Events", found.events),
        ("Refused, by rule", found.refused),
        ("Decided by", found.decided_by),
    ):
        if counted:
            yield Rows(
                title,
                ("", *_SERIES),
                [
                    (name, f"{one.base_line:g}", f"{one.scenario:g}")
                    for name, one in counted.items()
                ],
                numbers=2,
            )


def _both(pair: Pair | None) -> str:
    return "-" if pair is None else f"{pair.base_line:g} → {pair.scenario:g}"


def _apart(one: KpiDifference, value: float | None) -> str:
    """A difference as people write it: that of two shares is told in points, not in per cent."""
    if value is not None and one.unit == "share":
        return f"{value * 100:+.1f} points"
    return written(one, value)


def written(one: KpiDifference, value: float | None) -> str:
    """A figure of a KPI as people write it."""
    if value is None:
        return "-"
    match one.unit:
        case "share":
            return f"{value:.1%}"
        case "minor_units":
            return money(value, one.currency)
        case "count":
            return f"{value:,.0f}"
    return f"{value:,.2f}"
