"""Forecasts: how much of what was asked for where, and what was foretold of it."""

from __future__ import annotations

import polars as pl
from polars import col

from domain.forecasts import ForecastMade
from domain.inventory import StockPicked
from projections.fold import count, last, total
from projections.table import Table

#: What left the shelf on each day: as long as the shelf was not empty, that is what was wanted.
DEMAND_DAYS = Table(
    name="demand_days",
    key={
        StockPicked: {
            "site_id": col("site_id"),
            "sku": col("sku"),
            "day": pl.coalesce("picked_at", "recorded_at").dt.date(),
        }
    },
    columns={"demand": total({StockPicked: "quantity"}), "picks": count(StockPicked)},
)

#: The last forecast of each stock.
FORECAST_LIST = Table(
    name="forecast_list",
    key={ForecastMade: ("site_id", "sku")},
    columns={
        "version": last({ForecastMade: "version"}),
        "forecasts": count(ForecastMade),
        "from_day": last(
            {ForecastMade: col("state").str.json_path_match("$.from_day").str.to_date()}
        ),
        "horizon_days": last({ForecastMade: "horizon_days"}),
        "method": last({ForecastMade: "method"}),
        "technique": last({ForecastMade: "technique"}),
        "total": last({ForecastMade: "total"}),
        "total_low": last({ForecastMade: "total_low"}),
        "total_high": last({ForecastMade: "total_high"}),
        "sentence": last({ForecastMade: "sentence"}),
        "made_by": last({ForecastMade: "made_by"}),
        "made_at": last({ForecastMade: "made_at"}),
        "made": last({ForecastMade: "state"}, json=True),
    },
    indexes=(("sku",),),
)

TABLES: tuple[Table, ...] = (DEMAND_DAYS, FORECAST_LIST)
