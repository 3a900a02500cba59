"""Simulations: scenarios as they are listed. Runs are tasks, and listed as such."""

from __future__ import annotations

import polars as pl
from polars import col, lit

from domain.simulations import ScenarioGenerated, ScenarioRetired
from domain.values import Event
from projections.fold import first, last
from projections.table import Table

_EVENTS: tuple[type[Event], ...] = (ScenarioGenerated, ScenarioRetired)

SCENARIO_LIST = Table(
    name="scenario_list",
    key=dict.fromkeys(_EVENTS, ("scenario_id",)),
    columns={
        "version": last(dict.fromkeys(_EVENTS, "version")),
        "name": first({ScenarioGenerated: "name"}),
        "seed": first({ScenarioGenerated: "seed"}),
        "horizon_days": first({ScenarioGenerated: "horizon_days"}),
        "sample_days": first({ScenarioGenerated: "sample_days"}),
        "kinds": first(
            {
                ScenarioGenerated: col("disturbances")
                .list.eval(pl.element().struct.field("kind"))
                .list.unique(maintain_order=True)
                .list.join(",")
            }
        ),
        "generated": first({ScenarioGenerated: "state"}, json=True),
        "generated_by": first({ScenarioGenerated: "generated_by"}),
        "generated_at": first({ScenarioGenerated: "generated_at"}),
        "retired": last({ScenarioGenerated: lit(False), ScenarioRetired: lit(True)}),
        "retired_at": last({ScenarioRetired: "retired_at"}),
        "retire_reason": last({ScenarioRetired: "reason"}),
    },
)

TABLES: tuple[Table, ...] = (SCENARIO_LIST,)
