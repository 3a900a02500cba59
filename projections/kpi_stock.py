"""Days of stock: what is there, and what has run out, at the end of each day, from what moved."""

from __future__ import annotations

from datetime import date

import polars as pl
from polars import col, lit


def stock_days(moves: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """For each day of a period and each site: ``unit_days`` (units in stock at its end), ``used``,
    ``stock_outs``, ``out_days`` and ``kept_days`` (SKUs without stock, and all, at its end).

    Args:
        moves: finished rows of ``stock_days`` of one organisation, all up to the end of the period.
    """
    at_sku = ["site_id", "sku"]
    levels = (
        moves.filter(col("day") <= last)
        .sort(*at_sku, "day")
        .with_columns(
            available=col("available_change").cum_sum().over(at_sku),
            new=col("day") == col("day").min().over(at_sku),
        )
        .with_columns(out=col("available") <= 0)
        .with_columns(was_out=col("out").shift(1).over(at_sku).fill_null(False))
    )
    daily = levels.group_by("site_id", "day").agg(
        col("change").sum(),
        col("used").sum(),
        (col("out").cast(pl.Int64) - col("was_out").cast(pl.Int64)).sum().alias("out"),
        col("new").sum().cast(pl.Int64).alias("kept"),
        (col("out") & ~col("was_out")).sum().cast(pl.Int64).alias("stock_outs"),
    )
    return dense(daily, first, last)


def dense(daily: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """Every day of a period for each site, from daily changes of what is in stock (``change``), of
    how many SKUs are out (``out``) and of how many are kept (``kept``), all since the beginning."""
    opening = (
        daily.filter(col("day") < first)
        .group_by("site_id")
        .agg(col("change").sum(), col("out").sum(), col("kept").sum())
        .with_columns(day=lit(first), used=lit(0), stock_outs=lit(0))
    )
    days = pl.DataFrame({"day": pl.date_range(first, last, eager=True)})
    inside = pl.concat(
        [daily.filter(col("day").is_between(first, last)), opening], how="diagonal_relaxed"
    )
    changed = inside.group_by("site_id", "day").agg(pl.all().sum())
    return (
        changed.select("site_id")
        .unique()
        .join(days, how="cross")
        .join(changed, on=["site_id", "day"], how="left")
        .with_columns(pl.col("change", "out", "kept", "used", "stock_outs").fill_null(0))
        .sort("site_id", "day")
        .select(
            "day",
            "site_id",
            col("change").cum_sum().over("site_id").alias("unit_days"),
            "used",
            "stock_outs",
            col("out").cum_sum().over("site_id").alias("out_days"),
            col("kept").cum_sum().over("site_id").alias("kept_days"),
        )
    )
