"""KPI reports: one KPI by days, sites or clients; and all of them on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import polars as pl
from pydantic import Field

from projections.kpi_formulas import GROUPS, KPIS, Kpi, figures
from readmodels.database import ReadModels, Row
from readmodels.kpi_sums import SOURCES, Bucket, Only, Period, TooMuch, sums

#: Days of a report, and of a dashboard, at the most.
MOST_DAYS, DASHBOARD_DAYS = 1_100, 400
#: Rows that a report tells at the most.
MOST_FIGURES = 5_000
#: Read models that some KPI is made of.
TABLES = tuple(
    sorted(
        {
            source
            for kpi in KPIS.values()
            for name in (kpi.table, kpi.client_table)
            if name
            for source in SOURCES.get(name, (name,))
        }
    )
)
_TIMES: tuple[Bucket, ...] = ("day", "week", "month")
_COLUMNS: Mapping[str, str] = {name: one.meta.output_name() for name, one in GROUPS.items()}
_GROUP_OF = {column: name for name, column in _COLUMNS.items()}


class BadReport(ValueError):
    """A KPI that is not known, or cannot be reported like that; the message says how it can."""


class KpiEntry(Row):
    """A KPI of the catalogue. ``by``: what it can be grouped by."""

    name: str
    title: str
    unit: str
    better: str
    formula: str
    source: str
    by: tuple[str, ...]


class KpiFigure(Row):
    """One group's figure. ``group``: its day, site and so on; ``sums``: what it is made of."""

    group: dict[str, str]
    value: float | None = Field(description="null where there is nothing to tell it from.")
    sums: dict[str, float]


class KpiTotal(Row):
    """The whole period against the period of the same length before it. Amounts of money have one
    for each currency."""

    currency: str | None
    value: float | None
    previous: float | None
    change: float | None
    is_better: bool | None


class KpiReport(Row):
    """A KPI of a period; days are those on which orders were placed, goods moved, decisions were
    made (UTC), both ends included."""

    kpi: KpiEntry
    first: date
    last: date
    previous_first: date
    previous_last: date
    by: tuple[str, ...]
    rows: tuple[KpiFigure, ...]
    totals: tuple[KpiTotal, ...]


class KpiPoint(Row):
    """A day's figure."""

    day: date
    value: float | None


class KpiTile(Row):
    """A KPI on a dashboard: the period, the period before, and day by day."""

    kpi: KpiEntry
    currency: str | None
    value: float | None
    previous: float | None
    change: float | None
    is_better: bool | None
    series: tuple[KpiPoint, ...]


class Dashboard(Row):
    """All KPIs of a period."""

    first: date
    last: date
    previous_first: date
    previous_last: date
    tiles: tuple[KpiTile, ...]


def entry(kpi: Kpi) -> KpiEntry:
    """A KPI as the catalogue tells it."""
    return KpiEntry(
        name=kpi.name,
        title=kpi.title,
        unit=kpi.unit,
        better=kpi.better,
        formula=kpi.formula,
        source=kpi.source,
        by=kpi.groups,
    )


def catalogue() -> tuple[KpiEntry, ...]:
    """Every KPI that there is."""
    return tuple(entry(kpi) for kpi in KPIS.values())


def period_of(first: date | None, last: date | None, today: date, most: int = MOST_DAYS) -> Period:
    """The days of a report: the thirty up to today where nobody says otherwise.

    Raises:
        BadReport: they end before they begin, or are too many.
    """
    for name, day in (("from", first), ("to", last)):
        if day is not None and not 1000 <= day.year <= 9000:
            raise BadReport(f"{name}: {day} is outside the years 1000 to 9000")
    last = last or (today if first is None else max(first, today))
    first = first or last - timedelta(days=29)
    if first > last:
        raise BadReport(f"from: {first} is after to, {last}")
    period = Period(first, last)
    if period.days > most:
        raise BadReport(f"from, to: {first} to {last} are {period.days} days; at most {most}")
    return period


def grouping(kpi: Kpi, by: Sequence[str], only: Only) -> tuple[str, ...]:
    """What a report is grouped by: one unit of time at the most, first; then the others.

    Raises:
        BadReport: the KPI cannot be grouped, or limited, like that.
    """
    asked = tuple(dict.fromkeys(by))
    limited = tuple(_GROUP_OF[column] for column in only.columns)
    for name, field in (*((one, "by") for one in asked), *((one, one) for one in limited)):
        if name not in kpi.groups:
            raise BadReport(
                f"{field}: {kpi.name} is not told by {name[:40]!r}, but by {', '.join(kpi.groups)}"
            )
    times = [name for name in asked if name in _TIMES]
    if len(times) > 1:
        raise BadReport(f"by: one of {', '.join(_TIMES)}, not {' and '.join(times)}")
    return (*times, *(name for name in asked if name not in _TIMES))


