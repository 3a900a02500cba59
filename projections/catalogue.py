"""Every read model by name."""

from __future__ import annotations

from collections.abc import Mapping

from projections import (
    api_keys,
    audit,
    decisions,
    inventory,
    kpis,
    models,
    orders,
    organisations,
    people,
    policies,
    tasks,
    transport,
    webhooks,
)
from projections.table import Table

TABLES: Mapping[str, Table] = {
    table.name: table
    for area in (
        orders,
        inventory,
        transport,
        decisions,
        models,
        policies,
        tasks,
        people,
        webhooks,
        organisations,
        api_keys,
        kpis,
        audit,
    )
    for table in area.TABLES
}
