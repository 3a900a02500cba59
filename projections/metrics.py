"""Metrics: figures that people and machines record, as they hold now."""

from __future__ import annotations

from polars import lit

from domain.metrics import MetricCorrected, MetricRecorded, MetricWithdrawn
from projections.fold import count, first, last
from projections.table import Table

_ALL = (MetricRecorded, MetricCorrected, MetricWithdrawn)

METRIC_LIST = Table(
    name="metric_list",
    key=dict.fromkeys(_ALL, ("metric_id",)),
    columns={
        "version": last(dict.fromkeys(_ALL, "version")),
        "name": first({MetricRecorded: "name"}),
        "value": last({MetricRecorded: "value", MetricCorrected: "value"}),
        "unit": last({MetricRecorded: "unit", MetricCorrected: "unit"}),
        "measured_at": last({MetricRecorded: "measured_at", MetricCorrected: "measured_at"}),
        "site_id": first({MetricRecorded: "site_id"}),
        "client_id": first({MetricRecorded: "client_id"}),
        "vehicle_id": first({MetricRecorded: "vehicle_id"}),
        "sku": first({MetricRecorded: "sku"}),
        "source": first({MetricRecorded: "source"}),
        "recorded_by": first({MetricRecorded: "actor"}),
        "corrections": count(MetricCorrected),
        "correction_reason": last({MetricCorrected: "reason"}),
        "is_withdrawn": last({MetricRecorded: lit(False), MetricWithdrawn: lit(True)}),
        "withdrawal_reason": last({MetricWithdrawn: "reason"}),
    },
    indexes=(("name", "measured_at", "metric_id"), ("measured_at", "metric_id")),
)

TABLES: tuple[Table, ...] = (METRIC_LIST,)
