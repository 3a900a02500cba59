"""The sums that KPIs are made of, for a period and the one before it, in one query.

Postgres sums what is not asked for apart, so that a report of a year is a few rows. Of stock it
says how it stood before the period and how each day changed it; projections/kpi_formulas.py makes
days of that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any, Literal

import polars as pl

from projections.kpi_formulas import KPIS
from projections.kpi_stock import dense
from projections.kpis import STOCK_MONTHS, STOCK_SITE_DAYS, STOCK_SUMS, to_day
from projections.kpis import TABLES as _DECLARED
from readmodels.database import ReadModels, Row

Bucket = Literal["day", "week", "month", "all"]

#: Rows of one table that a report is made of, at the most.
MOST_ROWS = 50_000
_TABLES = {table.name: table for table in _DECLARED}
_FILTERS = {"site_id": "at_site", "customer_id": "of_client", "currency": "in_currency"}
_BUCKETS: Mapping[Bucket, str] = {
    "day": "day",
    "week": "date_trunc('week', day)::date",
    "month": "date_trunc('month', day)::date",
    "all": "%(first)s::date",
}

#: Tables that are told from others than themselves: stock by site and day, SKUs by month.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "stock_days": (STOCK_SITE_DAYS.name, STOCK_MONTHS.name, STOCK_SUMS.name)
}
_TO = [f"m.{to_day(number)}" for number in range(1, 32)]
_OUTS = [f"count(*) FILTER (WHERE start + {one} <= 0)" for one in _TO]
_BEGUN = [
    f"count(*) FILTER (WHERE start + {one} <= 0 AND start + {before} > 0)"
    for before, one in zip(["0", *_TO], _TO, strict=False)
]

#: From what is in stock now backwards: a SKU's level at the beginning of a month is its sum without
#: this month and the later ones. Only months in which it was down to nothing are looked at by day.
_STOCK = f"""SELECT 'stock_days' AS name, coalesce(jsonb_agg(t), '[]') AS rows FROM (
    WITH kept AS MATERIALIZED (
        SELECT site_id, sku, since, change, (available_change * 1000)::bigint AS available
        FROM read_models.stock_sums
        WHERE organisation_id = %(organisation_id)s
          AND (%(at_site)s::text IS NULL OR site_id = %(at_site)s)
    ), months AS MATERIALIZED (
        SELECT m.site_id, m.sku, m.month, m.change, m.lowest,
            (k.available - sum(m.change) OVER later)::bigint AS start
        FROM (
            SELECT m.site_id, m.sku, m.month, m.{to_day(31)} AS change,
                LEAST(0, {", ".join(_TO)}) AS lowest
            FROM read_models.stock_months m
            WHERE m.organisation_id = %(organisation_id)s
              AND m.month >= date_trunc('month', %(since)s::date)::date
            OFFSET 0 -- so that two numbers are sorted and not all 31
        ) m JOIN kept k USING (site_id, sku)
        WINDOW later AS (PARTITION BY m.site_id, m.sku ORDER BY m.month DESC)
    ), low AS (
        SELECT l.site_id, l.month, array[count(*) FILTER (WHERE start <= 0), {", ".join(_OUTS)}]
                AS outs, array[{", ".join(_BEGUN)}] AS begun
        FROM months l JOIN (
            SELECT * FROM read_models.stock_months
            WHERE organisation_id = %(organisation_id)s
              AND month BETWEEN date_trunc('month', %(since)s::date)::date AND %(last)s
            OFFSET 0 -- read once, and not looked up month by month where many SKUs run out
        ) m USING (site_id, sku, month)
        WHERE l.start + l.lowest <= 0
        GROUP BY l.site_id, l.month
    ), first_days AS (
        SELECT m.site_id, k.since, count(*) AS n,
            count(*) FILTER (WHERE (array[{", ".join(_TO)}])[extract(day FROM k.since)::int] <= 0)
                AS out
        FROM kept k JOIN read_models.stock_months m USING (site_id, sku)
        WHERE m.organisation_id = %(organisation_id)s
          AND k.since BETWEEN date_trunc('month', %(since)s::date)::date AND %(last)s
          AND m.month = date_trunc('month', k.since)::date
        GROUP BY m.site_id, k.since
    ), told AS (
        SELECT site_id, day, change, used, 0 AS out, 0 AS kept, 0 AS stock_outs
        FROM read_models.stock_site_days
        WHERE organisation_id = %(organisation_id)s
          AND day BETWEEN date_trunc('month', %(since)s::date)::date AND %(last)s
          AND (%(at_site)s::text IS NULL OR site_id = %(at_site)s)
    )
    SELECT {{site}} AS site_id, day, sum(change) AS change, sum(used) AS used, sum(out) AS out,
        sum(kept) AS kept, sum(stock_outs) AS stock_outs
    FROM (
        SELECT * FROM told
        UNION ALL
        SELECT site_id, month + n::integer - 1, 0, 0, outs[n + 1] - outs[n], 0, begun[n]
        FROM low, generate_series(1, 31) n
        WHERE outs[n + 1] <> outs[n] OR begun[n] > 0
        UNION ALL -- before its first day a SKU is not out of stock but not there
        SELECT site_id, since, 0, 0, n, n, out FROM first_days
        UNION ALL
        SELECT site_id, date_trunc('month', %(since)s::date)::date - 1,
            sum(k.change) - coalesce((
                SELECT sum(d.change) FROM read_models.stock_site_days d
                WHERE d.organisation_id = %(organisation_id)s AND d.site_id = k.site_id
                  AND d.day >= date_trunc('month', %(since)s::date)::date
            ), 0), 0,
            count(*) FILTER (WHERE k.available - coalesce(m.change, 0) <= 0
                AND k.since < date_trunc('month', %(since)s::date)::date),
            count(*) FILTER (WHERE k.since < date_trunc('month', %(since)s::date)::date), 0
        FROM kept k LEFT JOIN (
            SELECT site_id, sku, sum(change) AS change FROM months GROUP BY site_id, sku
        ) m USING (site_id, sku)
        GROUP BY site_id
    ) daily
    WHERE day <= %(last)s GROUP BY 1, 2 LIMIT %(most)s
) t"""
_STOCK_SCHEMA = {
    "site_id": pl.String(),
    "day": pl.Date(),
    "change": pl.Float64(),
    "used": pl.Float64(),
    "out": pl.Int64(),
    "kept": pl.Int64(),
    "stock_outs": pl.Int64(),
}


class TooMuch(ValueError):
    """A report would have more rows than anybody reads."""


@dataclass(frozen=True, slots=True)
class Period:
    """Days from the first to the last, both included."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many days it has."""
        return (self.last - self.first).days + 1

    @property
    def before(self) -> Period:
        """The period of the same length that ends the day before."""
        return Period(self.first - timedelta(days=self.days), self.first - timedelta(days=1))


