"""Simulations as a task: a branch of the log with a scenario on top, beside its base line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import fmean
from typing import Any
from uuid import UUID

import polars as pl
from polars import col

from commands.handler import stream_id
from commands.simulations import scenario_stream
from domain import catalogue
from domain.order_state import Status
from domain.simulations import MOST_DAYS, ScenarioGenerated, words
from eventstore import Log
from ml.branch import Branch, Fork
from ml.job import CannotBeDone, Found, Job, Report, Tools
from ml.replay import tables
from ml.scenarios import FIELDS, NothingToSample, Past, Sampling, expected
from ml.scorers import Scorers
from ml.simulated_days import OpenOrder, SimulatedDays
from ml.simulation_report import (
    DayFigures,
    KpiDifference,
    Pair,
    RunDigest,
    SimulationResults,
    affected,
    interval,
    paired,
)
from projections.accumulate import Accumulator
from projections.catalogue import TABLES
from projections.contributions import contributions
from projections.engine import finish, merge
from projections.frames import wanted
from projections.kpi_formulas import KPIS, day_rows, figures
from projections.kpis import DAILY_KPIS, ORDER_KPIS, STOCK_DAYS
from projections.orders import ORDER_SUMMARY
from projections.reading import LogReader
from projections.table import Table

#: Orders of one branch, those that were under way included.
MOST_ORDERS = 20_000
#: KPIs that stand among a task's figures.
_SHOWN = ("otif", "late_share", "lead_time", "stock_outs", "carbon_per_order", "cost_per_order")
_COUNTED = ("orders", "delivered", "late", "cancelled")
_OPEN = tuple(
    one.value for one in (Status.PLACED, Status.ALLOCATED, Status.PARTLY_SHIPPED, Status.SHIPPED)
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one branch came to. ``kpis``: by name and currency."""

    branch: Branch
    kpis: Mapping[tuple[str, str | None], float | None]
    days: Mapping[date, Mapping[str, float]]
    sites: Mapping[str, Mapping[str, float]]
    skus: Mapping[str, Mapping[str, float]]
    decided_by: Counter[str]


@dataclass(frozen=True, slots=True)
class Begun:
    """Where simulations begin: the fork, what is drawn from, and what was under way."""

    fork: Fork
    past: Past
    open_orders: Sequence[OpenOrder]


async def simulation(tools: Tools, job: Job, report: Report) -> Found:
    """Run a scenario and its base line, as often as was asked; the figures, and all of it as JSON.

    Raises:
        CannotBeDone: the scenario is gone, or there is nothing to simulate, or too much.
    """
    asked = job.asked.simulation
    assert asked is not None
    scenario = await scenario_of(tools.log, job.organisation_id, asked.scenario_id)
    head = await tools.log.head()
    # Begun again, by another worker, it is the same branch.
    position = job.cause.position if asked.position is None else asked.position
    if position > head:
        told = f"the log ends at position {head:,}: there is no {position:,} to leave it at"
        raise CannotBeDone("simulation.position_ahead", told)
    begun = await begin(
        tools.url, tools.log, job.organisation_id, position, scenario.sample_days, report
    )
    check_size(begun, scenario)
    scorers = Scorers(tools.artifacts)
    total = 2 * scenario.horizon_days * asked.replications
    runs: list[tuple[Outcome, Outcome]] = []
    for number in range(asked.replications):
        sides = []
        for side, disturbed in enumerate((False, True)):
            before = scenario.horizon_days * (2 * number + side)

            def told_day(day: int, before: int = before) -> None:
                report(before + day, total, "days simulated")

            one = scenario if disturbed else without_disturbances(scenario)
            sides.append(await run(begun, one, number, scorers, told_day))
        runs.append((sides[0], sides[1]))
    found = results(job.asked.task_id, scenario, begun, runs)
    return Found(
        figures_of(found),
        found.model_dump_json().encode(),
        "application/json",
        "simulation.json",
    )


async def scenario_of(log: Log, organisation_id: UUID, scenario_id: str) -> ScenarioGenerated:
    """A scenario, also one that was retired since.

    Raises:
        CannotBeDone: there is none.
    """
    id_ = stream_id(organisation_id, scenario_stream(scenario_id))
    for stored in (await log.streams([id_])).get(id_, []):
        event = catalogue.decode(stored.topic, stored.state)
        if isinstance(event, ScenarioGenerated):
            return event
    raise CannotBeDone("scenario.unknown", f"there is no scenario {scenario_id}")


def without_disturbances(scenario: ScenarioGenerated) -> ScenarioGenerated:
    """The base line of a scenario."""
    return scenario.model_copy(update={"disturbances": ()})


