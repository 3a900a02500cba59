"""KPIs: what each is made of, declared once, and their arithmetic on finished rows.

A KPI is an expression over sums, so any grouping of its table's rows is a sum and then the
expression: over days, weeks, sites, clients, in the log as it is, as of any moment, or in a branch.
docs/kpis.md says each formula in words, with its source and a case worked by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import polars as pl
from polars import col, lit, when

from projections.kpi_stock import stock_days
from projections.kpis import LEAD_TIME_DAYS, lead_column

Unit = Literal["share", "days", "count", "per_year", "minor_units", "grams", "units"]

#: The columns that rows can be grouped by, and how each is made of a finished row.
GROUPS: Mapping[str, pl.Expr] = {
    "day": col("day"),
    "week": col("day").dt.truncate("1w").alias("week"),
    "month": col("day").dt.truncate("1mo").alias("month"),
    "site": col("site_id"),
    "client": col("customer_id"),
    "currency": col("currency"),
    "kind": col("kind"),
}
_ANY_DAY = ("day", "week", "month")
_OF_ORDERS = (*_ANY_DAY, "site", "currency")
_OF_CLIENTS = (*_OF_ORDERS, "client")
_OF_SITES = (*_ANY_DAY, "site")
_OF_COSTS = (*_ANY_DAY, "site", "currency")
#: Where clients' rows are, by where those of all are.
_BY_CLIENT = {
    "order_kpis": "client_kpis",
    "tour_days": "client_tour_days",
    "decision_days": "client_decisions",
}


@dataclass(frozen=True, slots=True, eq=False)
class Kpi:
    """One KPI.

    Attributes:
        name, title: for machines and for people.
        unit: of its value. Amounts in minor units are never summed over currencies.
        better: whether people want it high or low.
        table: the read model whose rows it is made of.
        value: the figure, from columns that were summed; null where it says nothing.
        formula: the same in words.
        source: where the definition comes from.
        groups: what it can be grouped by (names of ``GROUPS``).
    """

    name: str
    title: str
    unit: Unit
    better: Literal["higher", "lower"]
    table: str
    value: pl.Expr
    formula: str
    source: str
    groups: tuple[str, ...]

    @property
    def client_table(self) -> str | None:
        """The read model of the same columns that can be told by client, if there is one."""
        return _BY_CLIENT[self.table] if "client" in self.groups else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are summed."""
        return tuple(dict.fromkeys(self.value.meta.root_names()))


def _share(part: pl.Expr, of: pl.Expr) -> pl.Expr:
    return when(of > 0).then(part.cast(float) / of.cast(float))


def _quantile(tenths: int) -> pl.Expr:
    """A quantile of lead times in days from their histogram, linear within a bucket. The last
    bucket has no end: a quantile that falls there is told as its beginning."""
    everything = sum((col(lead_column(end)) for end in LEAD_TIME_DAYS), start=lit(0)) + col(
        lead_column(None)
    )
    below: pl.Expr = lit(0)
    found: list[pl.Expr] = []
    start = 0
    for end in LEAD_TIME_DAYS:
        here = col(lead_column(end))
        inside = (everything * tenths / 10 - below) / here
        reached = (below + here) * 10 >= everything * tenths
        found.append(when(reached & (here > 0)).then(inside * (end - start) + start))
        below, start = below + here, end
    return when(everything > 0).then(pl.coalesce(*found, lit(float(start))))


