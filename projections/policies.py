"""Policies: when people take over decisions of a kind, its alert thresholds, its stop switch."""

from __future__ import annotations

from polars import lit

from domain.policies import KindResumed, KindStopped, PolicySet
from projections.fold import last
from projections.table import Table

POLICY_LIST = Table(
    name="policy_list",
    key=dict.fromkeys((PolicySet, KindStopped, KindResumed), ("kind",)),
    columns={
        "version": last(dict.fromkeys((PolicySet, KindStopped, KindResumed), "version")),
        "policy": last({PolicySet: "state"}, json=True),
        "set_by": last({PolicySet: "set_by"}),
        "set_at": last({PolicySet: "set_at"}),
        "stopped": last({KindStopped: lit(True), KindResumed: lit(False)}),
        "stopped_by": last({KindStopped: "stopped_by"}),
        "stopped_reason": last({KindStopped: "reason"}),
        "stopped_at": last({KindStopped: "stopped_at"}),
    },
)

TABLES = (POLICY_LIST,)