async def begin(
    url: str, log: Log, organisation_id: UUID, position: int, sample_days: int, report: Report
) -> Begun:
    """Read the log up to a position once, from its segments where there are any.

    Raises:
        CannotBeDone: there is nothing to draw from.
    """
    folded = _tables()
    held = {table: Accumulator(table) for table in folded}
    fields = wanted(folded)
    for event, names in FIELDS.items():
        fields[event] = fields.get(event, set()) | names
    sampling = Sampling(sample_days)
    async with LogReader(url) as reader:
        done = 0
        while done < position:
            report(done, position, "reading the log, by positions")
            start, done = done, await reader.window_end(done, position)
            frames = await reader.frames(fields, start, done, organisation_id)
            sampling.read(frames)
            for table in folded:
                held[table].add(merge(table, [contributions(table, frames)]))
    try:
        past = sampling.past()
    except NothingToSample as error:
        raise CannotBeDone("simulation.nothing_to_sample", str(error)) from error
    parts = {table: one.part() for table, one in held.items()}
    fork = Fork(log, organisation_id, position, parts)
    return Begun(fork, past, _open_orders(parts[ORDER_SUMMARY], past, sample_days))


def _tables() -> tuple[Table, ...]:
    """What decisions and KPIs are made of, and orders."""
    of_kpis = (TABLES[kpi.table] for kpi in KPIS.values())
    return tuple(dict.fromkeys((*tables(), *of_kpis, DAILY_KPIS, ORDER_KPIS, ORDER_SUMMARY)))


def _open_orders(part: pl.DataFrame, past: Past, sample_days: int) -> list[OpenOrder]:
    """Orders under way that were placed in the sampled days or since; older ones are left alone."""
    oldest = past.start - timedelta(days=sample_days + 1)
    rows = finish(ORDER_SUMMARY, part).filter(
        col("status").is_in(_OPEN) & (col("placed_at").dt.date() >= oldest)
    )
    columns = ("order_id", "status", "site_id", "service_level", "region", "placed")
    found = []
    for row in rows.sort("order_id").select(columns).iter_rows():
        order_id, status, site_id, service_level, region, placed = row
        lines = [(one["sku"], Decimal(one["quantity"])) for one in json.loads(placed)["lines"]]
        found.append(OpenOrder(order_id, status, site_id, service_level, region, lines))
    return found


def check_size(begun: Begun, scenario: ScenarioGenerated) -> None:
    """Refuse what would take too long, before it is begun.

    Raises:
        CannotBeDone: more orders than a branch may have.
    """
    placed = sum(
        expected(begun.past, scenario.seed, day, scenario.disturbances)
        for day in range(1, scenario.horizon_days + 1)
    )
    orders = placed + len(begun.open_orders)
    if orders > MOST_ORDERS:
        told = (
            f"{orders:,} orders in {scenario.horizon_days} days, {MOST_ORDERS:,} at the most: "
            f"simulate fewer days (of {MOST_DAYS} at the most)"
        )
        raise CannotBeDone("simulation.too_many_orders", told)


async def run(
    begun: Begun,
    scenario: ScenarioGenerated,
    replication: int,
    scorers: Scorers,
    on_day: Callable[[int], None],
    *,
    keep: bool = False,
) -> Outcome:
    """Let a scenario's days go by on a branch of their own.

    Args:
        replication: is added to the scenario's seed.
        on_day: told the number of each day that is over, and of the running one now and then; it
            raises where it is to stop.
        keep: hold on to the branch's events.
    """
    seed = scenario.seed + replication
    which = "scenario" if scenario.disturbances else "base line"
    branch = Branch(begun.fork, f"{seed} {which}", scorers, keep=keep)
    days = SimulatedDays(branch, begun.past, seed, scenario.disturbances, begun.open_orders, on_day)
    await days.run(scenario.horizon_days)
    last = begun.past.start + timedelta(days=scenario.horizon_days - 1)
    return _outcome(branch, begun.past.start, last, days.decided_by)


def _outcome(branch: Branch, first: date, last: date, decided_by: Counter[str]) -> Outcome:
    rows = {
        table: day_rows(table.name, branch.rows(table), first, last)
        for table in dict.fromkeys(TABLES[kpi.table] for kpi in KPIS.values())
    }
    kpis: dict[tuple[str, str | None], float | None] = {}
    for name, kpi in KPIS.items():
        told = figures(kpi, rows[TABLES[kpi.table]], ())
        for row in told.iter_rows(named=True):
            kpis[name, row.get("currency")] = row["value"]
    daily = branch.rows(DAILY_KPIS).filter(col("day").is_between(first, last))
    return Outcome(
        branch=branch,
        kpis=kpis,
        days=_sums(daily, "day", _COUNTED),
        sites=_sums(
            branch.rows(ORDER_KPIS).filter(
                col("day").is_between(first, last) & (col("site_id") != "")
            ),
            "site_id",
            ("delivered", "late"),
        ),
        skus=_articles(branch.rows(STOCK_DAYS), first, last),
        decided_by=decided_by,
    )