_SCOR = "SCOR 12.0 (APICS)"
_ALL = (
    Kpi(
        "otif",
        "On time, in full",
        "share",
        "higher",
        "order_kpis",
        _share(col("on_time_in_full"), col("delivered_timed")),
        "delivered orders that came by the first promise with every unit ordered / delivered "
        "orders whose time is known",
        f"{_SCOR}, RL.2.1 and RL.2.2 together; against the first promise",
        _OF_CLIENTS,
    ),
    Kpi(
        "late_share",
        "Late share",
        "share",
        "lower",
        "order_kpis",
        _share(col("late"), col("delivered_timed")),
        "orders delivered after the first promise / delivered orders whose time is known",
        f"{_SCOR}, 1 - RL.2.2 Delivery performance to customer commit date",
        _OF_CLIENTS,
    ),
    Kpi(
        "fill_rate_line",
        "Fill rate by line",
        "share",
        "higher",
        "order_kpis",
        _share(col("lines_filled"), col("lines_ordered")),
        "lines that were whole in the order's first shipment / lines ordered, of orders delivered",
        "APICS Dictionary, fill rate (customer service ratio), by line",
        _OF_CLIENTS,
    ),
    Kpi(
        "fill_rate_order",
        "Fill rate by order",
        "share",
        "higher",
        "order_kpis",
        _share(col("orders_filled"), col("orders_known")),
        "orders delivered that were whole in their first shipment / orders delivered",
        "APICS Dictionary, order fill rate",
        _OF_CLIENTS,
    ),
    Kpi(
        "fill_rate_unit",
        "Fill rate by unit",
        "share",
        "higher",
        "order_kpis",
        _share(col("units_filled"), col("units_ordered")),
        "units in the order's first shipment / units ordered, of orders delivered",
        "APICS Dictionary, fill rate by unit",
        _OF_CLIENTS,
    ),
    Kpi(
        "lead_time",
        "Order lead time, mean",
        "days",
        "lower",
        "order_kpis",
        when(col("lead_timed") > 0).then(col("lead_s") / col("lead_timed") / 86_400),
        "sum of (delivered - placed) / delivered orders whose time is known, in days of 24 hours",
        f"{_SCOR}, RS.1.1 Order fulfillment cycle time",
        _OF_CLIENTS,
    ),
    Kpi(
        "lead_time_p90",
        "Order lead time, 90th percentile",
        "days",
        "lower",
        "order_kpis",
        _quantile(9),
        "nine of ten orders were delivered within it; from a histogram of whole days, linear "
        "within a bucket",
        f"{_SCOR}, RS.1.1, as a percentile",
        _OF_ORDERS,
    ),
    Kpi(
        "stock_outs",
        "Stock-outs",
        "count",
        "lower",
        "stock_days",
        col("stock_outs"),
        "times that a SKU at a site ended a day with nothing available, after a day with some",
        "APICS Dictionary, stockout; counted at the end of days (UTC)",
        _OF_SITES,
    ),
    Kpi(
        "stock_out_days",
        "Days stocked out",
        "days",
        "lower",
        "stock_days",
        col("out_days"),
        "SKU days with nothing available at the end of the day, of SKUs that were stocked before",
        "APICS Dictionary, stockout",
        _OF_SITES,
    ),
    Kpi(
        "stock_out_share",
        "Share of days stocked out",
        "share",
        "lower",
        "stock_days",
        _share(col("out_days"), col("kept_days")),
        "SKU days stocked out / SKU days",
        "APICS Dictionary, stockout percentage",
        _OF_SITES,
    ),
    Kpi(
        "days_on_hand",
        "Days on hand",
        "days",
        "lower",
        "stock_days",
        when(col("used") > 0).then(col("unit_days").cast(float) / col("used").cast(float)),
        "average stock at the end of days / average units used a day",
        f"{_SCOR}, AM.2.2 Inventory days of supply; in units, as the log knows no cost of goods",
        _OF_SITES,
    ),
    Kpi(
        "inventory_turns",
        "Inventory turns",
        "per_year",
        "higher",
        "stock_days",
        when(col("unit_days") > 0).then(
            col("used").cast(float) * 365 / col("unit_days").cast(float)
        ),
        "365 x units used / unit days in stock: how often a year the average stock is used up",
        "APICS Dictionary, inventory turnover; annualised, in units",
        _OF_SITES,
    ),
    Kpi(
        "cost_per_order",
        "Cost per order, as decided",
        "minor_units",
        "lower",
        "decided_costs",
        when(col("orders") > 0).then(col("cost_minor") / col("orders")),
        "cost of the chosen candidates / fulfilment decisions with a choice, in minor units",
        f"{_SCOR}, CO.1.1 Total supply chain management cost, the part of shipping",
        _OF_COSTS,
    ),
    Kpi(
        "carbon_per_order",
        "Carbon per order, as decided",
        "grams",
        "lower",
        "decided_costs",
        when(col("orders") > 0).then(col("carbon_g") / col("orders")),
        "g of CO2e of the chosen candidates / fulfilment decisions with a choice",
        "GHG Protocol, Scope 3 category 9 (downstream transport), per order",
        _OF_COSTS,
    ),
    Kpi(
        "tour_cost_per_order",
        "Cost per order, as driven",
        "minor_units",
        "lower",
        "tour_days",
        when(col("orders") > 0).then(col("cost_minor") / col("orders")),
        "cost of the tours that came back / orders that they handed over, in minor units",
        f"{_SCOR}, CO.1.1 Total supply chain management cost, the part of delivery",
        _OF_CLIENTS,
    ),
    Kpi(
        "tour_carbon_per_order",
        "Carbon per order, as driven",
        "grams",
        "lower",
        "tour_days",
        when(col("carbon_orders") > 0).then(col("carbon_g") / col("carbon_orders")),
        "g of CO2e of the tours that came back and whose emissions are known / orders that they "
        "handed over",
        "ISO 14083 and GLEC Framework, emission intensity per delivery",
        _OF_CLIENTS,
    ),
    Kpi(
        "vehicle_use_weight",
        "Vehicle use by weight",
        "share",
        "higher",
        "tour_days",
        _share(col("weight_g"), col("max_weight_g")),
        "weight loaded / weight that the vehicles may carry, over tours whose vehicles' is known",
        f"{_SCOR}, AM.1 Asset utilisation; load factor by weight at departure",
        _OF_COSTS,
    ),
    Kpi(
        "vehicle_use_volume",
        "Vehicle use by volume",
        "share",
        "higher",
        "tour_days",
        _share(col("volume_cm3"), col("max_volume_cm3")),
        "volume loaded / volume that the vehicles hold, over tours of which both are known",
        f"{_SCOR}, AM.1 Asset utilisation; load factor by volume at departure",
        _OF_COSTS,
    ),
    Kpi(
        "tours_per_vehicle_day",
        "Tours per vehicle and day",
        "count",
        "higher",
        "tour_days",
        when(col("vehicle_days") > 0).then(col("tours") / col("vehicle_days")),
        "tours that came back / days on which a vehicle came back from one, summed over vehicles",
        "Fleet utilisation: trips per vehicle day",
        _OF_COSTS,
    ),
    Kpi(
        "decision_acceptance",
        "Decision acceptance",
        "share",
        "higher",
        "decision_days",
        _share(col("made") - col("overridden"), col("made")),
        "1 - decisions that people overrode / decisions made; each on the day that it happened, "
        "by client on the day of an order's first decision",
        "Share of recommendations accepted; 1 - override rate",
        (*_ANY_DAY, "site", "client", "kind"),
    ),
    Kpi(
        "decision_followed",
        "Decisions followed",
        "share",
        "higher",
        "decision_days",
        _share(col("followed"), col("outcomes")),
        "outcomes of decisions whose choice is what was done / outcomes recorded",
        "Share of recommendations acted upon",
        (*_ANY_DAY, "kind"),
    ),
)

#: Every KPI by its name.
KPIS: Mapping[str, Kpi] = {kpi.name: kpi for kpi in _ALL}


def figures(kpi: Kpi, rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """A KPI's figures: the summed columns and ``value``, a row for each group, sorted.

    Args:
        kpi: which.
        rows: finished rows of its table, those of the period (``day_rows``).
        by: names of ``GROUPS``; none: one row for everything. Amounts of money are by currency,
            too.
    """
    if kpi.unit == "minor_units" and "currency" not in by:
        by = (*by, "currency")
    groups = [GROUPS[name] for name in by]
    sums = [col(name).sum() for name in kpi.columns]
    if groups:
        summed = rows.group_by(*groups).agg(sums)
        summed = summed.sort(summed.columns[: len(groups)])
    else:
        summed = rows.select(sums)
    return summed.with_columns(kpi.value.cast(float).alias("value"))


def day_rows(table: str, rows: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """The rows of a period (both ends included) that ``figures`` can sum, from all finished rows of
    one organisation up to its end."""
    if table == "stock_days":
        return stock_days(rows, first, last)
    return rows.filter(col("day").is_between(first, last))