@dataclass(frozen=True, slots=True)
class Only:
    """What is summed; None: everything."""

    site_id: str | None = None
    customer_id: str | None = None
    currency: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have one value."""
        return tuple(name for name in _FILTERS if getattr(self, name) is not None)


class _Sums(Row):
    name: str
    rows: list[dict[str, Any]]


@cache
def _query(
    tables: Sequence[str], groups: Sequence[str], only: Sequence[str], bucket: Bucket
) -> str:
    return "\nUNION ALL\n".join(
        _stock(groups) if table == "stock_days" else _plain(table, groups, only, bucket)
        for table in tables
    )


def _stock(groups: Sequence[str]) -> str:
    return _STOCK.format(site="site_id" if "site_id" in groups else "''")


def _plain(table: str, groups: Sequence[str], only: Sequence[str], bucket: Bucket) -> str:
    keys = [name for name in _TABLES[table].row_types if name in groups]
    filters = "".join(
        f" AND {name} = %({_FILTERS[name]})s" for name in only if name in _TABLES[table].row_types
    )
    sums = ", ".join(f"sum({name}) AS {name}" for name in summed(table))
    dims = "".join(f", {name}" for name in keys)
    return f"""SELECT '{table}' AS name, coalesce(jsonb_agg(t), '[]') AS rows FROM (
    SELECT {_BUCKETS[bucket]} AS day, day < %(first)s::date AS before{dims}, {sums}
    FROM read_models.{table}
    WHERE organisation_id = %(organisation_id)s
      AND day BETWEEN %(since)s::date AND %(last)s::date{filters}
    GROUP BY 1, 2{dims} LIMIT %(most)s
) t"""


@cache
def summed(table: str) -> tuple[str, ...]:
    """The columns of a table that some KPI is made of."""
    of_it = [kpi for kpi in KPIS.values() if table in (kpi.table, kpi.client_table)]
    names = {name for kpi in of_it for name in kpi.columns}
    declared = _TABLES[table]
    return tuple(name for name in (*declared.columns, *declared.computed) if name in names)


async def sums(
    read: ReadModels,
    tables: Collection[str],
    period: Period,
    *,
    groups: Sequence[str] = (),
    only: Only = Only(),
    bucket: Bucket = "day",
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Of each table the summed rows of a period, and those of the period before.

    Args:
        read: the read models.
        tables: their names.
        period: the days.
        groups: columns that are kept apart, in tables that have them.
        only: what is summed.
        bucket: what days are put together to; those of stock stay days.

    Raises:
        TooMuch: it would be more than MOST_ROWS rows.
    """
    names = tuple(sorted(tables))
    query = _query(names, tuple(sorted(groups)), only.columns, bucket)
    found = await read.rows(
        _Sums,
        query,
        since=period.before.first,
        first=period.first,
        last=period.last,
        at_site=only.site_id,
        of_client=only.customer_id,
        in_currency=only.currency,
        most=MOST_ROWS + 1,
    )
    return {one.name: _frames(one, period, groups) for one in found}


def _frames(
    found: _Sums, period: Period, groups: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    if len(found.rows) > MOST_ROWS:
        kept = [name for name in ("site_id", "customer_id", "currency") if name in groups]
        raise TooMuch(
            f"{found.name} from {period.before.first} to {period.last}, the period before with it, "
            f"by {', '.join(['time', *kept])} is more than {MOST_ROWS:,} rows, which a report is "
            "made of at the most: ask by week or month instead of day, for a shorter period (from, "
            "to), for one of many (site_id, customer_id), or by fewer things"
        )
    rows = [row | {"day": date.fromisoformat(row["day"])} for row in found.rows]
    if found.name == "stock_days":
        daily = pl.DataFrame(rows, schema=_STOCK_SCHEMA)
        days = dense(daily, period.before.first, period.last)
        before = pl.col("day") < period.first
        return days.filter(~before), days.filter(before)
    table = _TABLES[found.name]
    keys = {name: pl.String() for name in table.row_types if name in groups}
    columns = {
        name: pl.Int64() if table.row_types[name].is_integer() else pl.Float64()
        for name in summed(found.name)
    }
    schema = {"day": pl.Date(), "before": pl.Boolean(), **keys, **columns}
    frame = pl.DataFrame(rows, schema=schema)
    return frame.filter(~pl.col("before")), frame.filter("before")