def _sums(rows: pl.DataFrame, by: str, columns: Sequence[str]) -> dict[Any, dict[str, float]]:
    """The sums of some columns, by another one."""
    sums = rows.group_by(by).agg(col(name).sum().cast(float) for name in columns).sort(by)
    return {one: dict(zip(columns, told, strict=True)) for one, *told in sums.iter_rows()}


def _articles(moves: pl.DataFrame, first: date, last: date) -> dict[str, dict[str, float]]:
    """By article: units used and taken in within the days, and what is left of it at their end."""
    within = col("day") >= first
    moved = moves.filter(col("day") <= last).with_columns(
        used=pl.when(within).then(col("used")).otherwise(0),
        came_in=pl.when(within).then(col("change") + col("used")).otherwise(0),
        left_at_end=col("change"),
    )
    return _sums(moved, "sku", ("used", "came_in", "left_at_end"))


def results(
    simulation_id: str,
    scenario: ScenarioGenerated,
    begun: Begun,
    runs: Sequence[tuple[Outcome, Outcome]],
) -> SimulationResults:
    """Base lines and scenarios side by side."""
    first = begun.past.start
    days = [first + timedelta(days=number) for number in range(scenario.horizon_days)]
    by_day = {
        day: paired([(base.days.get(day, {}), other.days.get(day, {})) for base, other in runs])
        for day in days
    }
    nothing = Pair(base_line=0, scenario=0)
    return SimulationResults(
        simulation_id=simulation_id,
        scenario_id=scenario.scenario_id,
        position=begun.fork.position,
        first_day=first,
        last_day=days[-1],
        replications=len(runs),
        sampled_orders=begun.past.orders,
        disturbances=tuple(words(one) for one in scenario.disturbances),
        kpis=tuple(_differences(runs)),
        days=tuple(
            DayFigures(day=day, **{name: told.get(name, nothing) for name in _COUNTED})
            for day, told in by_day.items()
        ),
        sites=affected([(base.sites, other.sites) for base, other in runs]),
        skus=affected([(base.skus, other.skus) for base, other in runs]),
        events=paired([(base.branch.happened, other.branch.happened) for base, other in runs]),
        refused=paired([(base.branch.refused, other.branch.refused) for base, other in runs]),
        decided_by=paired([(base.decided_by, other.decided_by) for base, other in runs]),
        digests=tuple(
            RunDigest(
                seed=scenario.seed + number,
                base_line=base.branch.digest,
                scenario=other.branch.digest,
            )
            for number, (base, other) in enumerate(runs)
        ),
    )


def _differences(runs: Sequence[tuple[Outcome, Outcome]]) -> Iterator[KpiDifference]:
    keys = dict.fromkeys(key for run in runs for side in run for key in side.kpis)
    for name, currency in keys:
        kpi = KPIS[name]
        pairs = [
            (one, two)
            for base, other in runs
            if (one := base.kpis.get((name, currency))) is not None
            and (two := other.kpis.get((name, currency))) is not None
        ]
        apart = [two - one for one, two in pairs]
        low, high = interval(apart) or (None, None)
        yield KpiDifference(
            kpi=name,
            title=kpi.title,
            unit=kpi.unit,
            better=kpi.better,
            currency=currency,
            base_line=fmean(one for one, _ in pairs) if pairs else None,
            scenario=fmean(two for _, two in pairs) if pairs else None,
            difference=fmean(apart) if pairs else None,
            low=low,
            high=high,
            runs=len(pairs),
        )


def figures_of(found: SimulationResults) -> dict[str, int | float | str]:
    """The few figures that a task tells."""
    told: dict[str, int | float | str] = {
        "position": found.position,
        "days": len(found.days),
        "replications": found.replications,
    }
    for name, counted in (("events", found.events), ("refused", found.refused)):
        told[f"{name}_base_line"] = round(sum(one.base_line for one in counted.values()))
        told[f"{name}_scenario"] = round(sum(one.scenario for one in counted.values()))
    told["digest_base_line"] = found.digests[0].base_line
    told["digest_scenario"] = found.digests[0].scenario
    shown = [one for one in found.kpis if one.kpi in _SHOWN]
    for name in _SHOWN:
        # Of several currencies none is shown: they cannot be compared.
        mine = [one for one in shown if one.kpi == name and one.difference is not None]
        if len(mine) == 1 and mine[0].base_line is not None and mine[0].scenario is not None:
            told[f"{name}_base_line"] = mine[0].base_line
            told[f"{name}_scenario"] = mine[0].scenario
    return told