async def report(
    read: ReadModels, kpi: Kpi, period: Period, by: Sequence[str] = (), only: Only | None = None
) -> KpiReport:
    """A KPI of a period, grouped, with its total and that of the period before.

    Raises:
        BadReport: the KPI cannot be grouped like that, or it would be too long.
    """
    only = only or Only()
    by = grouping(kpi, by, only)
    by_client = "client" in by or only.customer_id is not None
    table = kpi.client_table if by_client and kpi.client_table else kpi.table
    columns = [_COLUMNS[name] for name in by if name not in _TIMES]
    if kpi.unit == "minor_units":
        columns.append("currency")
    bucket: Bucket = next((time for time in _TIMES if time in by), "all")
    try:
        found = await sums(read, [table], period, groups=columns, only=only, bucket=bucket)
    except TooMuch as error:
        raise BadReport(f"by: {error}") from error
    now, before = found[table]
    told = figures(kpi, now, by) if by else now.head(0)
    if told.height > MOST_FIGURES:
        raise BadReport(
            f"by: {told.height} rows, at most {MOST_FIGURES}: ask for a shorter period, or by less"
        )
    return KpiReport(
        kpi=entry(kpi),
        first=period.first,
        last=period.last,
        previous_first=period.before.first,
        previous_last=period.before.last,
        by=by,
        rows=tuple(_figure(kpi, row) for row in told.iter_rows(named=True)) if by else (),
        totals=tuple(KpiTotal(**total) for total in _totals(kpi, now, before)),
    )


async def dashboard(read: ReadModels, period: Period, only: Only | None = None) -> Dashboard:
    """All KPIs that can be limited like that, day by day, in one query."""
    only = only or Only()
    limited = {_GROUP_OF[column] for column in only.columns}
    shown = [kpi for kpi in KPIS.values() if limited <= set(kpi.groups)]
    tables = {kpi.name: _table_of(kpi, only) for kpi in shown}
    found = await sums(read, set(tables.values()), period, groups=["currency"], only=only)
    return Dashboard(
        first=period.first,
        last=period.last,
        previous_first=period.before.first,
        previous_last=period.before.last,
        tiles=tuple(
            tile for kpi in shown for tile in _tiles(kpi, *found[tables[kpi.name]], period)
        ),
    )


def _table_of(kpi: Kpi, only: Only) -> str:
    of_client = kpi.client_table if only.customer_id is not None else None
    return of_client or kpi.table


def _tiles(kpi: Kpi, now: pl.DataFrame, before: pl.DataFrame, period: Period) -> list[KpiTile]:
    days = figures(kpi, now, ["day"])
    series: dict[str | None, dict[date, float | None]] = {}
    for row in days.iter_rows(named=True):
        currency = row["currency"] if kpi.unit == "minor_units" else None
        series.setdefault(currency, {})[row["day"]] = row["value"]
    every = [period.first + timedelta(days=number) for number in range(period.days)]
    return [
        KpiTile(
            kpi=entry(kpi),
            **total,
            series=tuple(
                KpiPoint(day=day, value=series.get(total["currency"], {}).get(day)) for day in every
            ),
        )
        for total in _totals(kpi, now, before)
    ]


def _figure(kpi: Kpi, row: Mapping[str, Any]) -> KpiFigure:
    sums = {name: row[name] for name in kpi.columns}
    group = {name: str(value) for name, value in row.items() if name not in (*sums, "value")}
    return KpiFigure(group=group, value=row["value"], sums=sums)


def _totals(kpi: Kpi, now: pl.DataFrame, before: pl.DataFrame) -> list[dict[str, Any]]:
    values, earlier = _by_currency(kpi, now), _by_currency(kpi, before)
    currencies = sorted(values.keys() | earlier.keys(), key=lambda one: one or "")
    return [
        {"currency": currency, **compared(kpi, values.get(currency), earlier.get(currency))}
        for currency in currencies or [None]
    ]


def _by_currency(kpi: Kpi, rows: pl.DataFrame) -> dict[str | None, float | None]:
    found = figures(kpi, rows, ())
    if "currency" not in found.columns:
        return {None: found["value"].item()}
    return dict(zip(found["currency"], found["value"], strict=True))


def compared(kpi: Kpi, value: float | None, previous: float | None) -> dict[str, Any]:
    """A figure beside that of the period before; it is better or worse where both are known."""
    change = None if value is None or previous is None else value - previous
    return {
        "value": value,
        "previous": previous,
        "change": change,
        "is_better": None if not change else (change > 0) == (kpi.better == "higher"),
    }
